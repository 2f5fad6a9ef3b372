"""Golden files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


class Golden:
    """The golden files and what they must be read as."""

    def __init__(self) -> None:
        self.expected: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_bytes())
        self.version_id = bytes.fromhex(self.expected["version"]["id"])
        self.pack_id = bytes.fromhex(self.expected["pack"]["id"])
        self.store_id = self.bytes_of(self.expected["store_id"])

    @staticmethod
    def bytes_of(text: str) -> bytes:
        """The bytes behind `text:...` or `hex:...`."""
        kind, _, value = text.partition(":")
        return bytes.fromhex(value) if kind == "hex" else value.encode()

    def read(self, name: str) -> bytes:
        """A golden file; the parts of the store by what they are."""
        names = {
            "store.json": "store/store.json",
            "version": f"store/versions/{self.version_id.hex()}",
            "ref": "store/images/example/ref",
            "locate": f"store/locate/{self.version_id.hex()}",
            "pack": f"store/packs/{self.pack_id.hex()}.pack",
            "index": f"store/packs/{self.pack_id.hex()}.idx",
            "torrent": f"store/packs/{self.pack_id.hex()}.torrent",
        }
        return (GOLDEN / names.get(name, name)).read_bytes()


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()

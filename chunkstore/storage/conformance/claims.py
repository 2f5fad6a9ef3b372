"""What the checks of contracts are written with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from chunkstore.errors import ChunkstoreError, NotFound
from chunkstore.storage.backend import Reader

BAD_NAMES: Final = (
    "",
    "/",
    "/packs/a",
    "packs/",
    "packs//a",
    "packs/../a",
    "..",
    "packs/.",
    "packs/.new-1",
    "packs/a\0",
    "packs/a\n",
    "packs/a b",
    "packs/a\\b",
    "packs/\udcff",
    "packs/%2e%2e/a",
    "packs/a?b",
    "local/keys",
    "packs/" + "a" * 256,
    "/".join(["a"] * 600),
)
"""No place may take these for objects: they lead outside, or can't be written everywhere."""

THREADS: Final = 8


def expect(holds: bool, contract: str) -> None:
    """Raise `AssertionError` with the contract unless it holds."""
    if not holds:
        raise AssertionError(contract)


def raised(action: Callable[[], object]) -> Exception | None:
    """The declared error that an action ends with, None when it does well; others pass."""
    try:
        action()
    except ChunkstoreError as error:
        return error
    return None


def expect_raises(
    kinds: type[ChunkstoreError] | tuple[type[ChunkstoreError], ...],
    action: Callable[[], object],
    contract: str,
) -> Exception:
    """The same, and that it is one of these."""
    error = raised(action)
    if not isinstance(error, kinds):
        raise AssertionError(f"{contract}; got {error!r}") from error
    return error


def fresh() -> str:
    """A prefix nobody has used."""
    return f"conformance-{os.urandom(6).hex()}/"


def noise(length: int) -> bytes:
    """Bytes that nothing stores by chance."""
    return os.urandom(length)


def whole(reader: Reader, name: str) -> bytes:
    """All of an object."""
    return reader.get(name, 0, reader.size(name))


def absent(reader: Reader, name: str) -> bool:
    """Whether there is no such object."""
    return isinstance(raised(lambda: reader.get(name, 0, 1)), NotFound)

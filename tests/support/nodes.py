"""Manifest nodes in memory, and nodes so small that few entries make a deep tree."""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

from chunkstore.objects import manifest
from chunkstore.objects.digest import chunk_digest


class Nodes(dict):
    """Manifest nodes by digest; counts loads and keeps what was saved."""

    def __init__(self, *others: dict) -> None:
        super().__init__()
        for other in others:
            self.update(other)
        self.loaded: list[bytes] = []
        self.saved: list[bytes] = []

    def save(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self[digest] = data
        self.saved.append(digest)
        return digest

    def load(self, digest: bytes) -> bytes:
        self.loaded.append(digest)
        return self[digest]


def small_nodes() -> ExitStack:
    """Trees that grow deep with few entries."""
    stack = ExitStack()
    for name, value in {"MIN_NODE": 150, "MAX_NODE": 900, "CUT_MASK": 3}.items():
        stack.enter_context(patch.object(manifest, name, value))
    return stack

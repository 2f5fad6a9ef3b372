"""Entries, manifest nodes in memory, and nodes so small that few entries make a deep tree."""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

from chunkstore.objects import manifest
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import DIRECTORY, FILE, SYMLINK, Entry

ROOT = Entry(b"", DIRECTORY, 0o755, 0, 0, 0)
KINDS = {FILE: 6, DIRECTORY: 0, SYMLINK: 0}


def entry_at(path: bytes, kind: int, mark: int) -> Entry:
    content = {
        FILE: RECORD.pack(bytes([mark]) * 32, 6) * (1 + mark),
        DIRECTORY: b"",
        SYMLINK: b"to/%d" % mark,
    }[kind]
    size = 6 * (1 + mark) if kind == FILE else 0
    return Entry(path, kind, 0o644, mark, 0, mark, size, content)


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

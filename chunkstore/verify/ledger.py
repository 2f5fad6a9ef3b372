"""What a verification remembers: subtrees found whole, and which packs spoilt which chunks.

Tables in a temporary SQLite file, so that memory does not grow with the store. A subtree is whole
only together with what its reference says of it, so that is remembered too: the next reference to
it is compared, and the subtree need not be opened again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

_SCHEMA: Final = """
CREATE TABLE whole (digest BLOB PRIMARY KEY, level INTEGER, length INTEGER, entries INTEGER,
    size INTEGER, first BLOB, last BLOB, homes BLOB) WITHOUT ROWID;
CREATE TABLE whole_list (digest BLOB PRIMARY KEY, level INTEGER, size INTEGER, homes BLOB)
    WITHOUT ROWID;
CREATE TABLE spoilt (digest BLOB, pack BLOB, PRIMARY KEY (digest, pack)) WITHOUT ROWID;
"""


class WholeTree(NamedTuple):
    """A manifest subtree in which nothing is missing: what references say of it, and more.

    `last` is the sort key of the last path in it. `homes` has a bit for each set of packs that
    some chunk in it lies in.
    """

    level: int
    length: int
    entries: int
    size: int
    first: bytes
    last: bytes
    homes: int


class WholeList(NamedTuple):
    """A list node, all that is below it being there: its level, and the file bytes it covers."""

    level: int
    size: int
    homes: int


class Ledger:
    """The tables, in a temporary file without a name."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._run = self._database.execute
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
            self._run(f"PRAGMA {pragma}")
        self._run("BEGIN")
        for statement in _SCHEMA.split(";"):
            self._run(statement)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def clear_trees(self) -> None:
        """Forget which subtrees are whole."""
        self._run("DELETE FROM whole")
        self._run("DELETE FROM whole_list")

    def spoil(self, pack: bytes, digests: Iterable[bytes]) -> None:
        """These chunks, and no others, are damaged or lost in this pack."""
        self._run("DELETE FROM spoilt WHERE pack = ?", (pack,))
        self._database.executemany(
            "INSERT OR IGNORE INTO spoilt VALUES (?, ?)", ((digest, pack) for digest in digests)
        )

    def spoilt_in(self, digest: bytes) -> list[bytes]:
        """The packs that should have this chunk."""
        rows = self._run("SELECT pack FROM spoilt WHERE digest = ? ORDER BY pack", (digest,))
        return [pack for (pack,) in rows]

    def node(self, digest: bytes) -> WholeTree | None:
        """What is known of a manifest node."""
        row = self._run("SELECT * FROM whole WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else WholeTree._make((*row[1:-1], _bits(row[-1])))

    def add_node(self, digest: bytes, tree: WholeTree) -> None:
        """A manifest node and all below it are whole."""
        row = (digest, *tree[:-1], _blob(tree.homes))
        self._run("INSERT OR REPLACE INTO whole VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def list_node(self, digest: bytes) -> WholeList | None:
        """What is known of a list node."""
        row = self._run("SELECT * FROM whole_list WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else WholeList._make((*row[1:-1], _bits(row[-1])))

    def add_list_node(self, digest: bytes, whole: WholeList) -> None:
        """A list node and all below it are whole."""
        row = (digest, *whole[:-1], _blob(whole.homes))
        self._run("INSERT OR REPLACE INTO whole_list VALUES (?, ?, ?, ?)", row)


def _blob(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _bits(blob: bytes) -> int:
    return int.from_bytes(blob, "little")

"""The census: which chunks are needed, which packs have them, and which pack is to keep each.

Tables in a temporary SQLite file, because an image farm has more chunks than fit into memory.
Packs are small numbers here. Nothing of this outlives one collection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from chunkstore.objects.pack import Index

_SCHEMA: Final = """
CREATE TABLE node (digest BLOB PRIMARY KEY, homes BLOB) WITHOUT ROWID;
CREATE TABLE chunk (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE,
    is_node INTEGER NOT NULL, home INTEGER);
CREATE TABLE copy (pack INTEGER, chunk INTEGER, length INTEGER NOT NULL,
    PRIMARY KEY (pack, chunk)) WITHOUT ROWID;
"""
_BATCH: Final = 500


class Share(NamedTuple):
    """What a pack is to keep: raw bytes, and the number of the chunk that came to be last."""

    size: int
    newest: int


class Move(NamedTuple):
    """A chunk on its way to another pack."""

    digest: bytes
    length: int
    is_node: bool


class Census:
    """One collection's figures, in a temporary file without a name."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._run = self._database.execute
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-32768"):
            self._run(f"PRAGMA {pragma}")
        self._run("BEGIN")
        for statement in _SCHEMA.split(";"):
            self._run(statement)

    def __enter__(self) -> Census:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    # What is needed

    def enter(self, node: bytes) -> bool:
        """Whether this node comes by for the first time."""
        return self._run("INSERT OR IGNORE INTO node (digest) VALUES (?)", (node,)).rowcount == 1

    def need(self, digests: Iterable[bytes], *, are_nodes: bool) -> None:
        """These chunks are needed. They are numbered in the order they first come by."""
        self._database.executemany(
            "INSERT OR IGNORE INTO chunk (digest, is_node) VALUES (?, ?)",
            ((digest, are_nodes) for digest in digests),
        )

    # Who has it

    def take_stock(self, pack: int, index: Index) -> None:
        """Note which needed chunks this pack has."""
        self._database.executemany(
            "INSERT OR IGNORE INTO copy SELECT ?, number, ? FROM chunk WHERE digest = ?",
            ((pack, length, digest) for digest, _, _, length in index.places()),
        )

    def sizes(self) -> dict[int, int]:
        """The raw bytes of needed chunks each pack has, whoever else has them."""
        return dict(self._run("SELECT pack, sum(length) FROM copy GROUP BY pack"))

    def claim(self, pack: int) -> None:
        """Make this pack the home of all needed chunks in it that have none yet."""
        self._run(
            "UPDATE chunk SET home = ?1 WHERE home IS NULL AND number IN "
            "(SELECT chunk FROM copy WHERE pack = ?1)",
            (pack,),
        )

    def homeless(self) -> int:
        """How many needed chunks no pack has."""
        count: int = self._run("SELECT count(*) FROM chunk WHERE home IS NULL").fetchone()[0]
        return count

    def shares(self) -> dict[int, Share]:
        """What each pack is to keep, for those that are the home of anything."""
        rows = self._run(
            "SELECT home, sum(length), max(number) FROM chunk JOIN copy "
            "ON copy.pack = chunk.home AND copy.chunk = chunk.number GROUP BY home"
        )
        return {home: Share(size, newest) for home, size, newest in rows}

    # Moving

    def moves(self, packs: Collection[int]) -> Iterator[Move]:
        """The chunks these packs are the home of, in the order of their numbers."""
        rows = self._run(
            "SELECT digest, length, is_node FROM chunk JOIN copy "
            "ON copy.pack = chunk.home AND copy.chunk = chunk.number "
            f"WHERE home IN ({','.join(str(int(pack)) for pack in packs)}) ORDER BY number"
        )
        for digest, length, is_node in rows:
            yield Move(digest, length, bool(is_node))

    def move(self, pack: int, index: Index) -> None:
        """What this new pack has is at home there from now on."""
        self.take_stock(pack, index)
        self._run(
            "UPDATE chunk SET home = ?1 WHERE number IN (SELECT chunk FROM copy WHERE pack = ?1)",
            (pack,),
        )

    # Which packs a subtree needs, as a bit for each

    def homes(self, digests: Iterable[bytes]) -> int:
        """The packs that are home to any of these chunks."""
        found = 0
        rest = iter(digests)
        while batch := list(islice(rest, _BATCH)):
            marks = ",".join("?" * len(batch))
            query = f"SELECT DISTINCT home FROM chunk WHERE digest IN ({marks})"
            for (home,) in self._run(query, batch):
                found |= 1 << home
        return found

    def homes_below(self, node: bytes) -> int | None:
        """What was noted for this node."""
        row = self._run("SELECT homes FROM node WHERE digest = ?", (node,)).fetchone()
        return None if row is None or row[0] is None else int.from_bytes(row[0], "little")

    def note_homes_below(self, node: bytes, homes: int) -> None:
        """Note the packs that a node and all below it need."""
        blob = homes.to_bytes((homes.bit_length() + 7) // 8, "little")
        self._run("UPDATE node SET homes = ? WHERE digest = ?", (blob, node))

"""The catalog: from a chunk's digest to its place, for all packs it has learnt.

A cache in SQLite and nothing else: whatever it says is checked by digest when the chunk is read,
and deleting it loses nothing, because every pack carries its own index. A store keeps one for its
packs, a node one for the packs it has heard of. Damage is met by starting again from nothing.

One thread uses a catalog. Memory is SQLite's page cache, whatever the number of chunks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from chunkstore.errors import LocalError
from chunkstore.objects.pack import Index

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE pack (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE frame (number INTEGER PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    stored INTEGER NOT NULL, raw INTEGER NOT NULL, codec INTEGER NOT NULL);
CREATE TABLE chunk (digest BLOB PRIMARY KEY, frame INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL) WITHOUT ROWID;
"""
_BATCH: Final = 500
_SELECT: Final = """
SELECT chunk.digest, pack.id, frame.offset, frame.stored, frame.raw, frame.codec,
    chunk.offset, chunk.length
FROM chunk JOIN frame ON frame.number = chunk.frame JOIN pack ON pack.number = frame.pack
WHERE chunk.digest IN (%s)
"""
_SELECT_PACKS: Final = """
SELECT chunk.digest, pack.id
FROM chunk JOIN frame ON frame.number = chunk.frame JOIN pack ON pack.number = frame.pack
WHERE chunk.digest IN (%s)
"""


class FramePlace(NamedTuple):
    """A frame: its pack, where it lies there, and how it is stored."""

    pack: bytes
    offset: int
    stored: int
    raw: int
    codec: int


class Place(NamedTuple):
    """A chunk: its frame, and where it lies in the frame's raw bytes."""

    frame: FramePlace
    offset: int
    length: int


class Catalog:
    """Learns indexes, answers where chunks lie. `path` None keeps it in memory."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        try:
            self._open()
        except sqlite3.DatabaseError:
            self.reset()

    def _open(self) -> None:
        try:
            self._database = sqlite3.connect(self._path or ":memory:", isolation_level=None)
        except sqlite3.OperationalError as error:
            raise LocalError(f"can't open the catalog {self._path}: {error}") from error
        # A write-ahead log without a sync per transaction may lose the last packs learnt in a
        # power cut, which are then learnt again, but never leaves a page half written.
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute("PRAGMA cache_size=-32768")
        self._database.execute("PRAGMA busy_timeout=60000")
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found != _SCHEMA_VERSION:
            self._create()
        self._packs = {row[0] for row in self._database.execute("SELECT id FROM pack")}

    def _create(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        for table in ("pack", "frame", "chunk"):
            self._database.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in _SCHEMA.split(";"):
            self._database.execute(statement)
        self._database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        self._database.execute("COMMIT")

    def reset(self) -> None:
        """Forget everything, and get rid of a damaged file."""
        self.close()
        if self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(self._path + suffix)
        self._open()

    def close(self) -> None:
        """Close the database; the catalog can't be used afterwards."""
        with suppress(AttributeError, sqlite3.Error):
            self._database.close()

    @property
    def packs(self) -> frozenset[bytes]:
        """The packs whose index it has learnt."""
        return frozenset(self._packs)

    def learn(self, pack: bytes, index: Index) -> None:
        """Take in the index of a pack. Chunks it knew elsewhere keep their place."""
        if pack in self._packs:
            return
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        try:
            number = run("INSERT INTO pack (id) VALUES (?)", (pack,)).lastrowid
            first = run("SELECT coalesce(max(number), 0) + 1 FROM frame").fetchone()[0]
            self._database.executemany(
                "INSERT INTO frame VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (first + position, number, frame.offset, frame.stored, frame.raw, frame.codec)
                    for position, frame in enumerate(index.frames)
                ),
            )
            self._database.executemany(
                "INSERT OR IGNORE INTO chunk VALUES (?, ?, ?, ?)",
                (
                    (digest, first + frame, offset, length)
                    for digest, frame, offset, length in index.places()
                ),
            )
            run("COMMIT")
        except sqlite3.IntegrityError:
            # Another process has learnt the same pack in the meantime.
            run("ROLLBACK")
        except BaseException:
            if self._database.in_transaction:
                run("ROLLBACK")
            raise
        self._packs.add(pack)

    def forget(self, packs: Collection[bytes]) -> None:
        """Drop all places in these packs."""
        if not packs:
            return
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        for pack in packs:
            row = run("SELECT number FROM pack WHERE id = ?", (pack,)).fetchone()
            if row is not None:
                run(
                    "DELETE FROM chunk WHERE frame IN (SELECT number FROM frame WHERE pack = ?)",
                    row,
                )
                run("DELETE FROM frame WHERE pack = ?", row)
                run("DELETE FROM pack WHERE number = ?", row)
        run("COMMIT")
        self._packs.difference_update(packs)

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """Where the chunks lie that it knows of; the others are left out."""
        found: dict[bytes, Place] = {}
        frames: dict[tuple[bytes, int], FramePlace] = {}
        rest = iter(digests)
        while batch := list(islice(rest, _BATCH)):
            marks = ",".join("?" * len(batch))
            for row in self._database.execute(_SELECT % marks, batch):
                digest, pack, frame_offset, stored, raw, codec, offset, length = row
                frame = frames.get((pack, frame_offset))
                if frame is None:
                    frame = FramePlace(pack, frame_offset, stored, raw, codec)
                    frames[pack, frame_offset] = frame
                found[digest] = Place(frame, offset, length)
        return found

    def packs_of(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """The pack of each of the chunks it knows; the others are left out."""
        found: dict[bytes, bytes] = {}
        rest = iter(digests)
        while batch := list(islice(rest, _BATCH)):
            marks = ",".join("?" * len(batch))
            found.update(self._database.execute(_SELECT_PACKS % marks, batch))
        return found

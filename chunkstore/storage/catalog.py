"""The catalog: from a chunk's digest to its place, for all packs it has learnt.

A cache in SQLite and nothing else: whatever it says is checked by digest when the chunk is read,
and deleting it loses nothing, because every pack carries its own index. A store keeps one for its
packs, a node one for the packs it has heard of. Damage is met by starting again from nothing, and
a file that can't be used, on a full disk for example, by going on in memory: no verb fails for
lack of a cache.

One thread uses a catalog; several processes may share its file. Memory is SQLite's page cache,
whatever the number of chunks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

from chunkstore.database import Trouble, is_damage, local_error, transaction
from chunkstore.errors import LocalError, local_errors
from chunkstore.objects.codec import MAX_FRAME
from chunkstore.objects.pack import Index

_SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE pack (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE frame (number INTEGER PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    stored INTEGER NOT NULL, raw INTEGER NOT NULL, codec INTEGER NOT NULL);
CREATE TABLE chunk (digest BLOB NOT NULL, frame INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, PRIMARY KEY (digest, frame)) WITHOUT ROWID;
"""
_BATCH: Final = 500
_SELECT: Final = """
SELECT chunk.digest, pack.id, frame.offset, frame.stored, frame.raw, frame.codec,
    chunk.offset, chunk.length
FROM chunk JOIN frame ON frame.number = chunk.frame JOIN pack ON pack.number = frame.pack
WHERE chunk.digest IN (%s)
"""
_SELECT_PACKS: Final = """
SELECT chunk.digest, pack.id, chunk.length
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


def _is_possible(frame: FramePlace) -> bool:
    """Whether an index could say so: SQLite keeps any type anywhere, and vouches for no byte."""
    numbers = frame[1:]
    return (
        type(frame.pack) is bytes
        and all(type(number) is int for number in numbers)
        and frame.offset >= 0
        and 0 < frame.stored <= frame.raw <= MAX_FRAME
    )


class Catalog:
    """Learns indexes, answers where chunks lie.

    `path` None keeps it in memory, an empty one in a temporary file that goes when it is closed:
    that is no cache, and methods raise `LocalError` when there is no room for it. A chunk may lie
    in several packs, so that forgetting one pack leaves the others' places. Who is `alone` with the
    file needs no memory shared with others, for which a full disk has no room: the system ends a
    process that writes to such memory. `notice` is told when the file turns out to be of no use.
    """

    def __init__(
        self,
        path: str | None,
        *,
        alone: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._path = path
        self._alone = alone
        self._notice = notice
        try:
            self._open()
        except Trouble as error:
            self._start_again(error)

    def _open(self) -> None:
        where = ":memory:" if self._path is None else self._path
        self._database = sqlite3.connect(where, isolation_level=None)
        # A write-ahead log without a sync per transaction may lose the last packs learnt in a
        # power cut, which are then learnt again, but never leaves a page half written.
        if self._alone:
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
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

    def _start_again(self, error: Exception) -> None:
        """Know nothing, in a new file if this one is damaged, else in memory.

        A file that another process has open must not be taken from under it for being locked.
        Raises `LocalError` where there is no file to do without.
        """
        if not self._path:
            raise local_error(error, "can't keep the catalog", "") from error
        self.close()
        try:
            if not is_damage(error):
                raise error
            self._tell(f"the catalog {self._path} is damaged: making a new one")
            with local_errors("going on without a catalog"):
                for suffix in ("", "-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(self._path + suffix)
            self._open()
        except Trouble as refusal:
            self._go_on_in_memory(local_error(refusal, "going on without a catalog", self._path))
        except LocalError as refusal:
            self._go_on_in_memory(refusal)

    def _go_on_in_memory(self, reason: LocalError) -> None:
        self._tell(str(reason))
        self.close()
        self._path = None
        self._open()

    def _tell(self, what: str) -> None:
        if self._notice is not None:
            self._notice(what)

    def close(self) -> None:
        """Close the database; the catalog can't be used afterwards."""
        with suppress(AttributeError, *Trouble):
            self._database.close()

    @property
    def packs(self) -> frozenset[bytes]:
        """The packs whose index it has learnt."""
        return frozenset(self._packs)

    def _change(self, action: Callable[[], None]) -> None:
        """Do it at once or not at all; when the file is of no use, again on an empty one."""
        try:
            with transaction(self._database):
                action()
        except sqlite3.IntegrityError:
            raise
        except Trouble as error:
            self._start_again(error)
            with transaction(self._database):
                action()

    def learn(self, pack: bytes, index: Index, *, without: Collection[bytes] = ()) -> None:
        """Take in the index of a pack, all of it but the chunks named by `without`."""
        if pack in self._packs:
            return
        # An integrity error says that another process has learnt the same pack in the meantime.
        with suppress(sqlite3.IntegrityError):
            self._change(lambda: self._insert(pack, index, without))
        self._packs.add(pack)

    def _insert(self, pack: bytes, index: Index, without: Collection[bytes] = ()) -> None:
        run = self._database.execute
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
                if digest not in without
            ),
        )

    def forget(self, packs: Collection[bytes]) -> None:
        """Drop all places in these packs."""
        if not packs:
            return
        self._change(lambda: self._delete(packs))
        self._packs.difference_update(packs)

    def _delete(self, packs: Collection[bytes]) -> None:
        run = self._database.execute
        run("CREATE TEMPORARY TABLE gone (number INTEGER PRIMARY KEY)")
        self._database.executemany(
            "INSERT INTO gone SELECT number FROM pack WHERE id = ?", ((pack,) for pack in packs)
        )
        # One pass over the chunks, which are in the order of their digests, for all packs.
        run(
            "DELETE FROM chunk WHERE frame IN "
            "(SELECT number FROM frame WHERE pack IN (SELECT number FROM gone))"
        )
        run("DELETE FROM frame WHERE pack IN (SELECT number FROM gone)")
        run("DELETE FROM pack WHERE number IN (SELECT number FROM gone)")
        run("DROP TABLE gone")

    def rebuild(self, contents: Iterable[tuple[bytes, Index]]) -> None:
        """Know these packs and no other, at once: another process sees the old state or the new."""
        learnt = set()
        try:
            with transaction(self._database):
                for table in ("chunk", "frame", "pack"):
                    self._database.execute(f"DELETE FROM {table}")
                for pack, index in contents:
                    self._insert(pack, index)
                    learnt.add(pack)
        except Trouble as error:
            # It knows nothing now, and whoever misses something has it learn again.
            self._start_again(error)
        else:
            self._packs = learnt

    def _rows(self, query: str, digests: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
        rest = iter(digests)
        while batch := list(islice(rest, _BATCH)):
            try:
                rows = self._database.execute(query % ",".join("?" * len(batch)), batch).fetchall()
            except Trouble as error:
                # It knows nothing now: a reader learns again, a writer stores once more.
                self._start_again(error)
                return
            yield from rows

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """Where the chunks lie that it knows of; the others are left out."""
        found: dict[bytes, Place] = {}
        frames: dict[tuple[bytes, int], FramePlace] = {}
        for row in self._rows(_SELECT, digests):
            digest, pack, frame_offset, stored, raw, codec, offset, length = row
            frame = frames.get((pack, frame_offset))
            if frame is None:
                frame = FramePlace(pack, frame_offset, stored, raw, codec)
                if not _is_possible(frame):
                    return self._found_damage()
                frames[pack, frame_offset] = frame
            if not type(offset) is type(length) is int:
                return self._found_damage()
            found[digest] = Place(frame, offset, length)
        return found

    def _found_damage(self) -> dict[bytes, Place]:
        """Start again over rows no index has; nothing is known then."""
        self._start_again(sqlite3.DatabaseError("rows that nobody wrote"))
        return {}

    def packs_of(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """A pack of each of the chunks it knows; the others are left out.

        Only packs this object has learnt count. Another process may have put one into the shared
        file that `gc` has given up since, and a writer must not rely on that.
        """
        rows = self._rows(_SELECT_PACKS, digests)
        return {digest: pack for digest, pack, _ in rows if pack in self._packs}

    def holders(self, digests: Iterable[bytes]) -> dict[bytes, tuple[int, set[bytes]]]:
        """Length and packs of each of the chunks it knows; the others are left out."""
        found: dict[bytes, tuple[int, set[bytes]]] = {}
        for digest, pack, length in self._rows(_SELECT_PACKS, digests):
            found.setdefault(digest, (length, set()))[1].add(pack)
        return found

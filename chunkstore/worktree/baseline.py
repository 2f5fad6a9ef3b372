"""The baseline: what the system said of each file when it was put there, to tell what changed here.

A row per path, kept in SQLite beside the node's state: the marks of its status, which any change
to content or metadata moves. A cache and nothing else: a path without a row, or with another, is
compared byte by byte with what the image had there. Losing the file, or the last rows in a power
cut, costs that reading and never a file of the node's own.

Directories have no row: their times move whenever something in them does.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from chunkstore import fsio
from chunkstore.database import Trouble
from chunkstore.objects.entry import BLOCK, CHARACTER, DEVICE, FILE, KIND_OF_FORMAT, SYMLINK, Entry
from chunkstore.objects.manifest import Load
from chunkstore.objects.names import sort_key
from chunkstore.worktree.compare import same_content

_MARKS: Final = struct.Struct("<QQQQIII")
_INODE: Final = 8
"""So many bytes of the marks say which file it is."""
_WORD: Final = 2**64 - 1
"""Some file systems hold times outside of what a signed number of 64 bits can say."""
_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = "CREATE TABLE mark (key BLOB PRIMARY KEY, marks BLOB NOT NULL) WITHOUT ROWID"
_BATCH: Final = 2000


def marks(status: os.stat_result) -> bytes:
    """What of a status any change would move."""
    return _MARKS.pack(
        status.st_ino,
        status.st_ctime_ns & _WORD,
        status.st_mtime_ns & _WORD,
        status.st_size,
        status.st_mode,
        status.st_uid,
        status.st_gid,
    )


class Baseline:
    """The rows of one tree. `path` None keeps none; then everything is compared by content."""

    def __init__(self, path: str | None, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._fresh: dict[bytes, bytes | None] = {}
        self._database = self._open()

    def _open(self) -> sqlite3.Connection | None:
        if self._path is None:
            return None
        if self._read_only:
            with suppress(*Trouble):
                database = sqlite3.connect(f"file:{quote(self._path)}?mode=ro", uri=True)
                if database.execute("PRAGMA user_version").fetchone()[0] == _SCHEMA_VERSION:
                    return database
            return None
        for _ in range(2):
            with suppress(*Trouble):
                database = sqlite3.connect(self._path, isolation_level=None)
                # Without a sync: what a power cut takes is compared by content.
                database.execute("PRAGMA synchronous=OFF")
                # Who has the node's lock is alone with it: locking and looking for the changes of
                # others would take most of the time of a question, and there is one per file.
                database.execute("PRAGMA locking_mode=EXCLUSIVE")
                if database.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
                    database.execute("DROP TABLE IF EXISTS mark")
                    database.execute(_SCHEMA)
                    database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
                return database
            with suppress(OSError):
                os.unlink(self._path)
        return None

    def note(self, path: bytes, status: os.stat_result) -> None:
        """What stands at `path` now is the image's."""
        self._fresh[path] = marks(status)
        self._flush_if_full()

    def forget(self, path: bytes) -> None:
        """Nothing of the image's stands at `path` any more."""
        self._fresh[path] = None
        self._flush_if_full()

    def is_as_noted(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the status is the one that was noted; nothing can have changed then."""
        return self._row(path) == marks(status)

    def is_same_file(self, path: bytes, status: os.stat_result) -> bool:
        """Whether it is the very file that was noted, whatever was done to it since."""
        row = self._row(path)
        return row is not None and row[:_INODE] == marks(status)[:_INODE]

    def _row(self, path: bytes) -> bytes | None:
        if path in self._fresh:
            return self._fresh[path]
        if self._database is None:
            return None
        try:
            row = self._database.execute(
                "SELECT marks FROM mark WHERE key = ?", (sort_key(path),)
            ).fetchone()
        except Trouble:
            self._give_up()
            return None
        return None if row is None else row[0]

    def _flush_if_full(self) -> None:
        if len(self._fresh) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write out what was noted; a file that can't be written is given up."""
        if self._database is not None and not self._read_only:
            kept = [(sort_key(path), row) for path, row in self._fresh.items() if row is not None]
            gone = [(sort_key(path),) for path, row in self._fresh.items() if row is None]
            try:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT OR REPLACE INTO mark VALUES (?, ?)", kept)
                self._database.executemany("DELETE FROM mark WHERE key = ?", gone)
                self._database.execute("COMMIT")
            except Trouble:
                self._give_up()
        self._fresh.clear()

    def _give_up(self) -> None:
        """Go on without rows; whatever is left of the file is wrong about nothing it says."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def close(self) -> None:
        """Write out and close."""
        self.flush()
        self._give_up()


class Witness:
    """Tells what is the image's from what is the node's own.

    `known` gives the entries the image may have put at a path: usually the one of the installed
    version, none where it had nothing.
    """

    def __init__(
        self, baseline: Baseline, known: Callable[[bytes], Iterable[Entry]], load: Load
    ) -> None:
        self.baseline = baseline
        self.known = known
        self.load = load

    def is_ours(
        self, path: bytes, folder: int, name: bytes, status: os.stat_result, *more: Entry
    ) -> bool:
        """Whether what stands at `path` holds what the image put there, or what `more` says.

        Metadata is not looked at: what was only given another mode here loses nothing.
        """
        if self.baseline.is_as_noted(path, status):
            return True
        return any(
            holds(folder, name, status, entry, self.load) for entry in (*more, *self.known(path))
        )

    def may_dress(self, path: bytes, descriptor: int, entry: Entry) -> bool:
        """Whether the open file is the image's, so that it may be given other metadata.

        A file that came here since, and has another name somewhere, may be one that is none of
        ours: whoever owns a directory can link to what lies outside of the tree.
        """
        status = os.fstat(descriptor)
        if self.baseline.is_as_noted(path, status):
            return True
        if is_linked_from_elsewhere(self.baseline, entry, status):
            return False
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == entry.size
            and same_content(descriptor, entry, self.load)
        )


def is_linked_from_elsewhere(baseline: Baseline, entry: Entry, status: os.stat_result) -> bool:
    """Whether a file has other names and is not the one that was put there, or its group's."""
    if status.st_nlink == 1 or baseline.is_same_file(entry.path, status):
        return False
    return not (entry.link and baseline.is_same_file(entry.link, status))


def holds(folder: int, name: bytes, status: os.stat_result, entry: Entry, load: Load) -> bool:
    """Whether the thing at `name` in an open directory is of the entry's kind and content."""
    if KIND_OF_FORMAT.get(status.st_mode & 0o170000) != entry.kind:
        return False
    try:
        if entry.kind == SYMLINK:
            return os.readlink(name, dir_fd=folder) == entry.content
        if entry.kind in (CHARACTER, BLOCK):
            numbers = DEVICE.pack(os.major(status.st_rdev), os.minor(status.st_rdev))
            return numbers == entry.content
        if entry.kind == FILE:
            if status.st_size != entry.size:
                return False
            descriptor = fsio.open_file(folder, name)
            try:
                return same_content(descriptor, entry, load)
            finally:
                os.close(descriptor)
    except OSError:
        return False
    return True

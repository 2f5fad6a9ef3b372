"""A tree that members are laid into, kept on disk: entries come sorted, members do not.

A table of paths in entry order, each leading to an inode, so that names of one file are told from
copies of it whatever becomes of the others. It lives in a file of its own (SQLite, without a
journal: whoever was interrupted begins anew) and is gone when it is closed.

Promises: a path is only ever put into a directory; taking one away takes all below it away. Memory
is the cache of the database, and afterwards a number per file with several names.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from chunkstore import fsio
from chunkstore.database import database_errors
from chunkstore.errors import Corrupt
from chunkstore.objects.entry import DIRECTORY, Entry
from chunkstore.objects.names import is_below, printable, sort_key, split
from chunkstore.objects.record import decode, encode

IMPLICIT_MODE: Final = 0o755
_MAX_IMPLICIT: Final = 65536
"""Directories no member speaks of, beyond four for each member: a deep path costs its writer less
than it costs us."""
_SCHEMA: Final = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -32768;
    CREATE TABLE inodes (id INTEGER PRIMARY KEY, kind INTEGER, shared INTEGER, record BLOB);
    CREATE TABLE paths (key BLOB PRIMARY KEY, inode INTEGER, layer INTEGER) WITHOUT ROWID;
"""


class Tree:
    """A context manager: the table is made in `folder`, and removed at the end.

    What is put belongs to `layer`, which only grows: whiteouts concern the layers before. Methods
    raise `Corrupt` for what no tree could be, `LocalError` when there is no more space.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, fsio.fresh_name("tree"))
        with database_errors("can't make a table of paths", self._path):
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.executescript(_SCHEMA)
        self._do("BEGIN")
        self._inodes = 0
        self._members = 0
        self._implicit = 0
        self._inside: bytes | None = None
        self.layer = 0

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        with suppress(OSError):
            os.unlink(self._path)

    def _do(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with database_errors("can't write the table of paths", self._path):
            return self._database.execute(statement, values)

    def _inode(self, path: bytes) -> tuple[int, int] | None:
        """The inode at a path and its kind."""
        row: tuple[int, int] | None = self._do(
            "SELECT inode, kind FROM paths JOIN inodes ON id = inode WHERE key = ?",
            (sort_key(path),),
        ).fetchone()
        return row

    def kind(self, path: bytes) -> int | None:
        """What is at a path."""
        found = self._inode(path)
        return None if found is None else found[1]

    def put(self, entry: Entry) -> None:
        """Lay an entry into its place, in which it follows what was there.

        A directory keeps what is in it. Directories on the way that are missing are made, with the
        entry's time.
        """
        path = entry.path
        self._members += 1
        if path:
            self._enter(split(path)[0], entry.mtime)
        self._insert(path, entry)

    def _place(self, path: bytes, inode: int, *, keep: bool) -> None:
        row = (sort_key(path), inode, self.layer)
        if self._do("INSERT OR IGNORE INTO paths VALUES (?, ?, ?)", row).rowcount:
            return
        if not (keep and self.kind(path) == DIRECTORY):
            self.remove(path)
        self._do("INSERT OR REPLACE INTO paths VALUES (?, ?, ?)", row)

    def _enter(self, folder: bytes, mtime: int) -> None:
        """Make sure that a directory is there to be put into."""
        if folder == self._inside:
            return
        missing = []
        above = folder
        while (kind := self.kind(above)) is None:
            missing.append(above)
            if not above:
                break
            above = split(above)[0]
        if kind not in (None, DIRECTORY):
            where = printable(above)
            raise Corrupt(f"{where}: is no directory, but a member lies below it", where=where)
        self._implicit += len(missing)
        if self._implicit > _MAX_IMPLICIT + 4 * self._members:
            where = printable(folder)
            raise Corrupt(f"{where}: too many directories no member speaks of", where=where)
        for path in reversed(missing):
            self._insert(path, Entry(b"", DIRECTORY, IMPLICIT_MODE, 0, 0, mtime))
        self._inside = folder

    def _insert(self, path: bytes, entry: Entry) -> None:
        self._inodes += 1
        record = encode(entry._replace(path=b"", link=b""))
        self._do("INSERT INTO inodes VALUES (?, ?, 0, ?)", (self._inodes, entry.kind, record))
        self._place(path, self._inodes, keep=entry.kind == DIRECTORY)

    def link(self, path: bytes, target: bytes, mtime: int) -> None:
        """Give what is at `target` a further name."""
        self._members += 1
        found = self._inode(target)
        if found is not None and found[1] == DIRECTORY and path and path == target:
            return  # GNU tar finds that it is there already, and goes on
        if found is None or found[1] == DIRECTORY:
            where = printable(path)
            reason = "is not there (yet)" if found is None else "is a directory"
            raise Corrupt(
                f"{where}: is a hardlink to {printable(target)}, which {reason}", where=where
            )
        inode = found[0]
        if not path:
            raise Corrupt("the root is a hardlink")
        self._enter(split(path)[0], mtime)
        self._do("UPDATE inodes SET shared = 1 WHERE id = ?", (inode,))
        self._place(path, inode, keep=False)
        # What made room may have held the other name.
        if self._inode(target) is None:
            raise Corrupt(f"{printable(path)}: takes the place of what it is a hardlink to")

    @property
    def is_empty(self) -> bool:
        """Whether not even the root is there."""
        return self.kind(b"") is None

    def clear(self) -> None:
        """Take everything away."""
        self._inside = None
        self._do("DELETE FROM paths")
        self._do("DELETE FROM inodes")

    def remove(self, path: bytes, *, below: bool = False, before: int | None = None) -> None:
        """Take a path away with all it holds, or only what is `below` it; of layers `before` one.

        It need not be there.
        """
        self._inside = None
        key = sort_key(path)
        condition = "" if before is None else f" AND layer < {before:d}"
        if not below:
            self._do(f"DELETE FROM paths WHERE key = ?{condition}", (key,))
        first, last = _range(key)
        self._do(f"DELETE FROM paths WHERE key > ? AND key < ?{condition}", (first, last))

    def names(self, folder: bytes) -> Iterator[tuple[bytes, int]]:
        """The names in a directory, and what they are."""
        key = sort_key(folder)
        at, last = _range(key)
        start = len(at) if key else 0
        while True:
            row = self._do(
                "SELECT key, kind FROM paths JOIN inodes ON id = inode "
                "WHERE key > ? AND key < ? ORDER BY key LIMIT 1",
                (at, last),
            ).fetchone()
            if row is None:
                return
            name = row[0][start:].partition(b"\0")[0]
            yield name, row[1]
            at = row[0][:start] + name + b"\1"

    def rename(self, old: bytes, new: bytes) -> None:
        """Move a directory, and all it holds, to where nothing is."""
        where = printable(old)
        if self.kind(old) is None:
            raise Corrupt(f"{where}: was renamed, but is not there", where=where)
        if self.kind(new) is not None or is_below(new, old):
            raise Corrupt(f"{where}: can't be renamed to {printable(new)}", where=where)
        self._enter(split(new)[0], 0)
        self._inside = None
        key = sort_key(old)
        first, last = _range(key)
        change = "UPDATE paths SET key = CAST(? || substr(key, ?) AS BLOB) WHERE key "
        values = (sort_key(new), len(key) + 1)
        self._do(change + "= ?", (*values, key))
        self._do(change + "> ? AND key < ?", (*values, first, last))

    def entries(self) -> Iterator[Entry]:
        """All entries in path order, as a manifest has them."""
        leaders: dict[int, bytes] = {}
        around = [b""]
        is_first = True
        rows = self._do(
            "SELECT key, inode, shared, record FROM paths JOIN inodes ON id = inode ORDER BY key"
        )
        for key, inode, shared, record in rows:
            path = key.replace(b"\0", b"/")
            entry = Entry._make(decode(record, "table of paths"))
            if path:
                folder = split(path)[0]
                while around and around[-1] != folder:
                    around.pop()
            if not around or is_first != (not path) or (is_first and entry.kind != DIRECTORY):
                where = printable(path)
                raise Corrupt(f"{where}: what holds it is no directory", where=where)
            is_first = False
            if path and entry.kind == DIRECTORY:
                around.append(path)
            link = leaders.setdefault(inode, path) if shared else path
            yield entry._replace(path=path, link=link if link != path else b"")


def _range(key: bytes) -> tuple[bytes, bytes]:
    """What the keys of all that is below a path lie between."""
    return (key + b"\0", key + b"\1") if key else (b"", b"\xff" * 256)

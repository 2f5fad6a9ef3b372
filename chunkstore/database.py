"""SQLite's errors in our own words: which file, the system's reason, and whether it is damage.

SQLite says "database or disk is full" and "unable to open database file" of no file in particular,
and keeps the system's error number to itself. Here its code is turned back into one, so that a full
disk is told, and met by the caller, as it is everywhere else.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from chunkstore.errors import Conflict, LocalError

Trouble = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second where its message would quote a damaged table's name."""
_DAMAGE: Final = {
    # A table that is missing, and text that is none, are plain errors and come from damage, too.
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_TOOBIG,
}
_IN_USE: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_ROOM: Final = 256 << 10
"""Bytes below which a failed write is taken for a full disk: SQLite does not say."""


def is_damage(error: Exception) -> bool:
    """Whether the file holds what no database of ours does, rather than the system refusing."""
    return _code(error) in _DAMAGE


def local_error(error: Exception, what: str, path: str) -> LocalError:
    """`LocalError("<what>: <reason> (<path>)")` for anything but damage, with the system's number.

    `path` is the database, empty for one in a temporary file. `Conflict` when somebody else has it.
    """
    number = _system_error(error, path)
    where = path or "a temporary file, in $TMPDIR or /var/tmp"
    if number == errno.EBUSY:
        return Conflict(f"{what}: another process has it ({where}): try again later", errno=number)
    return LocalError(f"{what}: {os.strerror(number)} ({where})", errno=number)


@contextmanager
def database_errors(what: str, path: str = "") -> Iterator[None]:
    """Turn what SQLite raises inside into `LocalError`: for tables that only this process has."""
    try:
        yield
    except Trouble as error:
        raise local_error(error, what, path) from error


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Everything done inside counts at its end, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            # What can't be written may not be taken back either; the next who opens it does that.
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
        raise


def _code(error: Exception) -> int:
    if isinstance(error, sqlite3.ProgrammingError):
        # Used by two threads, or after it was closed: a fault of ours, and no news of the file.
        raise error
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def _system_error(error: Exception, path: str) -> int:
    """The error number of the system call that failed, as well as it can be told afterwards."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return errno.ENOSPC
    if code in _IN_USE:
        return errno.EBUSY
    if code == sqlite3.SQLITE_READONLY:
        return errno.EROFS if _is_read_only(path) else errno.EACCES
    if code in (sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return errno.EACCES
    if code == sqlite3.SQLITE_CANTOPEN:
        return _why_not_opened(path)
    # Synchronising a file and making shared memory larger fail so, too, when the disk is full.
    return errno.ENOSPC if _is_full(path) else errno.EIO


def _why_not_opened(path: str) -> int:
    """Open it once more to be told why; what that makes is removed again."""
    is_new = not os.path.lexists(path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        if is_new:
            os.unlink(path)
    except OSError as error:
        return error.errno or errno.EIO
    # The file can be opened, so it is what lies beside it: the journal, which may need an inode.
    return errno.ENOSPC if _is_full(path) else errno.EACCES


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _is_full(path: str) -> bool:
    try:
        there = os.statvfs(path if os.path.exists(path) else os.path.dirname(path))
    except OSError:
        return False
    return there.f_bavail * there.f_frsize < _ROOM or (there.f_files > 0 and there.f_favail == 0)

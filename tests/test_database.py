"""SQLite's errors in our words: each provoked in a real file, and told as the system tells it."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support import trees

from chunkstore.database import database_errors, is_damage, local_error, transaction
from chunkstore.errors import Conflict, LocalError


@pytest.fixture
def small(place: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    trees.mount_tmpfs(place / "small", "size=200k,nr_inodes=20")
    return place / "small"


def fill(database: sqlite3.Connection, *, size: int = 1 << 20) -> None:
    database.execute("CREATE TABLE IF NOT EXISTS t (x)")
    database.execute("INSERT INTO t VALUES (?)", (bytes(size),))


def make(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        fill(database, size=10)


def caught(action: Callable[[], object]) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as raised:
        action()
    return raised.value


def told(error: sqlite3.Error, path: Path) -> LocalError:
    assert not is_damage(error)
    return local_error(error, "can't do it", str(path))


def is_told(error: sqlite3.Error, path: Path, number: int) -> None:
    assert str(told(error, path)) == f"can't do it: {os.strerror(number)} ({path})"
    assert told(error, path).errno == number


@trees.needs_root
@pytest.mark.parametrize("mode", ["DELETE", "WAL", "OFF"])
def test_a_full_disk(small: Path, mode: str) -> None:
    path = small / "x.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}")
    is_told(caught(lambda: fill(database)), path, errno.ENOSPC)
    database.close()


@trees.needs_root
def test_no_inode_is_left(small: Path) -> None:
    """Neither for the file, nor for the journal beside one that is there."""
    path = small / "there.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    fill(database, size=10)
    for number in range(30):
        try:
            (small / f"{number}").touch()
        except OSError:
            break
    is_told(caught(lambda: fill(database, size=10)), path, errno.ENOSPC)
    database.close()
    other = small / "new.sqlite"
    is_told(caught(lambda: make(other)), other, errno.ENOSPC)
    assert not other.exists()


@trees.needs_root
def test_a_file_system_mounted_read_only(small: Path) -> None:
    path = small / "x.sqlite"
    make(path)
    trees.remount(small, "ro")
    database = sqlite3.connect(path, isolation_level=None)
    is_told(caught(lambda: fill(database, size=10)), path, errno.EROFS)
    database.close()
    other = small / "new.sqlite"
    is_told(caught(lambda: make(other)), other, errno.EROFS)


def test_no_such_directory(quick: Path) -> None:
    path = quick / "nowhere/x.sqlite"
    is_told(caught(lambda: make(path)), path, errno.ENOENT)


def test_a_directory_in_its_place(quick: Path) -> None:
    is_told(caught(lambda: make(quick)), quick, errno.EISDIR)


def test_a_link_in_its_place_is_not_followed_to_be_told_why(quick: Path) -> None:
    """Looking for the reason must not make a file wherever somebody's link leads."""
    path = quick / "x.sqlite"
    path.symlink_to(quick / "nowhere/target")
    told(caught(lambda: make(path)), path)
    path.unlink()
    path.symlink_to(quick / "target")
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    is_told(error, path, errno.ELOOP)
    assert not (quick / "target").exists()


def test_somebody_else_has_it(quick: Path) -> None:
    path = quick / "x.sqlite"
    one = sqlite3.connect(path, isolation_level=None)
    fill(one, size=10)
    one.execute("BEGIN EXCLUSIVE")
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    error = told(caught(lambda: fill(other, size=10)), path)
    assert isinstance(error, Conflict)
    assert str(error) == f"can't do it: another process has it ({path}): try again later"
    one.close()
    other.close()


def test_a_disk_that_fails(quick: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    is_told(error, quick / "x.sqlite", errno.EIO)


@pytest.mark.parametrize("content", [b"no database " * 400, b"\xff" * 4096])
def test_damage_is_told_apart(quick: Path, content: bytes) -> None:
    path = quick / "x.sqlite"
    path.write_bytes(content)
    assert is_damage(caught(lambda: make(path)))


def test_text_that_is_none_is_damage(quick: Path) -> None:
    database = sqlite3.connect(quick / "x.sqlite", isolation_level=None)
    error = caught(lambda: database.execute("SELECT CAST(x'ff' AS TEXT)").fetchone())
    assert is_damage(error)
    database.close()


def test_a_damaged_name_in_its_message_is_damage(quick: Path) -> None:
    """Python can't even make the error, and raises another."""
    path = quick / "x.sqlite"
    make(path)
    path.write_bytes(path.read_bytes().replace(b"tablett", b"table\xcft"))
    with pytest.raises(UnicodeDecodeError) as raised:
        make(path)
    assert is_damage(raised.value)


def test_a_table_without_a_name() -> None:
    database = sqlite3.connect("", isolation_level=None)
    database.execute("PRAGMA max_page_count=5")
    with (
        pytest.raises(LocalError, match=r"^books: No space left on device \(a temporary file, in"),
        database_errors("books"),
    ):
        fill(database)
    database.close()


def test_a_transaction_counts_whole_or_not_at_all(quick: Path) -> None:
    database = sqlite3.connect(quick / "x.sqlite", isolation_level=None)
    fill(database, size=1)
    with suppress(KeyboardInterrupt), transaction(database):
        fill(database, size=1)
        raise KeyboardInterrupt
    with transaction(database):
        fill(database, size=1)
    assert database.execute("SELECT count(*) FROM t").fetchone() == (2,)
    database.close()


def test_looking_for_the_reason_leaves_nothing_behind(quick: Path) -> None:
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    told(error, quick / "x.sqlite")
    assert list(quick.iterdir()) == []


def test_a_fault_of_ours_is_neither_damage_nor_the_systems(quick: Path) -> None:
    """A database that was closed, or is another thread's: to be heard of, not to be mended."""
    database = sqlite3.connect(quick / "x.sqlite")
    database.close()
    error = caught(lambda: database.execute("SELECT 1"))
    with pytest.raises(sqlite3.ProgrammingError):
        is_damage(error)
    with pytest.raises(sqlite3.ProgrammingError):
        local_error(error, "can't do it", "x")

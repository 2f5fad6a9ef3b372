"""A canary: things outside a tree that must stay as they are, to the time of their last change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support import trees

USER = 12_345
"""Somebody without privileges, who has files and directories of his own."""

LINKABLE = ("mine", "empty", "alike")
"""His files, which he may link to wherever he likes."""


class Status(NamedTuple):
    """What a change of whatever kind would move, even one that was undone."""

    inode: int
    mode: int
    owner: tuple[int, int]
    links: int
    size: int
    mtime: int
    ctime: int
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes
    flags: int


class Canary:
    """A directory with some of everything; `check` fails if any of it was changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        (path / "file").write_bytes(b"canary")
        (path / "setuid").write_bytes(b"#!/bin/true\n")
        (path / "setuid").chmod(0o4755)
        # What a tree has, too: there is something to hit for whoever is led here.
        (path / "sub").mkdir()
        (path / "sub/file").write_bytes(b"canary")
        (path / "same").write_bytes(b"same")
        (path / "nothing").write_bytes(b"")
        (path / "private").mkdir(0o700)
        (path / "private/key").write_bytes(b"secret")
        (path / "private/key").chmod(0o600)
        (path / "link").symlink_to("file")
        os.mkfifo(path / "fifo", 0o640)
        os.setxattr(path / "file", "user.canary", b"sings")
        for name in ("file", "private"):
            os.utime(path / name, ns=(10**18, 10**18 + 7))
        if os.geteuid() == 0:
            os.chown(path / "private", USER, USER)
            # What a local user may link to: it is his own.
            (path / "mine").write_bytes(b"his own")
            (path / "empty").write_bytes(b"")
            (path / "alike").write_bytes(b"same")
            for name in LINKABLE:
                os.chown(path / name, USER, USER)
        self.settle()

    def settle(self) -> None:
        """From now on it must not change."""
        self._before = dict(self._look())

    def _look(self) -> Iterator[tuple[str, Status]]:
        for path in (self.path, *sorted(self.path.rglob("*"))):
            status = path.lstat()
            is_file = stat.S_ISREG(status.st_mode)
            yield (
                os.path.relpath(path, self.path),
                Status(
                    status.st_ino,
                    status.st_mode,
                    (status.st_uid, status.st_gid),
                    status.st_nlink,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                    tuple(
                        (name, os.getxattr(path, name, follow_symlinks=False))
                        for name in sorted(os.listxattr(path, follow_symlinks=False))
                    ),
                    path.read_bytes() if is_file else b"",
                    trees.get_flags(path) if is_file or stat.S_ISDIR(status.st_mode) else 0,
                ),
            )

    def check(self) -> None:
        after = dict(self._look())
        assert after.keys() == self._before.keys()
        for name, status in self._before.items():
            assert after[name] == status, name

    def check_all_but_links(self) -> None:
        """The same, but others may come and go that link to a file here, which moves its ctime."""
        after = dict(self._look())
        for name, status in self._before.items():
            linked = {"links": status.links, "ctime": status.ctime}
            found = after[name]
            if name in LINKABLE:
                found = found._replace(**linked)
            assert found == status, name

    def inodes(self) -> set[int]:
        """Of all files in it: none of them may be found in a tree."""
        return {status.inode for status in self._before.values()}

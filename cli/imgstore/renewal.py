"""Renewal: a program that stays, and may be replaced by what it pulls, goes on as its new self.

Promises: nothing that was begun is cut off, since it is asked in between; whoever started the
program sees the same process. Where the new program can't be started, the old one goes on.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import chunkstore
import imgstore


class Program:
    """The files that this process was started from, as they are now."""

    def __init__(self) -> None:
        self._marks = _marks()

    def renew(self) -> None:
        """Start again with the same arguments if any of the files is another now."""
        found = _marks()
        if found == self._marks:
            return
        self._marks = found
        with suppress(OSError):
            os.execv(sys.executable, sys.orig_argv)


def _marks() -> dict[str, tuple[int, int, int]]:
    folders = (Path(package.__path__[0]) for package in (chunkstore, imgstore))
    files = [sys.executable, *(str(file) for folder in folders for file in folder.rglob("*.py"))]
    marks = {}
    for file in files:
        with suppress(OSError):
            status = os.stat(file)
            marks[file] = (status.st_dev, status.st_ino, status.st_mtime_ns)
    return marks

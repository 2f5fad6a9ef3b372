"""Writing files while the caller goes on: the bytes of large ones are written by threads.

The kernel copies a file's bytes without the interpreter's lock, and in a system's tree a few large
files hold most of them. A small file is written at once, by one call: to hand it over would cost
more. Promises: `done` is called once all bytes of a file are there, on the caller's thread; what
waits to be written is bounded, and so are the files that are open; no descriptor is closed, so that
its number becomes another file's, while a thread may still write to it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

from chunkstore import fsio
from chunkstore.storage.threads import Threads
from chunkstore.worktree import restore
from chunkstore.worktree.restore import Content

if TYPE_CHECKING:
    from concurrent.futures import Future

LARGE: Final = 128 * 1024
"""Bytes of the smallest file that threads write."""
MAX_WAITING: Final = 8 * 1024 * 1024
"""Bytes that wait to be written: they hold the frames they came in."""
_MAX_OPEN: Final = 64
_THREADS: Final = 2

Done = Callable[[int], None]
"""Told the descriptor of a file that has its bytes; it is closed afterwards."""


class _Piece(NamedTuple):
    """Bytes on their way into a file."""

    future: Future[None]
    size: int


class _Open(NamedTuple):
    """A file whose bytes are on their way, and how many pieces had to be written before."""

    descriptor: int
    last: int
    done: Done


class Writers:
    """Makes files. A context manager: at its end all are complete, or something was raised."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS, "writers")
        self._pieces: deque[_Piece] = deque()
        self._files: deque[_Open] = deque()
        self._waiting = 0
        self._begun = 0
        self._written = 0

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._threads.close()
            while self._files:
                with suppress(OSError):
                    os.close(self._files.popleft().descriptor)

    def make(self, folder: int, name: bytes, content: Content, size: int, done: Done) -> None:
        """Create a file that must not be there yet, and have it written. Raises `OSError`.

        `done` is called now, or while later ones are made, or by `finish`. `content` is taken
        now, and its bytes must stay as they are.
        """
        if size < LARGE:
            descriptor = restore.make_file(folder, name, content, size)
            try:
                done(descriptor)
            finally:
                os.close(descriptor)
            return
        descriptor = restore.make_file(folder, name, (), 0)
        try:
            self._write(descriptor, content, size)
        except BaseException:
            # A thread may be writing to it: closed when those have come to an end.
            self._files.append(_Open(descriptor, self._begun, done))
            raise
        self._files.append(_Open(descriptor, self._begun, done))
        self._settle(MAX_WAITING)

    def finish(self) -> None:
        """Wait until all that was made is complete. Raises `OSError`."""
        self._settle(0)

    def _write(self, descriptor: int, content: Content, size: int) -> None:
        has_hole = False
        for data, offset in restore.gathered(content):
            if data is None:
                has_hole = True
            else:
                self._hand_over(descriptor, data, offset)
        if has_hole:
            os.ftruncate(descriptor, size)

    def _hand_over(self, descriptor: int, buffers: list[bytes | memoryview], offset: int) -> None:
        count = sum(map(len, buffers))
        future = self._threads.submit(fsio.write_many, descriptor, buffers, offset)
        self._pieces.append(_Piece(future, count))
        self._begun += 1
        self._waiting += count
        while self._waiting > MAX_WAITING:
            self._wait()

    def _wait(self) -> None:
        piece = self._pieces.popleft()
        piece.future.result()
        self._waiting -= piece.size
        self._written += 1

    def _settle(self, most: int) -> None:
        """Complete files until no more than so many bytes wait, and those that are written."""
        while self._pieces and (
            self._waiting > most or len(self._files) > _MAX_OPEN or self._pieces[0].future.done()
        ):
            self._wait()
            self._complete()
        self._complete()

    def _complete(self) -> None:
        """Complete the files that are written."""
        while self._files and self._files[0].last <= self._written:
            file = self._files.popleft()
            try:
                file.done(file.descriptor)
            finally:
                os.close(file.descriptor)

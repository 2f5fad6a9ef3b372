"""Telling an archive of layers from an archive of a tree, and getting at its files.

An image of containers comes as a tar whose documents stand behind the layers they describe, or in
no order at all. So as long as the members of an archive could be those of such an image, they are
kept in a file aside. The first that could not shows that it is a tree: then what was kept is handed
out again in front of the rest. For a tree that is decided at its first name.

Promises: memory is a few words per kept member, at most `MAX_MEMBERS` of them; content waits in a
file in `folder`, which is gone at the end.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from chunkstore import fsio
from chunkstore.archive.reading.decompression import Readable
from chunkstore.archive.reading.layers import DOCKER, INDEX, MARK
from chunkstore.archive.reading.members import LINK, Member, Run, TarReader
from chunkstore.errors import Corrupt
from chunkstore.fsio import Directory
from chunkstore.objects.entry import FILE, SYMLINK
from chunkstore.objects.names import printable, split

MAX_MEMBERS: Final = 100_000
_BLOCK: Final = 1024 * 1024
_LONGEST_WAY: Final = 16
_NAMES: Final = re.compile(
    rb"oci-layout|index\.json|manifest\.json|repositories"
    rb"|blobs(/[a-z0-9+._-]+(/[0-9a-f]{32,128})?)?"
    rb"|[0-9a-f]{64}(\.json|\.tar|/(VERSION|json|layer\.tar))?"
)


class _Kept(NamedTuple):
    """A member, and where its runs lie: (offset in the file, length, offset aside)."""

    member: Member
    runs: list[tuple[int, int, int]]


class Sifted:
    """An archive that was looked at so far as needed. Members and runs come as from its reader.

    `is_image` tells whether it is an image of layers, whose files `open` gives. A context manager:
    leaving takes away what was kept.
    """

    def __init__(self, reader: TarReader, folder: str, name: str) -> None:
        self.name = name
        self._reader = reader
        self._rest = iter(reader)
        self._aside = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  leaving closes it
        self._kept: list[_Kept] = []
        self._current: _Kept | None = None
        self._next: Member | None = None
        try:
            self._sift()
        except BaseException:
            self._aside.close()
            raise
        self._by_path = {kept.member.path: kept for kept in self._kept}
        is_layout = MARK in self._by_path and INDEX in self._by_path
        self.is_image = self._next is None and (is_layout or DOCKER in self._by_path)

    def __enter__(self) -> Sifted:
        return self

    def __exit__(self, *_: object) -> None:
        self._aside.close()

    def _sift(self) -> None:
        end = 0
        for member in self._rest:
            fits = not member.path or _NAMES.fullmatch(member.path)
            if not fits or len(self._kept) >= MAX_MEMBERS:
                self._next = member
                return
            runs = []
            for offset, length, parts in self._reader.runs():
                for part in parts:
                    fsio.write_all(self._aside.fileno(), part)
                runs.append((offset, length, end))
                end += length
            self._kept.append(_Kept(member, runs))

    def __iter__(self) -> Iterator[Member]:
        for kept in self._kept:
            self._current = kept
            yield kept.member
        self._current = None
        if self._next is not None:
            yield self._next
            yield from self._rest

    def runs(self) -> Iterator[Run]:
        """See `TarReader.runs`."""
        if self._current is None:
            yield from self._reader.runs()
            return
        for offset, length, place in self._current.runs:
            yield offset, length, self._pieces(place, place + length)

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        for at in range(start, stop, _BLOCK):
            yield fsio.read_at(self._aside.fileno(), at, min(at + _BLOCK, stop))

    def has(self, path: bytes) -> bool:
        """See `layers.Files`."""
        return path in self._by_path

    @contextmanager
    def open(self, path: bytes) -> Iterator[Readable]:
        """See `layers.Files`. Links are followed inside the archive."""
        asked = path
        for _ in range(_LONGEST_WAY):
            kept = self._by_path.get(path)
            if kept is None:
                break
            member = kept.member
            if member.kind == FILE:
                yield _Blob(self._aside.fileno(), kept)
                return
            if member.kind == LINK:
                path = member.target
            elif member.kind == SYMLINK:
                path = os.path.normpath(os.path.join(split(path)[0], member.target))
            else:
                break
        raise _missing(self.name, asked)


class _Blob:
    """A kept file, read from its beginning."""

    def __init__(self, aside: int, kept: _Kept) -> None:
        self._aside = aside
        self._runs = iter(kept.runs)
        self._run = next(self._runs, None)
        self._size = kept.member.size
        self._at = 0

    def read(self, size: int) -> bytes:
        """Up to so many bytes, from one run or one hole."""
        if self._run is not None and self._at == self._run[0] + self._run[1]:
            self._run = next(self._runs, None)
        start, length, place = self._run or (self._size, 0, 0)
        if self._at < start:
            data = bytes(min(size, start - self._at))
        else:
            inside = self._at - start
            stop = place + min(inside + size, length)
            data = fsio.read_at(self._aside, place + inside, stop)
        self._at += len(data)
        return data


class Layout:
    """The files of an OCI layout that is a directory."""

    def __init__(self, directory: Directory) -> None:
        self.name = os.fsdecode(directory.path)
        self._directory = directory

    def has(self, path: bytes) -> bool:
        """See `layers.Files`."""
        try:
            os.close(self._directory.open(path, os.O_PATH))
        except OSError as error:
            if error.errno in fsio.NOT_THERE:
                return False
            raise
        return True

    @contextmanager
    def open(self, path: bytes) -> Iterator[Readable]:
        """See `layers.Files`."""
        try:
            descriptor = self._directory.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in fsio.NOT_THERE:
                raise _missing(self.name, path) from error
            raise
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _missing(self.name, path)
            yield file


def _missing(name: str, path: bytes) -> Corrupt:
    where = f"{name}, {printable(path)}"
    return Corrupt(f"{where}: is missing, and the image is made of it", where=where)

"""A base that is a tar archive which imgstore never saw: `--base image.tar.gz`.

Its members become a manifest, once: content is cut into chunks as the store's commits cut it and
only hashed, so that the two can be compared. The manifest is kept in the store's `local/`, for the
very file it was made of: device, inode, size, mtime and ctime. The next difference from the same
archive unpacks nothing.

    file      magic, manifest and list nodes back to back, table, end
    table     [root, [tells...], {digest: [offset, length]}]
    end       u64 offset of the table, BLAKE3 of all that comes before it

Two trees are compared in what the archive can tell. Most archives have times in whole seconds, and
no inode flags or SELinux labels, which every file of a system may have: what differs in nothing
else is the same.

Promises: an index that is missing, damaged or of another file is made anew, and an archive that
changes while it is read, or may still change unseen, leaves none behind. Nothing is stored.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final, NamedTuple

import msgpack
from blake3 import blake3

from chunkstore import fsio
from chunkstore.archive.reading.decompression import open_blocks
from chunkstore.archive.reading.members import TarReader
from chunkstore.archive.reading.source import Source
from chunkstore.archive.reading.tree import Tree
from chunkstore.archive.reading.unpacking import unpack
from chunkstore.errors import LocalError, NotFound, local_errors
from chunkstore.objects import manifest
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.delta import Difference
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load, NodeRef
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage import lock
from chunkstore.storage.store import PATIENCE, Store

_MAGIC: Final = b"IMGSTAR1"
_END: Final = struct.Struct("<Q32s")
_KEPT: Final = 8
"""Indexes of so many archives are kept: ten megabytes each for a system."""
_SETTLED: Final = 50_000_000
"""Nanoseconds after which a change of a file can't have the time of the one before."""
_LABEL: Final = b"security.selinux"
_BILLION: Final = 10**9
_MICRO: Final = 1000
_ROUNDED: Final = 100
"""Python's tarfile has times as floating-point numbers, with some seven digits of the fraction."""
_PART: Final = 1 << 20


class Tells(NamedTuple):
    """What an archive says of its members: how exactly it has times, in nanoseconds, and whether
    extended attributes and inode flags."""

    grain: int
    xattrs: bool
    flags: bool


class Tarball:
    """A tar archive as a base to compare with; close it afterwards, or use it in a `with`."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self.root, self._tells, self._places = _read_table(file)

    def __enter__(self) -> Tarball:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def over(self, load: Load) -> Load:
        """A `load` that has the nodes of this one, and for all others asks the one given."""

        def found(digest: bytes) -> bytes:
            place = self._places.get(digest)
            if place is None:
                return load(digest)
            offset, length = place
            return fsio.read_at(self._file.fileno(), offset, offset + length)

        return found

    def as_told(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        """The differences that the archive could have told of."""
        for old, new in differences:
            if old is None or new is None or old != self._as_told(old, new):
                yield old, new

    def _as_told(self, old: Entry, new: Entry) -> Entry:
        grain = self._tells.grain
        whole = new.mtime - new.mtime % _BILLION
        is_rounded = grain == _MICRO and abs(new.mtime - old.mtime) < grain
        if is_rounded or (grain == _BILLION and old.mtime == whole):
            new = new._replace(mtime=old.mtime)
        if not self._tells.xattrs:
            new = new._replace(xattrs=tuple(each for each in new.xattrs if each[0] != _LABEL))
        return new if self._tells.flags else new._replace(flags=old.flags)


def open_tarball(store: Store, path: str, *, progress: Progress | None = None) -> Tarball:
    """What the archive at `path` holds, from its index or by reading it.

    Raises `NotFound`, `LocalError`, and for an archive that can't be read `Corrupt`.
    """
    folder = os.path.join(store.local, "archives")
    with local_errors("can't read the base"):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            file = open(path, "rb")  # noqa: SIM115  closed right below
        except FileNotFoundError:
            raise NotFound(f"there is no archive {path}", name=path) from None
        with file:
            indexes = _Indexes(folder, store.settings.chunker)
            found = indexes.find(file)
            if found is None:
                # One at a time: whoever waited finds what the other has made.
                with lock.exclusive(os.path.join(folder, "lock"), f"reading {path}", wait=PATIENCE):
                    found = indexes.find(file) or indexes.make(file, path, progress)
    return Tarball(path, found)


class _Indexes:
    """The indexes that are kept, each under a name made of what it is an index of."""

    def __init__(self, folder: str, parameters: Parameters) -> None:
        self._folder = folder
        self._parameters = parameters

    def _name(self, status: os.stat_result) -> str:
        numbers = [status.st_dev, status.st_ino, status.st_size]
        numbers += [status.st_mtime_ns, status.st_ctime_ns, *self._parameters]
        return blake3(repr(numbers).encode()).hexdigest()

    def find(self, archive: BinaryIO) -> BinaryIO | None:
        """The index of an archive, if there is one that is whole."""
        path = os.path.join(self._folder, self._name(os.fstat(archive.fileno())))
        try:
            file = open(path, "rb")  # noqa: SIM115  handed on
        except FileNotFoundError:
            return None
        if not _is_whole(file):
            file.close()
            return None
        with suppress(OSError):
            os.utime(path)  # the ones that were not used for longest go first
        return file

    def make(self, archive: BinaryIO, path: str, progress: Progress | None) -> BinaryIO:
        """Read an archive; the caller holds the lock."""
        self._sweep()
        temporary = os.path.join(self._folder, fsio.fresh_name())
        before = os.fstat(archive.fileno())
        file = open(temporary, "x+b", buffering=1 << 20)  # noqa: SIM115  handed on
        try:
            _write_index(file, archive, path, self._folder, self._parameters, progress)
            after = os.fstat(archive.fileno())
            if self._name(after) != self._name(before):
                raise LocalError(f"{path} changed while it was read: run it again")
            if time.time_ns() - after.st_ctime_ns > _SETTLED:
                os.rename(temporary, os.path.join(self._folder, self._name(after)))
            else:
                os.unlink(temporary)
        except BaseException:
            file.close()
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return file

    def _sweep(self) -> None:
        """Take away what a killed reader left, and the oldest indexes."""
        kept = []
        for item in os.scandir(self._folder):
            if len(item.name) == 64:
                kept.append((item.stat().st_mtime_ns, item.path))
            elif item.name != "lock":
                os.unlink(item.path)
        for _, path in sorted(kept, reverse=True)[_KEPT - 1 :]:
            os.unlink(path)


class _Hashed:
    """Content that only its digests are wanted of; nodes are written to the index."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.places: dict[bytes, tuple[int, int]] = {}

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        pass

    def store_node(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        if digest not in self.places:
            self.places[digest] = self._file.tell(), len(data)
            self._file.write(data)
        return digest


class _Watched:
    """Passes entries on, and notes what there was to tell."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self._fractions = self._nanoseconds = self._xattrs = self._flags = False

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self._fractions |= entry.mtime % _BILLION != 0
            self._nanoseconds |= entry.mtime % _ROUNDED != 0
            self._xattrs |= bool(entry.xattrs)
            self._flags |= bool(entry.flags)
            yield entry

    @property
    def tells(self) -> Tells:
        grain = 1 if self._nanoseconds else _MICRO if self._fractions else _BILLION
        return Tells(grain, self._xattrs, self._flags)


def _write_index(
    file: BinaryIO,
    archive: BinaryIO,
    path: str,
    folder: str,
    parameters: Parameters,
    progress: Progress | None,
) -> None:
    file.write(_MAGIC)
    sink = _Hashed(file)
    with Tree(folder) as tree:
        reader = TarReader(Source(open_blocks(archive, path), path))
        unpack(reader, tree, parameters, sink, progress=progress or Unwatched())
        entries = _Watched(tree.entries())
        root = manifest.build(entries, sink.store_node)
    table = file.tell()
    file.write(msgpack.packb([list(root), list(entries.tells), sink.places]))
    file.flush()
    end = file.tell()
    file.write(_END.pack(table, _digest(file, end)))
    file.flush()


def _digest(file: BinaryIO, end: int) -> bytes:
    hasher = blake3()
    for start in range(0, end, _PART):
        hasher.update(fsio.read_at(file.fileno(), start, min(start + _PART, end)))
    return hasher.digest()


def _is_whole(file: BinaryIO) -> bool:
    size = os.fstat(file.fileno()).st_size - _END.size
    if size < len(_MAGIC) or fsio.read_at(file.fileno(), 0, len(_MAGIC)) != _MAGIC:
        return False
    _, digest = _END.unpack(fsio.read_at(file.fileno(), size, size + _END.size))
    is_whole: bool = digest == _digest(file, size)
    return is_whole


def _read_table(file: BinaryIO) -> tuple[NodeRef, Tells, dict[bytes, tuple[int, int]]]:
    """The table of an index that is whole."""
    size = os.fstat(file.fileno()).st_size - _END.size
    start, _ = _END.unpack(fsio.read_at(file.fileno(), size, size + _END.size))
    found: Any = msgpack.unpackb(fsio.read_at(file.fileno(), start, size), raw=True, use_list=False)
    root, tells, places = found
    return NodeRef(*root), Tells(*tells), places

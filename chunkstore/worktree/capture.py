"""Capturing: one path of a worktree into an entry, its content into chunks.

Promises: a file is opened without following links, must be the one that was scanned, and its
status is looked at again after reading: a file that changed meanwhile is read again, and if it
never holds still it is captured as read last and reported. Large files pass through in blocks.
Leaves deciding what to capture to `scan`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from chunkstore.objects import chunker
from chunkstore.objects.chunklist import ListWriter
from chunkstore.objects.cutting import BLOCK, Sink, cut_block
from chunkstore.objects.digest import HOLE, chunk_digest
from chunkstore.objects.entry import DEVICE, FILE, KIND_OF_FORMAT, MAX_TIME, MIN_TIME, Entry
from chunkstore.worktree import metadata
from chunkstore.worktree.scan import Found

_ATTEMPTS: Final = 3


class Unsteady(Exception):
    """A file that changed while it was read, every time; `entry` is what was read last."""

    def __init__(self, entry: Entry) -> None:
        super().__init__("changed while it was read")
        self.entry = entry


class Vanished(Exception):
    """The path is not there any more."""


def capture(found: Found, parameters: chunker.Parameters, sink: Sink) -> Entry:
    """Read one path. Raises `OSError` when it can't be read, `Vanished`, `Unsteady`."""
    try:
        if stat.S_ISREG(found.status.st_mode):
            return _capture_file(found, parameters, sink)
        return capture_other(found)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            raise Vanished from error
        raise


def capture_other(found: Found) -> Entry:
    """Read a path that is no regular file. Raises `OSError`."""
    path, status, folder, name, link = found
    content = b""
    flags = 0
    if stat.S_ISDIR(status.st_mode):
        descriptor = os.open(
            name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
        )
        try:
            xattrs = metadata.read_xattrs(descriptor)
            flags = metadata.read_flags(descriptor)
        finally:
            os.close(descriptor)
    else:
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(name, dir_fd=folder)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = DEVICE.pack(os.major(status.st_rdev), os.minor(status.st_rdev))
        xattrs = metadata.read_xattrs(metadata.by_descriptor(folder, name))
    return describe(path, status, content=content, xattrs=xattrs, flags=flags, link=link)


def describe(
    path: bytes,
    status: os.stat_result,
    *,
    content: bytes,
    xattrs: tuple[tuple[bytes, bytes], ...],
    flags: int,
    link: bytes,
    depth: int = 0,
) -> Entry:
    """The entry of a path with this status."""
    kind = KIND_OF_FORMAT[stat.S_IFMT(status.st_mode)]
    return Entry(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        min(max(status.st_mtime_ns, MIN_TIME), MAX_TIME),
        status.st_size if kind == FILE else 0,
        content,
        depth,
        xattrs,
        flags,
        link,
    )


def _open(name: bytes, folder: int) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # Reading an image must not leave marks on it; only its owner and root may ask for that.
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder)


def _capture_file(found: Found, parameters: chunker.Parameters, sink: Sink) -> Entry:
    path, scanned, folder, name, link = found
    descriptor = _open(name, folder)
    try:
        for _ in range(_ATTEMPTS):
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise Vanished
            xattrs = metadata.read_xattrs(descriptor)
            flags = metadata.read_flags(descriptor)
            writer = ListWriter(sink.store_node)
            length = _read_content(descriptor, before, parameters, sink, writer)
            content, depth = writer.finish()
            entry = describe(
                path,
                before,
                content=content,
                xattrs=xattrs,
                flags=flags,
                link=link if before.st_ino == scanned.st_ino else b"",
                depth=depth,
            )._replace(size=length)
            after = os.fstat(descriptor)
            if (
                length == before.st_size == after.st_size
                and before.st_mtime_ns == after.st_mtime_ns
                and before.st_ctime_ns == after.st_ctime_ns
            ):
                return entry
    finally:
        os.close(descriptor)
    raise Unsteady(entry)


def _read_content(
    descriptor: int,
    status: os.stat_result,
    parameters: chunker.Parameters,
    sink: Sink,
    writer: ListWriter,
) -> int:
    """Chunk a whole file; returns its length as found."""
    size = status.st_size
    if size <= parameters.minimum and status.st_blocks * 512 >= size:
        # Over half of the files of a system: one read, one chunk, no holes to search for.
        data = os.pread(descriptor, size + 1, 0)
        if data:
            digest = chunk_digest(data)
            sink.store([(digest, data)])
            writer.add(digest, len(data))
        return len(data)
    end = 0
    for start, stop in extents(descriptor, status):
        if start > end:
            writer.add(HOLE, start - end)
        end = _read_extent(descriptor, start, stop, parameters, sink, writer)
        if end < stop:
            return end
    if end < size:
        writer.add(HOLE, size - end)
        end = size
    return end


def extents(descriptor: int, status: os.stat_result) -> Iterator[tuple[int, int]]:
    """The parts of a file that hold data, in order."""
    size = status.st_size
    if status.st_blocks * 512 >= size:
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left, or nothing at all
                return
            raise
        if start < end:
            yield start, end


def _read_extent(
    descriptor: int,
    start: int,
    stop: int,
    parameters: chunker.Parameters,
    sink: Sink,
    writer: ListWriter,
) -> int:
    """Chunk the bytes from `start` up to `stop`; returns where they really end."""
    kept = b""
    is_end = start >= stop
    while not is_end:
        fresh = os.pread(descriptor, min(BLOCK, stop - start), start)
        start += len(fresh)
        # No bytes where there should be some: the file has been cut short.
        is_end = start >= stop or not fresh
        block = kept + fresh if kept else fresh
        offset = cut_block(block, parameters, sink, writer, is_end=is_end)
        kept = block[offset:]
    return start

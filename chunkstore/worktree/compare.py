"""Comparing what is on disk with the entry it should be.

Content is compared by chunk digest along the entry's own chunk list, so no chunker is needed;
holes count as the zeros they read as. Links are never followed.
"""

from __future__ import annotations

import os
import stat

from chunkstore import fsio
from chunkstore.fsio import Directory
from chunkstore.objects import chunklist
from chunkstore.objects.digest import HOLE, chunk_digest
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FILE,
    KIND_OF_FORMAT,
    SYMLINK,
    Entry,
)
from chunkstore.objects.manifest import Load
from chunkstore.worktree import metadata

_ZEROS = bytes(1 << 20)


def same_content(descriptor: int, entry: Entry, load: Load) -> bool:
    """Whether an open regular file holds exactly the entry's bytes."""
    if os.fstat(descriptor).st_size != entry.size:
        return False
    offset = 0
    for digest, length in chunklist.walk(entry, load):
        stop = offset + length
        if digest != HOLE:
            data = fsio.read_at(descriptor, offset, stop)
            if len(data) != length or chunk_digest(data) != digest:
                return False
        elif not _is_zero(descriptor, offset, stop):
            return False
        offset = stop
    return True


def _is_zero(descriptor: int, start: int, stop: int) -> bool:
    while start < stop:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return True
        part = fsio.read_at(descriptor, start, min(stop, start + len(_ZEROS)))
        if part != _ZEROS[: len(part)]:
            return False
        start += len(part) or stop
    return True


def drift(tree: Directory, entry: Entry, load: Load) -> str:
    """How a path differs from its entry: `D`, `T`, `M`, `m` as in a diff, or nothing.

    Raises `OSError` when it can't be looked at.
    """
    above, _, name = entry.path.rpartition(b"/")
    try:
        folder = tree.open_directory(above)
    except (FileNotFoundError, NotADirectoryError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        return "D"
    try:
        status = os.stat(name or b".", dir_fd=folder, follow_symlinks=False)
        return _compare(folder, name or b".", status, entry, load)
    except FileNotFoundError:
        return "D"
    finally:
        os.close(folder)


def _compare(folder: int, name: bytes, status: os.stat_result, entry: Entry, load: Load) -> str:
    if KIND_OF_FORMAT.get(stat.S_IFMT(status.st_mode)) != entry.kind:
        return "T"
    flags = 0
    if entry.kind in (FILE, DIRECTORY):
        kind = os.O_DIRECTORY if entry.kind == DIRECTORY else os.O_NONBLOCK
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=folder)
        try:
            if entry.kind == FILE and not same_content(descriptor, entry, load):
                return "M"
            xattrs = metadata.read_xattrs(descriptor)
            flags = metadata.read_flags(descriptor)
        finally:
            os.close(descriptor)
    else:
        if entry.kind == SYMLINK and os.readlink(name, dir_fd=folder) != entry.content:
            return "M"
        if entry.kind in (CHARACTER, BLOCK):
            numbers = DEVICE.pack(os.major(status.st_rdev), os.minor(status.st_rdev))
            if numbers != entry.content:
                return "M"
        xattrs = metadata.read_xattrs(metadata.by_descriptor(folder, name))
    found = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
    if entry.kind == SYMLINK:
        found = (entry.mode, *found[1:])
    wanted = (entry.mode, entry.uid, entry.gid, entry.mtime)
    return "" if (*found, xattrs, flags) == (*wanted, entry.xattrs, entry.flags) else "m"

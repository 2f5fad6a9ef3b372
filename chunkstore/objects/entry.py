"""An entry: one path of an image with everything a file system keeps about it.

Specified in `docs/format.md`, section "Entry". An `Entry` is a plain tuple so that it *is* its own
record: encoding, decoding and comparing happen in C, and an image of a million paths costs no
object beyond the tuple itself (`docs/decisions/0003-entry-is-a-tuple.md`).

Promises: `check` lets through only what a tree could honestly hold. Leaves reading the file
system to `worktree`, and long chunk lists to `chunklist`.
"""

from __future__ import annotations

import stat
import struct
from typing import Any, Final, NamedTuple

from chunkstore.errors import Corrupt
from chunkstore.objects import names

FILE: Final = 1
DIRECTORY: Final = 2
SYMLINK: Final = 3
CHARACTER: Final = 4
BLOCK: Final = 5
FIFO: Final = 6

KIND_LETTERS: Final = {
    FILE: "-",
    DIRECTORY: "d",
    SYMLINK: "l",
    CHARACTER: "c",
    BLOCK: "b",
    FIFO: "p",
}
KIND_OF_FORMAT: Final = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK,
    stat.S_IFIFO: FIFO,
}
DEVICE: Final = struct.Struct("<II")

MAX_ENTRY: Final = 512 * 1024
"""Bytes of one encoded entry; the rest is room for a manifest node around it."""
MAX_RECORDS: Final = 128
"""Chunk list records an entry holds itself: with 64 KiB chunks, files up to 8 MiB or so."""
RECORD_SIZE: Final = 40
MAX_DEPTH: Final = 4
MAX_XATTR_NAME: Final = 255
MAX_XATTR_VALUE: Final = 64 * 1024
MAX_ID: Final = 2**32 - 2
MIN_TIME: Final = -(2**63)
MAX_TIME: Final = 2**64 - 1


class Entry(NamedTuple):
    """One path. Fields in the order of the record.

    `content` by kind: a file's chunk list (40-byte records, see `chunklist`), a symlink's target, a
    device's numbers (`DEVICE`), otherwise empty. `size` is a file's length with its holes, else 0.
    `depth` is the number of list nodes between `content` and data. `link` names the first path of
    the entry's hardlink group, or is empty; every member of a group carries the whole metadata.
    `mtime` is in nanoseconds; `flags` are inode flags as `chattr` sets them.
    """

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    content: bytes = b""
    depth: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    flags: int = 0
    link: bytes = b""


def check(record: Any, where: str) -> Entry:
    """Make an entry of a decoded record. Raises `Corrupt` naming `where` and the path."""
    try:
        entry = Entry._make(record)
        path, kind, mode, uid, gid, mtime, size, content, depth, xattrs, flags, link = entry
        if type(path) is not bytes or type(content) is not bytes or type(link) is not bytes:
            raise Corrupt("path, content or link is not bytes")
        for number in (kind, mode, uid, gid, mtime, size, depth, flags):
            if type(number) is not int:
                raise Corrupt("a number is not an integer")
        names.check_path(path)
        if not (
            0 <= mode <= 0o7777
            and 0 <= uid <= MAX_ID
            and 0 <= gid <= MAX_ID
            and MIN_TIME <= mtime <= MAX_TIME
            and 0 <= flags < 2**32
            and 0 <= depth <= MAX_DEPTH
            and 0 <= size < 2**63
        ):
            raise Corrupt("a number is out of range")
        if kind != FILE and (size or depth):
            raise Corrupt("only a file has a size")
        if depth and not content:
            raise Corrupt("list nodes of an empty file")
        if not path and kind != DIRECTORY:
            raise Corrupt("the root is not a directory")
        if xattrs != ():
            _check_xattrs(xattrs)
        if link:
            _check_link(entry)
        _CONTENT_CHECKS[kind](content)
    except (Corrupt, TypeError, ValueError, KeyError) as error:
        path = record[0] if isinstance(record, tuple) and record else b""
        shown = names.printable(path) if isinstance(path, bytes) else repr(path)[:80]
        raise Corrupt(f"{where}: bad entry {shown}: {error}", where=where) from error
    return entry


def _check_xattrs(xattrs: Any) -> None:
    previous = b""
    if type(xattrs) is not tuple:
        raise Corrupt("xattrs are not a list")
    for name, value in xattrs:
        if type(name) is not bytes or type(value) is not bytes:
            raise Corrupt("xattr is not bytes")
        if not 0 < len(name) <= MAX_XATTR_NAME or b"\0" in name or len(value) > MAX_XATTR_VALUE:
            raise Corrupt("xattr too long or without a name")
        if name <= previous:
            raise Corrupt("xattrs are not sorted")
        previous = name


def _check_link(entry: Entry) -> None:
    names.check_path(entry.link)
    if entry.kind == DIRECTORY:
        raise Corrupt("a directory can't be a hardlink")
    if names.sort_key(entry.link) >= names.sort_key(entry.path):
        raise Corrupt("hardlink to a path that does not come before it")


def _check_file(content: bytes) -> None:
    if len(content) % RECORD_SIZE or len(content) > MAX_RECORDS * RECORD_SIZE:
        raise Corrupt("chunk list is cut short or too long for an entry")


def _check_symlink(content: bytes) -> None:
    if not 0 < len(content) <= names.MAX_PATH or b"\0" in content:
        raise Corrupt("symlink target is empty, too long or has a NUL")


def _check_device(content: bytes) -> None:
    if len(content) != DEVICE.size:
        raise Corrupt("device numbers are not 8 bytes")


def _check_empty(content: bytes) -> None:
    if content:
        raise Corrupt("content where there can be none")


_CONTENT_CHECKS: Final = {
    FILE: _check_file,
    DIRECTORY: _check_empty,
    SYMLINK: _check_symlink,
    CHARACTER: _check_device,
    BLOCK: _check_device,
    FIFO: _check_empty,
}


def change_letter(old: Entry | None, new: Entry | None) -> str:
    """`A`dded, `D`eleted, `T`ype, `M`odified content, `m`etadata only; of two that differ."""
    if old is None:
        return "A"
    if new is None:
        return "D"
    if old.kind != new.kind:
        return "T"
    if old.content != new.content or old.size != new.size:
        return "M"
    return "m"

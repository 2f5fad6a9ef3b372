"""Tar headers: what a tar member says about an entry. Pure: an entry in, 512-byte blocks out.

A member is a POSIX ustar header. What ustar can't say goes into a PAX extended header in front of
it, and only then: a long name, a big id or size, a time with a fraction, extended attributes,
ACLs, inode flags, the size of a file with holes. Numbers too big for ustar stand in its fields too,
in GNU's base-256 form, which readers without PAX know.

Names are bytes. A name of up to 100 bytes, or 256 with a "/" in the right place, stands in the
ustar header as it is, whatever its bytes, and every reader takes it so. PAX text is UTF-8, and
readers recode it or complain about it according to their locale (libarchive in the C locale does
for any "ü"; the keyword `hdrcharset=BINARY` calms libarchive and makes GNU tar warn). So a longer
name goes into a PAX record if it is ASCII, else into GNU's older long-name member, which is bytes
without a character set; GNU tar, libarchive, Python and busybox restore both without a word.

Promises: the bytes depend on the entry alone. Leaves a file's data and its map of holes to `tar`
and `sparse`.

    0 name 100  100 mode 8  108 uid 8  116 gid 8  124 size 12  136 mtime 12  148 checksum 8
    156 type 1  157 link name 100  257 "ustar" 00 "00"  265 user and group name 64 (empty)
    329 device major 8  337 device minor 8  345 prefix 155  500 zero 12
"""

from __future__ import annotations

import struct
from typing import Final

from chunkstore.archive import acl
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    SYMLINK,
    Entry,
)

BLOCK_SIZE: Final = 512

_LAYOUT: Final = struct.Struct("100s36s12s8sc100s8s64x16s155s12x")
_MAGIC: Final = b"ustar\x0000"
_NO_DEVICE: Final = b"0000000\0" * 2
_NAME: Final = 100
_PREFIX: Final = 155
_SMALL: Final = 8**7
"""What an id or device number has to stay below to stand in its field in octal."""
_LARGE: Final = 8**11
"""The same for a size or a time."""
_BILLION: Final = 10**9

_LINK: Final = b"1"
_PAX: Final = b"x"
_LONG_NAME: Final = b"L"
_LONG_TARGET: Final = b"K"
_TYPES: Final = {
    FILE: b"0",
    SYMLINK: b"2",
    CHARACTER: b"3",
    BLOCK: b"4",
    DIRECTORY: b"5",
    FIFO: b"6",
}

INODE_FLAGS: Final = {
    0x00000001: b"secdel",
    0x00000002: b"undel",
    0x00000004: b"compress",
    0x00000008: b"sync",
    0x00000010: b"schg",
    0x00000020: b"sappnd",
    0x00000040: b"nodump",
    0x00000080: b"noatime",
    0x00004000: b"journal",
    0x00008000: b"notail",
    0x00010000: b"dirsync",
    0x00020000: b"topdir",
    0x00800000: b"nocow",
    0x20000000: b"projinherit",
}
"""Inode flags by the names libarchive gives them; others can't be said in a tar archive."""


def header(
    entry: Entry, stored: int | None = None, *, listing: bytes = b"", acls: bool = True
) -> bytes:
    """All header blocks of an entry's member.

    `stored` is given for a file written as a map and the data between its holes: their bytes.
    `listing` is what `dumpdir` says a directory holds. Without `acls` they are extended attributes
    like any others, for readers that know no more than those.
    """
    path, kind, mode, uid, gid, mtime, size, content, _, xattrs, flags, link = entry
    name = b"./" + path
    target = b""
    device = _NO_DEVICE
    length = 0
    if link:
        flavour = _LINK
        target = b"./" + link
    else:
        flavour = _TYPES[kind]
        if kind == FILE:
            length = size if stored is None else stored
        elif kind == DIRECTORY:
            name = name + b"/" if path else name
        elif kind == SYMLINK:
            target = content
        elif kind != FIFO:
            device = b"".join(_number(part, 8) for part in DEVICE.unpack(content))
    seconds, fraction = divmod(mtime, _BILLION)
    if (
        len(name) <= _NAME
        and len(target) <= _NAME
        and uid < _SMALL
        and gid < _SMALL
        and length < _LARGE
        and 0 <= seconds < _LARGE
        and not (fraction or xattrs or flags or listing)
        and stored is None
    ):
        return _block(name, mode, uid, gid, length, seconds, flavour, target, device)
    records = _Records()
    field, prefix = records.name(name) if stored is None else records.sparse_name(name, size)
    target = records.target(target)
    records.numbers(uid, gid, length, mtime)
    if not link:
        # A further name of an inode says nothing about it that the first has not said.
        records.extras(xattrs, flags, acls=acls)
    if listing:
        records.listing(listing)
    block = _block(field, mode, uid, gid, length, seconds, flavour, target, device, prefix)
    return records.encode() + block


class _Records:
    """Collects what goes in front of a member that ustar alone can't describe."""

    def __init__(self) -> None:
        self._members = b""
        self._records: list[bytes] = []

    def _add(self, keyword: bytes, value: bytes) -> None:
        self._records.append(_record(keyword, value))

    def encode(self) -> bytes:
        """The members in front, long names first."""
        if not self._records:
            return self._members
        return self._members + _member(b"././@PaxHeader", _PAX, b"".join(self._records))

    def name(self, name: bytes) -> tuple[bytes, bytes]:
        """Say the name; returns the header's name and prefix fields."""
        fields = _split(name)
        if fields is None:
            fields = self._long(b"path", _LONG_NAME, name), b""
        return fields

    def target(self, target: bytes) -> bytes:
        """Say what a link leads to; returns the header's field."""
        return target if len(target) <= _NAME else self._long(b"linkpath", _LONG_TARGET, target)

    def _long(self, keyword: bytes, flavour: bytes, name: bytes) -> bytes:
        if name.isascii():
            self._add(keyword, name)
        else:
            self._members += _member(b"././@LongLink", flavour, name + b"\0")
        # For readers that know neither. A name cut short could be that of another file.
        slash = b"/" if name.endswith(b"/") else b""
        return b"./@LongNames/" + chunk_digest(name.rstrip(b"/")).hex().encode() + slash

    def sparse_name(self, name: bytes, size: int) -> tuple[bytes, bytes]:
        """Say that the data begins with a map; returns the header's name and prefix fields."""
        self._add(b"GNU.sparse.major", b"1")
        self._add(b"GNU.sparse.minor", b"0")
        fields = None
        if name.isascii():
            # The true name stands here only, so that a reader which would take the map for
            # content puts it where it does no harm.
            self._add(b"GNU.sparse.name", name)
            folder, _, last = name.rpartition(b"/")
            fields = _split(folder + b"/GNUSparseFile.0/" + last)
        self._add(b"GNU.sparse.realsize", b"%d" % size)
        return fields or self.name(name)

    def numbers(self, uid: int, gid: int, length: int, mtime: int) -> None:
        """Say the numbers that do not fit or are not whole."""
        if length >= _LARGE:
            self._add(b"size", b"%d" % length)
        if uid >= _SMALL:
            self._add(b"uid", b"%d" % uid)
        if gid >= _SMALL:
            self._add(b"gid", b"%d" % gid)
        if mtime % _BILLION or not 0 <= mtime < _LARGE * _BILLION:
            self._add(b"mtime", _decimal(mtime))

    def listing(self, listing: bytes) -> None:
        """Say what a directory holds."""
        self._add(b"GNU.dumpdir", listing)

    def extras(self, xattrs: tuple[tuple[bytes, bytes], ...], flags: int, *, acls: bool) -> None:
        """Say what only PAX has words for."""
        names = [name for bit, name in INODE_FLAGS.items() if flags & bit]
        if names:
            self._add(b"SCHILY.fflags", b",".join(names))
        for name, value in xattrs:
            text = acl.text(value) if acls and name in acl.XATTRS else None
            if text is not None:
                self._add(acl.XATTRS[name], text)
            else:
                self._add(b"SCHILY.xattr." + _keyword(name), value)


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    length: int,
    seconds: int,
    flavour: bytes,
    target: bytes = b"",
    device: bytes = _NO_DEVICE,
    prefix: bytes = b"",
) -> bytes:
    if uid < _SMALL and gid < _SMALL and length < _LARGE:
        numbers = b"%07o\0%07o\0%07o\0%011o\0" % (mode, uid, gid, length)
    else:
        numbers = b"%07o\0%b%b%b" % (mode, _number(uid, 8), _number(gid, 8), _number(length, 12))
    time = b"%011o\0" % seconds if 0 <= seconds < _LARGE else _number(seconds, 12)
    # The checksum counts its own field as spaces.
    fields = (name, numbers, time, b" " * 8, flavour, target, _MAGIC, device, prefix)
    block = _LAYOUT.pack(*fields)
    return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])


def _number(value: int, width: int) -> bytes:
    """A number field: octal, or where that is too small base-256, two's complement, top bit set."""
    if 0 <= value < 1 << 3 * (width - 1):
        return b"%0*o\0" % (width - 1, value)
    top = 1 << 8 * width - 1
    return (value & (top - 1) | top).to_bytes(width, "big")


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """The name and prefix fields of a name, if it fits into them."""
    if len(name) <= _NAME:
        return name, b""
    # The slash between the two is not stored; the one that ends a directory's name has to be.
    slash = name.find(b"/", max(0, len(name) - _NAME - 1), min(_PREFIX + 1, len(name) - 1))
    return None if slash <= 0 else (name[slash + 1 :], name[:slash])


def _member(name: bytes, flavour: bytes, data: bytes) -> bytes:
    """A member that only describes the next one."""
    block = _block(name, 0o644, 0, 0, len(data), 0, flavour)
    return block + data + bytes(-len(data) % BLOCK_SIZE)


def _record(keyword: bytes, value: bytes) -> bytes:
    """A PAX record, which begins with its own length in decimal."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, keyword, value)


def _decimal(mtime: int) -> bytes:
    """Nanoseconds as seconds with as much of a fraction as needed."""
    seconds, fraction = divmod(abs(mtime), _BILLION)
    sign = b"-" if mtime < 0 else b""
    tail = b".%09d" % fraction if fraction else b""
    return b"%b%d%b" % (sign, seconds, tail.rstrip(b"0"))


def _keyword(name: bytes) -> bytes:
    """An attribute's name as part of a PAX keyword, which ends at the first "=".

    GNU tar writes `%3D` for it, and then `%25` for a percent sign. libarchive takes a keyword as
    it is, so a name is rewritten only where GNU tar would read it wrongly as it stands.
    """
    if b"=" in name or b"%3D" in name or b"%25" in name:
        return name.replace(b"%", b"%25").replace(b"=", b"%3D")
    return name

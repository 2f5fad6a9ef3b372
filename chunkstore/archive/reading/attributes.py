"""Extended attributes, ACLs and inode flags out of the records of a PAX header. Pure.

    SCHILY.xattr.NAME       the value as it is; in the name GNU tar writes %3D for "=", %25 for "%"
    LIBARCHIVE.xattr.NAME   the value in base64, the name as in a URL; bsdtar writes both, and this
                            one is exact for every name, so where it is, the other is not looked at
    SCHILY.acl.access, .default     ACLs as text
    RHT.security.selinux    the label, without the NUL the kernel keeps
    SCHILY.fflags           inode flags by name

Promises: attributes are sorted, and what no entry could hold is `Corrupt`. What can't be taken
over is told to `remark` and left out.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from chunkstore.archive import acl
from chunkstore.archive.header import INODE_FLAGS
from chunkstore.archive.reading.pax import Records
from chunkstore.errors import Corrupt
from chunkstore.objects.entry import MAX_XATTR_NAME, MAX_XATTR_VALUE

Remark = Callable[[str], None]

_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_SELINUX: Final = b"RHT.security.selinux"
_FLAGS: Final = b"SCHILY.fflags"
_NFS4: Final = b"SCHILY.acl.ace"
_ACCESS: Final = b"system.posix_acl_access"

_FLAG_BITS: Final = {
    **{name: bit for bit, name in INODE_FLAGS.items()},
    b"sappend": 0x20,
    b"schange": 0x10,
    b"simmutable": 0x10,
}


class Attributes(NamedTuple):
    """What PAX says of an entry beyond a status.

    `permissions` are those of the access ACL, if there is one: the kernel gives them to the mode.
    """

    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    flags: int = 0
    permissions: int | None = None


NONE: Final = Attributes()


def read(records: Records, lookup: acl.Lookup, remark: Remark, where: str) -> Attributes:
    """The attributes in `records`. Raises `Corrupt` naming `where`."""
    xattrs: dict[bytes, bytes] = {}
    permissions = None
    for name, keyword in acl.XATTRS.items():
        # GNU tar, told to take all attributes, also gives the binary form, which needs no lookup.
        if (text := records.get(keyword)) and _SCHILY + name not in records:
            found = acl.parse(text, lookup)
            if found is None:
                remark("ACLs that can't be read, or that name users unknown here")
                continue
            if name == _ACCESS:
                permissions = acl.mode_bits(found)
            if name != _ACCESS or not acl.is_minimal(found):
                xattrs[name] = found
    if label := records.get(_SELINUX):
        xattrs[b"security.selinux"] = label + b"\0"
    for name, value in _named(records, where):
        if not 0 < len(name) <= MAX_XATTR_NAME or b"\0" in name or len(value) > MAX_XATTR_VALUE:
            raise Corrupt(f"{where}: extended attribute that can't be: {name[:80]!r}", where=where)
        xattrs[name] = value
    if _NFS4 in records:
        remark("NFS version 4 ACLs")
    flags = 0
    for name in filter(None, records.get(_FLAGS, b"").split(b",")):
        if name in _FLAG_BITS:
            flags |= _FLAG_BITS[name]
        else:
            remark("inode flags that Linux does not have")
    return Attributes(tuple(sorted(xattrs.items())), flags, permissions)


def _named(records: Records, where: str) -> Iterator[tuple[bytes, bytes]]:
    is_exact = any(keyword.startswith(_LIBARCHIVE) for keyword in records)
    for keyword, value in records.items():
        if is_exact and keyword.startswith(_LIBARCHIVE):
            yield unquote_to_bytes(keyword[len(_LIBARCHIVE) :]), _unbase64(value, where)
        elif not is_exact and keyword.startswith(_SCHILY):
            name = keyword[len(_SCHILY) :]
            yield name.replace(b"%3D", b"=").replace(b"%25", b"%"), value


def _unbase64(value: bytes, where: str) -> bytes:
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error as error:
        raise Corrupt(f"{where}: bad base64 in an extended attribute", where=where) from error

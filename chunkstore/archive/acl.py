"""POSIX ACLs: the kernel's binary form as the text that tar archives carry.

The binary form is what `getxattr` gives for `system.posix_acl_access`: a u32 of version 2, then
per line u16 tag, u16 permissions, u32 id, little-endian. The text is what GNU tar and libarchive
read from `SCHILY.acl.access`, with ids as numbers: names mean other ids on other machines.
"""

from __future__ import annotations

import struct
from typing import Final

XATTRS: Final = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
"""The extended attributes that are ACLs, and the PAX keywords that carry their text."""

_VERSION: Final = struct.pack("<I", 2)
_LINE: Final = struct.Struct("<HHI")
_OWNERS: Final = {0x01: b"user", 0x04: b"group", 0x10: b"mask", 0x20: b"other"}
_NAMED: Final = {0x02: b"user", 0x08: b"group"}
_PERMISSIONS: Final = tuple(
    bytes(letter if bits & bit else ord("-") for letter, bit in zip(b"rwx", (4, 2, 1), strict=True))
    for bits in range(8)
)


def text(value: bytes) -> bytes | None:
    """The ACL as text, or `None` if `value` is not one that the text can say."""
    body = value[len(_VERSION) :]
    if value[: len(_VERSION)] != _VERSION or not body or len(body) % _LINE.size:
        return None
    lines = []
    for tag, permissions, number in _LINE.iter_unpack(body):
        if permissions >= len(_PERMISSIONS):
            return None
        if tag in _OWNERS:
            lines.append(b"%b::%b" % (_OWNERS[tag], _PERMISSIONS[permissions]))
        elif tag in _NAMED:
            lines.append(b"%b:%d:%b" % (_NAMED[tag], number, _PERMISSIONS[permissions]))
        else:
            return None
    return b",".join(lines)

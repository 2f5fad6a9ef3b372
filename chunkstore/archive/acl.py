"""POSIX ACLs: the kernel's binary form, and the text that tar archives carry.

The binary form is what `getxattr` gives for `system.posix_acl_access`: a u32 of version 2, then
per line u16 tag, u16 permissions, u32 id, little-endian. The text is what GNU tar and libarchive
read from `SCHILY.acl.access`, with ids as numbers: names mean other ids on other machines. They
write names all the same, star and libarchive with the number behind, so `parse` takes both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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


Lookup = Callable[[bytes, bytes], int | None]
"""The id of a (`b"user"` or `b"group"`, name), or None."""

_NOBODY_IN_PARTICULAR: Final = 0xFFFFFFFF
_TAGS: Final = {
    **{(word, False): tag for tag, word in _OWNERS.items()},
    **{(word, True): tag for tag, word in _NAMED.items()},
}
_WORDS: Final = {b"u": b"user", b"g": b"group", b"m": b"mask", b"o": b"other"}
_MINIMAL: Final = 3


def nobody(_kind: bytes, _name: bytes) -> None:
    """A lookup that knows no names."""
    return


def parse(written: bytes, lookup: Lookup) -> bytes | None:
    """The binary form of an ACL as text, in the kernel's order; `None` if it is not a whole one."""
    found: dict[tuple[int, int], int] = {}
    for item in written.replace(b"\n", b",").split(b","):
        line = item.partition(b"#")[0].strip()
        if not line:
            continue
        word, _, rest = line.partition(b":")
        name, _, rest = rest.partition(b":")
        letters, _, given = rest.partition(b":")
        tag = _TAGS.get((_WORDS.get(word, word), bool(name)))
        if tag is None or len(letters) < 3 or letters[:3].translate(None, b"rwx-"):
            return None
        permissions = sum(
            bit for letter, bit in zip(b"rwx", (4, 2, 1), strict=True) if letter in letters[:3]
        )
        number: int | None = _NOBODY_IN_PARTICULAR
        if name:
            digits = given or name
            number = int(digits[:11]) if digits.isdigit() else lookup(_NAMED[tag], name)
        if number is None or number > _NOBODY_IN_PARTICULAR or (tag, number) in found:
            return None
        found[tag, number] = permissions
    tags = [tag for tag, _ in found]
    has_named = any(tag in _NAMED for tag in tags)
    # The kernel takes no other: all three classes, and a mask where there are others.
    if not {0x01, 0x04, 0x20} <= set(tags) or (has_named and 0x10 not in tags):
        return None
    lines = (_LINE.pack(tag, found[tag, number], number) for tag, number in sorted(found))
    return _VERSION + b"".join(lines)


def mode_bits(value: bytes) -> int:
    """The permissions of a file whose access ACL is this one: the mask stands for the group."""
    known = {tag: permissions for tag, permissions, _ in _LINE.iter_unpack(value[4:])}
    bits: int = known[0x01] << 6 | known.get(0x10, known[0x04]) << 3 | known[0x20]
    return bits


def is_minimal(value: bytes) -> bool:
    """Whether a mode says the same."""
    return len(value) == len(_VERSION) + _MINIMAL * _LINE.size

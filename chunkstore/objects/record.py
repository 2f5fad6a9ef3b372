"""Canonical MessagePack: one value, one encoding.

Promises: `decode` accepts only what `encode` writes (shortest forms, no maps, no extension types,
no trailing bytes), in memory bounded by the input. Everything else, and anything MessagePack itself
objects to, is `Corrupt`. Leaves the types of fields to the formats: no field is a float, a boolean
or nil, and `true` must not pass for 1, which `whole` is there to check.

Specified in `docs/format.md`, section "Records".
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

from chunkstore.errors import Corrupt, Unsupported

HEADER: Final = struct.Struct("<8sI")
"""Every object that is a file of its own opens with eight bytes of magic and a format version."""


def encode(value: object) -> bytes:
    """Encode tuples, lists, bytes, str and int. Raises `Corrupt` for what has no encoding."""
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (OverflowError, UnicodeEncodeError) as error:
        # A sum of sizes beyond 64 bits, a message that is not Unicode.
        raise Corrupt(f"can't be recorded: {error}") from error
    return packed


def whole(*values: object) -> bool:
    """Whether all are integers; Python's `True` is one, the record's is not."""
    return all(type(value) is int for value in values)


def _refuse(*_: object) -> Any:
    raise ValueError("map or extension type")


def decode(data: bytes | memoryview, where: str) -> Any:
    """Decode one canonical value; arrays come back as tuples. Raises `Corrupt` naming `where`."""
    limit = len(data)
    try:
        # Before anything is built: releases of msgpack before 1.2.4 make room for all the elements
        # an array claims, on every level of nesting, and only then find that they are not there.
        scan = msgpack.Unpacker(None, max_buffer_size=max(limit, 1))
        scan.feed(data)
        scan.skip()
        value = msgpack.unpackb(
            data,
            use_list=False,
            raw=False,
            # No format here uses a map, which could carry a key twice, nor an extension type. The
            # lengths alone would let an empty one through.
            object_hook=_refuse,
            ext_hook=_refuse,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=limit,
        )
        canonical = encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise Corrupt(f"{where}: not a record: {error}", where=where) from error
    # Re-encoding is the whole check of canonical form: a longer integer, length or string type
    # can't come back as the same bytes.
    if canonical != data:
        raise Corrupt(f"{where}: record is not in canonical form", where=where)
    return value


def seal(magic: bytes, version: int, value: object) -> bytes:
    """A whole small document: header and record."""
    return HEADER.pack(magic, version) + encode(value)


def unseal(data: bytes, magic: bytes, version: int, where: str) -> Any:
    """The record of a small document. Raises `Corrupt`, or `Unsupported` for another version."""
    check_header(data, magic, version, where)
    return decode(memoryview(data)[HEADER.size :], where)


def check_header(data: bytes | memoryview, magic: bytes, version: int, where: str) -> None:
    """Check magic and format version. Raises `Corrupt`, or `Unsupported` for another version."""
    if len(data) < HEADER.size:
        raise Corrupt(f"{where}: too short to be anything", where=where)
    found, number = HEADER.unpack_from(data)
    if found != magic:
        raise Corrupt(f"{where}: is not a {magic.decode().strip()} object", where=where)
    if number != version:
        raise Unsupported(
            f"{where}: format version {number}, this program knows {version}; "
            "update imgstore on this machine",
            where=where,
        )

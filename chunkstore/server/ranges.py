"""The conditional and range headers of RFC 9110, as pure functions.

One range per request. A request for several is answered 416, neither served
in parts (many overlapping ranges make a small request a huge response) nor
with the whole object (64 MiB for a client that wanted two small pieces).
A malformed `bytes` range is 416 for the same reason. A unit other than bytes
is ignored, as the RFC demands.
"""

from __future__ import annotations

import re

# 19 digits hold every file offset; more is nonsense, and int() on a long
# string of digits is not free.
_RANGE = re.compile(r"([0-9]{0,19})-([0-9]{0,19})", re.ASCII)
_ETAG = re.compile(r'(?:W/)?("[^"]*")')


class UnsatisfiableRangeError(ValueError):
    """The range lies outside the object, is malformed, or is several ranges."""


def requested_range(header: str, size: int) -> range | None:
    """The bytes that `header` asks for of an object of `size` bytes.

    None means the header is to be ignored. Raises UnsatisfiableRangeError.
    """
    unit, _, spec = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    match = _RANGE.fullmatch(spec.strip())
    if match is None or match[0] == "-":
        raise UnsatisfiableRangeError(header)
    first, last = match.groups()
    if not first:
        span = range(max(0, size - int(last)), size)
    elif not last:
        span = range(int(first), size)
    elif int(last) < int(first):
        raise UnsatisfiableRangeError(header)
    else:
        span = range(int(first), min(int(last) + 1, size))
    if not span:
        raise UnsatisfiableRangeError(header)
    return span


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether If-Range lets the Range header stand.

    Only a strong, equal tag does. A date never does: no Last-Modified is sent,
    so no client can hold a date of ours.
    """
    return if_range is None or if_range.strip() == etag


def none_match(if_none_match: str, etag: str) -> bool:
    """Whether If-None-Match names `etag`: the client has the object already."""
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)

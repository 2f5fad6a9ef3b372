"""Numbers, sizes, times, ids and modes as people read them, and tables of them."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterable, Sequence
from typing import Final

_UNITS: Final = ("KB", "MB", "GB", "TB", "PB", "EB")


def human(size: int) -> str:
    """A number of bytes to be read: `512 bytes`, `4.2 KB`, `410 KB`, in powers of 1000."""
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    amount = size / 1000
    units = iter(_UNITS)
    unit = next(units)
    while amount >= 999.5:  # which would be shown as 1000
        amount /= 1000
        unit = next(units)
    return f"{amount:.1f} {unit}" if amount < 99.95 else f"{amount:.0f} {unit}"


def counted(number: int, noun: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short(digest: bytes) -> str:
    """A version's id as people see it."""
    return digest.hex()[:12]


def local_time(nanoseconds: int) -> str:
    """A time in the zone of whoever looks, with its offset from UTC."""
    moment = time.localtime(nanoseconds // 1_000_000_000)
    offset = time.strftime("%z", moment)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f"{offset[:3]}:{offset[3:]}"


def mode_text(file_format: int, mode: int) -> str:
    """`drwxr-xr-x`."""
    return stat.filemode(file_format | mode)


def table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Lines with the columns below each other; those in `right` aligned to the right."""
    kept = [list(row) for row in rows]
    if not kept:
        return []
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    numbers = set(right)
    return [
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in kept
    ]

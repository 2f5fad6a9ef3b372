"""Amounts as people type them, for `type=` of an option."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import Final

_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kKMG]?)", re.ASCII)
_UNITS: Final = {"": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3}


def parse_rate(text: str) -> float:
    """Bytes per second: `500k`, `1.5M`, `2G`, `64000`, in powers of 1000 like all sizes here.

    Raises `ArgumentTypeError` for less than one byte per second too: it would never end.
    """
    match = _RATE.fullmatch(text)
    rate = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if rate < 1:
        raise ArgumentTypeError(
            f"{text!r} is no rate: write bytes per second such as 500k or 1.5M, more than 0"
        )
    return rate

"""Amounts as people type them, for `type=` of an option."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from typing import Final

_AMOUNT: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kKMG]?)", re.ASCII)
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smh]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_UNITS: Final = {"": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3}


def parse_rate(text: str) -> float:
    """Bytes per second: `500k`, `1.5M`, `2G`, `64000`, in powers of 1000 like all sizes here.

    Raises `ArgumentTypeError` for less than one byte per second too: it would never end.
    """
    match = _AMOUNT.fullmatch(text)
    rate = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if rate < 1:
        raise ArgumentTypeError(
            f"{text!r} is no rate: write bytes per second such as 500k or 1.5M, more than 0"
        )
    return rate


def parse_size(text: str) -> int:
    """Bytes: `500M`, `2G`, `64000`, in powers of 1000. Raises `ArgumentTypeError`."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no size: write bytes such as 500M or 2G")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_time(text: str) -> float:
    """Seconds: `90`, `90s`, `15m`, `2h`. Raises `ArgumentTypeError`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no time: write seconds such as 90, or 15m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def parse_count(text: str) -> int:
    """A number above 0. Raises `ValueError`."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse_percent(text: str) -> float:
    """A share, with or without the sign. Raises `ValueError`."""
    number = float(text.removesuffix("%"))
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def parse_ratio(text: str) -> float:
    """How many times. Raises `ValueError`."""
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError
    return number


def parse_seconds(text: str) -> float:
    """Seconds, also parts of one. Raises `ValueError`."""
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


parse_count.__name__ = "number"  # what argparse calls the kind of value it could not read
parse_percent.__name__ = "percentage"
parse_ratio.__name__ = "ratio"
parse_seconds.__name__ = "number of seconds"

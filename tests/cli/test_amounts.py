"""Amounts as people type them."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
from imgstore.amounts import parse_rate
from imgstore.parser import _Parser

from chunkstore.errors import Usage


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1", 1),
        ("64000", 64_000),
        ("500k", 500_000),
        ("500K", 500_000),
        ("1.5M", 1_500_000),
        ("0.5k", 500),
        ("2G", 2_000_000_000),
    ],
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    # The last in the list are digits of other scripts, and a line too many.
    ["", "0", "0k", "0.0M", "0.9", "-1", "k", "1m", "1kB", "1 M", "1e6", "inf", "nan", "1.", ".5",
     "9" * 16, "٣", "1k\n"],
)  # fmt: skip
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no rate: write bytes per second"):
        parse_rate(text)


def test_as_the_type_of_an_option() -> None:
    parser = _Parser(prog="imgstore pull")
    parser.add_argument("--limit-rate", metavar="RATE", type=parse_rate)
    assert parser.parse_args(["--limit-rate", "1.5M"]).limit_rate == 1_500_000
    with pytest.raises(Usage, match=r"argument --limit-rate: '0' is no rate: .*500k"):
        parser.parse_args(["--limit-rate", "0"])

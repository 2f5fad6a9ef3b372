"""The range and conditional headers, without a server."""

from __future__ import annotations

import pytest

from chunkstore.server.ranges import (
    UnsatisfiableRangeError,
    none_match,
    range_applies,
    requested_range,
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-99", range(100)),
        ("bytes=0-100000", range(100)),
        ("bytes=99-99", range(99, 100)),
        ("bytes=10-", range(10, 100)),
        ("bytes=-1", range(99, 100)),
        ("bytes=-100", range(100)),
        ("bytes=-5000", range(100)),
        ("Bytes = 3-4 ", range(3, 5)),
        ("bytes=0-9999999999999999999", range(100)),
    ],
)
def test_one_range(header: str, expected: range) -> None:
    assert requested_range(header, 100) == expected


@pytest.mark.parametrize(
    "header",
    [
        "bytes=100-",
        "bytes=100-200",
        "bytes=-0",
        "bytes=5-4",
        "bytes=-",
        "bytes=",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=١-٢",  # noqa: RUF001  # digits, but not of HTTP
        "bytes=0-1,4-5",
        "bytes=0-1,",
        "bytes=" + "9" * 20 + "-",
        "bytes=" + ",".join(["0-"] * 1000),
    ],
)
def test_no_such_range(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        requested_range(header, 100)


@pytest.mark.parametrize("header", ["lines=0-1", "0-1", "", "pages"])
def test_unknown_units_are_ignored(header: str) -> None:
    assert requested_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_object_has_no_ranges(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        requested_range(header, 0)


def test_if_range_needs_the_same_strong_tag() -> None:
    assert range_applies(None, '"x"')
    assert range_applies('"x"', '"x"')
    assert not range_applies('"y"', '"x"')
    assert not range_applies('W/"x"', '"x"')
    assert not range_applies("Sun, 06 Nov 1994 08:49:37 GMT", '"x"')


def test_if_none_match_compares_weakly() -> None:
    assert none_match("*", '"x"')
    assert none_match('"a", W/"x"', '"x"')
    assert none_match('"a","x"', '"x"')
    assert not none_match('"a", "b"', '"x"')
    assert not none_match("x", '"x"')
    assert not none_match("", '"x"')

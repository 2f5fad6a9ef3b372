"""Records: one value, one encoding; anything else is `Corrupt`, in bounded memory."""

from __future__ import annotations

import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects import record

numbers = st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    st.one_of(numbers, st.binary(max_size=300), st.text(max_size=50)),
    lambda inner: st.lists(inner, max_size=20).map(tuple),
    max_leaves=30,
)


@given(values)
def test_round_trip(value):
    data = record.encode(value)
    assert record.decode(data, "here") == value
    assert record.decode(memoryview(data), "here") == value


EDGES = (0, 128, 256, 2**16, 2**32, 2**63, -32, -128, -(2**15), -(2**31))


@pytest.mark.parametrize(
    "number", [*(edge + step for edge in EDGES for step in (-1, 0, 1)), 2**64 - 1, -(2**63)]
)
def test_numbers_at_the_edges_of_their_forms(number):
    assert record.decode(record.encode(number), "here") == number


@pytest.mark.parametrize("length", [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_lengths_at_the_edges_of_their_forms(length):
    for value in (b"x" * length, "x" * length, (0,) * length):
        assert record.decode(record.encode(value), "here") == value


@given(st.binary(max_size=200))
def test_any_bytes_give_their_own_value_or_corrupt(data):
    try:
        value = record.decode(data, "here")
    except Corrupt as error:
        kind, where = type(error), error.where
    else:
        kind, where = Corrupt, "here"
        assert record.encode(value) == data
    assert (kind, where) == (Corrupt, "here")


# Bytes that often are MessagePack, which random ones seldom are.
tokens = st.sampled_from(
    [bytes([first]) for first in range(256)] + [b"\x00" * 4, b"\xff" * 8, b"\x00\x01", b"ab"]
)


@given(st.lists(tokens, max_size=30).map(b"".join))
def test_any_tokens_give_their_own_value_or_corrupt(data):
    try:
        value = record.decode(data, "here")
    except Corrupt:
        return
    assert record.encode(value) == data


@given(values)
def test_trailing_bytes_and_truncations_are_corrupt(value):
    data = record.encode(value)
    with pytest.raises(Corrupt):
        record.decode(data + b"\0", "here")
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            record.decode(data[:length], "here")


def peak_of_refusing(data: bytes) -> int:
    """Bytes allocated at most while `data` is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            record.decode(data, "here")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [1, 10, 900])
def test_an_array_gets_no_memory_for_elements_that_are_not_there(depth):
    length = 500_000
    head = b"\xdd" + struct.pack(">I", length - 5 * depth)
    data = head * depth + bytes(length - 5 * depth - 1)
    # Half a megabyte may be copied once or twice; 900 tuples of 500,000 would be 3.6 GB.
    assert peak_of_refusing(data) < 3_000_000


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])
def test_a_length_of_4_gib_gets_no_memory(head):
    assert peak_of_refusing(head + b"\xff" * 4 + bytes(100)) < 100_000


def test_memory_follows_the_input_even_at_its_worst():
    # Two bytes of input become a tuple, its slot, and its link in the collector's list.
    count = 250_000
    data = b"\xdd" + struct.pack(">I", count) + b"\x91\x00" * count
    tracemalloc.start()
    record.decode(data, "here")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 45 * len(data)


@pytest.mark.parametrize("depth", [200, 600, 1100, 100_000])
def test_depth_ends_in_corrupt_or_a_value(depth):
    data = b"\x91" * depth + b"\x01"
    try:
        value = record.decode(data, "here")
    except Corrupt:
        assert depth > 200
    else:
        assert record.encode(value) == data


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\udcff"])
def test_what_has_no_encoding_is_a_declared_error(value):
    with pytest.raises(Corrupt, match="can't be recorded"):
        record.encode((1, value))


def test_whole_takes_integers_only():
    assert record.whole(0, 1, -1, 2**64)
    for value in (True, False, 1.0, None, "1", b"1"):
        assert not record.whole(1, value)


MAGIC = b"IMGSTEST"


def test_seal_and_unseal():
    data = record.seal(MAGIC, 1, (1, b"x"))
    assert data == MAGIC + b"\x01\0\0\0" + msgpack.packb((1, b"x"))
    assert record.unseal(data, MAGIC, 1, "here") == (1, b"x")


def test_another_magic_is_corrupt_and_another_version_unsupported():
    data = record.seal(MAGIC, 2, 1)
    with pytest.raises(Unsupported, match="version 2"):
        record.unseal(data, MAGIC, 1, "here")
    with pytest.raises(Corrupt, match="is not a") as caught:
        record.unseal(data, b"IMGSOTHR", 2, "here")
    assert type(caught.value) is Corrupt
    for length in range(record.HEADER.size):
        with pytest.raises(Corrupt, match="too short"):
            record.unseal(data[:length], MAGIC, 2, "here")

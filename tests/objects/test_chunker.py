"""Chunker: limits, locality, frozen cut points, and that cutting in blocks changes nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.errors import Unsupported
from chunkstore.objects.chunker import Parameters, cut

SMALL = Parameters(1024, 2048, 4096)
FASTCDC = Path(__file__).parent.parent / "golden" / "fastcdc.json"


def noise(length: int, seed: str = "imgstore") -> bytes:
    return hashlib.shake_128(seed.encode()).digest(length)


contents = st.lists(
    st.one_of(
        st.builds(noise, st.integers(0, 9000), st.sampled_from("abcdefgh")),
        st.builds(bytes, st.integers(0, 9000)),
        st.builds(lambda unit, times: unit * times, st.binary(max_size=40), st.integers(0, 300)),
    ),
    max_size=6,
).map(b"".join)


@given(contents)
def test_lengths_add_up_within_the_limits(data):
    lengths = list(cut(data, SMALL))
    assert sum(lengths) == len(data)
    assert all(SMALL.minimum <= length <= SMALL.maximum for length in lengths[:-1])
    assert all(0 < length <= SMALL.maximum for length in lengths[-1:])


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 4096, 4097])
def test_around_the_limits(length):
    for data in (noise(length), bytes(length)):
        lengths = list(cut(data, SMALL))
        assert sum(lengths) == length
        assert len(lengths) == (length > 0) or length > SMALL.minimum


def test_content_without_any_cut_point_is_cut_at_the_maximum():
    assert list(cut(bytes(10_000), SMALL)) == [4096, 4096, 1808]


def chunks(data: bytes, parameters: Parameters) -> list[bytes]:
    found = []
    start = 0
    for length in cut(data, parameters):
        found.append(data[start : start + length])
        start += length
    return found


def test_an_insertion_moves_only_its_neighbours():
    parameters = Parameters(8 * 1024, 32 * 1024, 128 * 1024)
    data = noise(4 * 1024 * 1024)
    before = set(chunks(data, parameters))
    assert 64 <= len(before) <= 256
    for place in (0, 1, 1_000_000, 2_345_678, len(data) - 1, len(data)):
        after = chunks(data[:place] + b"!" + data[place:], parameters)
        assert sum(chunk not in before for chunk in after) <= 4


def cut_in_blocks(data: bytes, block: int, parameters: Parameters, reserve: int) -> list[int]:
    """Lengths as found by who sees no more than a block and what the last one left over.

    A chunk that begins less than `reserve` before the end of what is seen may only end there
    because nothing more is seen: it is offered again. With `reserve` 0 that is done for the last
    chunk alone.
    """
    lengths = []
    kept = b""
    for start in range(0, max(len(data), 1), block):
        seen = kept + data[start : start + block]
        is_last = start + block >= len(data)
        offset = 0
        for length in cut(seen, parameters):
            open_end = offset + max(length, reserve - 1) >= len(seen)
            if open_end and not is_last:
                break
            lengths.append(length)
            offset += length
        kept = seen[offset:]
    assert not kept
    return lengths


@given(contents, st.integers(1, 12_000), st.sampled_from([0, SMALL.maximum]))
def test_cutting_in_blocks_is_cutting_the_whole(data, block, reserve):
    assert cut_in_blocks(data, block, SMALL, reserve) == list(cut(data, SMALL))


@settings(max_examples=10)
@given(st.integers(300_000, 1_500_000))
def test_cutting_in_blocks_of_real_sizes(block):
    parameters = Parameters(16 * 1024, 64 * 1024, 256 * 1024)
    data = noise(2_000_000) + bytes(1_000_000) + noise(700_001, "b")
    for reserve in (0, parameters.maximum):
        assert cut_in_blocks(data, block, parameters, reserve) == list(cut(data, parameters))


def test_cut_points_are_frozen():
    if not FASTCDC.exists():
        pytest.skip("no frozen cut points")
    cases = json.loads(FASTCDC.read_text())
    assert cases
    for case in cases:
        assert case["input"] == "blake3 xof of 'imgstore golden', 1048576 bytes"
        data = blake3(b"imgstore golden").digest(length=1048576)
        parameters = Parameters(case["min"], case["avg"], case["max"])
        ends = []
        for length in cut(data, parameters):
            ends.append((ends[-1] if ends else 0) + length)
        assert ends == case["cuts"]


@pytest.mark.parametrize(
    "parameters", [(1024, 2048, 4096), (8192, 32768, 131072), (1024, 262144, 524288)]
)
def test_parameters_that_pass(parameters):
    assert Parameters(*parameters).check("here") == Parameters(*parameters)


def test_the_defaults_pass():
    assert Parameters().check("here") == Parameters()


@pytest.mark.parametrize(
    "parameters",
    [
        (1023, 2048, 4096),
        (0, 2048, 4096),
        (-1, 2048, 4096),
        (2048, 2048, 4096),
        (1024, 4096, 4096),
        (4096, 2048, 1024),
        (1024, 3000, 4096),
        (8192, 32768, 524289),
        (1024, 2**40, 2**41),
    ],
)
def test_parameters_that_are_refused(parameters):
    with pytest.raises(Unsupported, match="parameters"):
        Parameters(*parameters).check("here")

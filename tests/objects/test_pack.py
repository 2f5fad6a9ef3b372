"""Packs and indexes. Indexes that lie are in `hostile.json`."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt
from chunkstore.objects import pack
from chunkstore.objects.codec import LZ4, MAX_FRAME, RAW, ZSTD
from chunkstore.objects.digest import index_digest
from chunkstore.objects.pack import CHUNK, Frame, Index

chunks_of_a_frame = st.lists(
    st.tuples(st.binary(min_size=32, max_size=32), st.integers(1, 1000)), min_size=1, max_size=6
)
frames = st.lists(
    st.tuples(chunks_of_a_frame, st.sampled_from([RAW, LZ4, ZSTD]), st.floats(0.01, 1)), max_size=6
)


def lay(content):
    """The frames and chunk records of an index."""
    offset = pack.HEADER.size
    laid = []
    records = b""
    for chunks, method, share in content:
        raw = sum(length for _, length in chunks)
        stored = raw if method == RAW else max(1, int(raw * share))
        laid.append(Frame(offset, stored, raw, len(chunks), method))
        records += b"".join(CHUNK.pack(*chunk) for chunk in chunks)
        offset += stored
    return laid, records


@given(frames)
def test_round_trip(content):
    laid, records = lay(content)
    data = pack.encode_index(laid, records)
    index = pack.parse_index(data, "here")
    assert index == Index(laid, records)
    assert pack.encode_index(index.frames, index.chunks) == data
    expected = []
    for number, (chunks, _, _) in enumerate(content):
        start = 0
        for digest, length in chunks:
            expected.append((digest, number, start, length))
            start += length
    assert list(index.places()) == expected


def test_offsets_are_sums():
    laid, records = lay([([(bytes(32), 10)], RAW, 1), ([(bytes(32), 1000)], ZSTD, 0.1)] * 2)
    index = pack.parse_index(pack.encode_index(laid, records), "here")
    assert [frame.offset for frame in index.frames] == [16, 26, 126, 136]


def test_the_largest_frame():
    laid = [Frame(16, MAX_FRAME, MAX_FRAME, 1, RAW)]
    index = pack.parse_index(pack.encode_index(laid, CHUNK.pack(bytes(32), MAX_FRAME)), "here")
    assert index.frames == laid


def test_impossible_counts_cost_nothing():
    body = struct.pack("<8sIII", pack.INDEX_MAGIC, 1, 2**32 - 1, 2**32 - 1)
    data = body + index_digest(body)
    tracemalloc.start()
    with pytest.raises(Corrupt):
        pack.parse_index(data, "here")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000


def test_nothing_is_written_that_would_not_be_read():
    with pytest.raises(Corrupt, match="more than"):
        pack.encode_index([Frame(16, 1, 1, 1, RAW)] * (pack.MAX_FRAMES + 1), b"")
    with pytest.raises(Corrupt, match="more than"):
        pack.encode_index([], bytes(CHUNK.size * (pack.MAX_CHUNKS + 1)))


def footer(length: int, magic: bytes = b"IMGSPEND") -> bytes:
    return struct.pack("<Q8s", length, magic)


def test_the_footer_finds_the_index():
    index = pack.encode_index([], b"")
    assert pack.encode_footer(index) == footer(len(index))
    size = 16 + 100 + len(index) + 16
    assert pack.index_extent(footer(len(index)), size, "here") == (116, 116 + len(index))
    # Right behind the header, in a pack without frames.
    assert pack.index_extent(footer(len(index)), 32 + len(index), "here") == (16, 16 + len(index))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (footer(52, b"IMGSPACK"), 1000),
        (footer(52)[:-1], 1000),
        (footer(52) + b"\0", 1000),
        (b"", 0),
        (footer(0), 1000),
        (footer(969), 1000),
        (footer(1000), 1000),
        (footer(2**64 - 1), 1000),
        (footer(pack.MAX_INDEX + 1), 2**40),
        (footer(1), 32),
        (footer(52), 16),
        (footer(52), 0),
    ],
)
def test_footers_that_are_refused(data, size):
    with pytest.raises(Corrupt, match="footer"):
        pack.index_extent(data, size, "here")


def test_a_footer_at_its_limits():
    assert pack.index_extent(footer(968), 1000, "here") == (16, 984)
    start, stop = pack.index_extent(footer(pack.MAX_INDEX), 2**40, "here")
    assert stop - start == pack.MAX_INDEX

"""Delta packs: what they say comes back, and what they claim is bounded."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects import deltapack
from chunkstore.objects.codec import MAX_FRAME
from chunkstore.objects.deltapack import DeltaFrame
from chunkstore.objects.digest import chunk_digest, delta_index_digest, delta_pack_hasher
from chunkstore.objects.documents import PackUse
from chunkstore.objects.pack import CHUNK, FOOTER, HEADER, index_extent

digests = st.binary(min_size=32, max_size=32)
runs = st.lists(st.tuples(digests, st.integers(1, 2000)), min_size=1, max_size=5)
contents = st.lists(st.tuples(runs, runs, st.floats(0.01, 1)), max_size=6)


def lay(content):
    frames = []
    offset = HEADER.size
    for chunks, bases, share in content:
        raw = sum(length for _, length in chunks)
        stored = max(1, int(raw * share))
        parts = [b"".join(CHUNK.pack(*item) for item in run) for run in (chunks, bases)]
        frames.append(DeltaFrame(offset, stored, raw, *parts))
        offset += stored
    return frames


@given(contents)
def test_indexes_come_back(content):
    frames = lay(content)
    data = deltapack.encode_index(frames)
    assert deltapack.parse_index(data, "here") == frames
    for frame, (chunks, bases, _) in zip(frames, content, strict=True):
        assert list(deltapack.records(frame.chunks)) == chunks
        assert list(deltapack.records(frame.bases)) == bases


@given(st.binary(min_size=1, max_size=5000), st.binary(min_size=1, max_size=5000))
def test_frames_come_back(base, data):
    stored = deltapack.compress(data, base)
    assert deltapack.decompress(stored, base, len(data), "here") == data


def test_what_is_the_same_takes_nothing():
    base = bytes(range(256)) * 8 + b"".join(chunk_digest(b"%d" % n) for n in range(60_000))
    data = base[500_000:1_400_000] + b"new" + base[:100_000]
    assert len(deltapack.compress(data, base)) < 2000


def resealed(body: bytes) -> bytes:
    return body + delta_index_digest(body)


ONE = [([(bytes(32), 10), (b"x" * 32, 20)], [(b"y" * 32, 5)], 0.5)]


def rows(body: bytes, *change: tuple[int, int]) -> bytes:
    """An index with other numbers at these places."""
    changed = bytearray(body[:-32])
    for place, value in change:
        struct.pack_into("<I", changed, place, value)
    return resealed(bytes(changed))


HEAD, TABLE = 12, 24
HOSTILE = {
    "more frames than there are": [(HEAD, 2)],
    "more frames than may be": [(HEAD, 2**31)],
    "more chunks than may be": [(HEAD + 4, 2**31)],
    "more bases than may be": [(HEAD + 8, 2**31)],
    "a chunk in no frame": [(TABLE + 8, 1)],
    "a base in no frame": [(TABLE + 12, 0)],
    "nothing stored": [(TABLE, 0)],
    "more stored than raw": [(TABLE, 31)],
    "chunks that do not fill it": [(TABLE + 4, 31)],
    "a frame too long": [(TABLE + 4, MAX_FRAME + 1), (TABLE + 16 + 32, MAX_FRAME - 19)],
    "a chunk of no length": [(TABLE + 16 + 32, 0), (TABLE + 4, 20)],
    "a base of no length": [(TABLE + 16 + 72 + 32, 0)],
    "bases too long": [(TABLE + 16 + 72 + 32, deltapack.MAX_BASE + 1)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_indexes(name):
    good = deltapack.encode_index(lay(ONE))
    assert deltapack.parse_index(rows(good), "here")
    with pytest.raises(Corrupt, match="here"):
        deltapack.parse_index(rows(good, *HOSTILE[name]), "here")


def test_damaged_indexes():
    good = deltapack.encode_index(lay(ONE))
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1
        with pytest.raises((Corrupt, Unsupported)):
            deltapack.parse_index(bytes(damaged), "here")
        with pytest.raises(Corrupt):
            deltapack.parse_index(good[:place], "here")
    with pytest.raises(Corrupt):
        deltapack.parse_index(good + b"\0", "here")
    with pytest.raises(Unsupported):
        deltapack.parse_index(rows(good, (8, 2)), "here")


def test_frames_that_lie_about_their_size_end_before_they_take_memory():
    base = b"base" * 1000
    for size in (200_000_000, 5000):
        bomb = zstandard.ZstdCompressor(dict_data=deltapack._prefix(base)).compress(bytes(size))
        tracemalloc.start()
        with pytest.raises(Corrupt):
            deltapack.decompress(bomb, base, 4999, "here")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000


@pytest.mark.parametrize(
    "stored",
    [b"", b"\x28\xb5\x2f\xfd", zstandard.compress(b"x" * 100)[:-1], b"\0" * 50],
)
def test_frames_that_are_none(stored):
    with pytest.raises(Corrupt):
        deltapack.decompress(stored, b"base", 100, "here")


def test_something_behind_a_frame_or_another_base():
    base = bytes(range(256)) * 4
    stored = deltapack.compress(base + b"new", base)
    with pytest.raises(Corrupt):
        deltapack.decompress(stored + b"x", base, len(base) + 3, "here")
    try:
        other = deltapack.decompress(stored, base[::-1], len(base) + 3, "here")
    except Corrupt:
        return
    assert other != base + b"new"  # its digest tells


@pytest.mark.parametrize(("raw", "base"), [(0, 1), (MAX_FRAME + 1, 1), (1, 0)])
def test_sizes_out_of_bounds(raw, base):
    with pytest.raises(Corrupt):
        deltapack.decompress(b"", bytes(base), raw, "here")


def test_golden(golden):
    expected = golden.expected["delta"]
    data = golden.read("delta.pack")
    hasher = delta_pack_hasher()
    hasher.update(data)
    use = PackUse(hasher.digest(), len(data), expected["use"]["index_size"])
    assert golden.bytes_of(expected["use"]["pack"]) == use.pack
    start, stop = index_extent(data[-FOOTER.size :], len(data), "delta.pack")
    assert stop - start == use.index_size
    (frame,) = deltapack.parse_index(data[start:stop], "delta.pack")
    ((base, length),) = deltapack.records(frame.bases)
    assert base == golden.bytes_of(expected["base"])
    lines = b"".join(b"line %d of a file that compresses\n" % number for number in range(60))
    assert (chunk_digest(lines), len(lines)) == (base, length)
    stored = data[frame.offset : frame.offset + frame.stored]
    raw = deltapack.decompress(stored, lines, frame.raw, "delta.pack")
    assert list(deltapack.records(frame.chunks)) == [(chunk_digest(raw), expected["size"])]
    assert chunk_digest(raw) == golden.bytes_of(expected["chunk"])
    hint = golden.read("deltas.bin")
    assert deltapack.parse_deltas(hint, golden.version_id) == [use]


def test_hints():
    use = PackUse(b"p" * 32, 1000, 200)
    good = deltapack.encode_deltas(b"v" * 32, [use])
    assert deltapack.parse_deltas(good, b"v" * 32) == [use]
    bad = [
        deltapack.encode_deltas(b"w" * 32, [use]),
        deltapack.encode_deltas(b"v" * 32, [use._replace(index_size=2**40)]),
        deltapack.encode_deltas(b"v" * 32, [use] * (deltapack.MAX_PACKS + 1)),
        good[:-1],
        good + b"\0",
    ]
    for data in bad:
        with pytest.raises(Corrupt):
            deltapack.parse_deltas(data, b"v" * 32)

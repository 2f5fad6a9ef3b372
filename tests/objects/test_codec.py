"""Frames: round trips, and frames that lie about themselves, in bounded memory."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, Unsupported, Usage
from chunkstore.objects import codec
from chunkstore.objects.codec import LZ4, MAX_FRAME, RAW, ZSTD

METHODS = ["auto", "lz4", "none", "zstd:1", "zstd:3", "zstd:9", "zstd:19"]
contents = st.one_of(
    st.binary(min_size=1, max_size=2000),
    st.builds(
        lambda unit, times: unit * times, st.binary(min_size=1, max_size=50), st.integers(1, 2000)
    ),
)
TEXT = b"".join(b"line %d of a file that compresses\n" % number for number in range(3000))


def noise(length: int) -> bytes:
    return hashlib.shake_128(b"imgstore").digest(length)


@pytest.mark.parametrize("method", METHODS)
@given(data=contents)
def test_round_trip(method, data):
    used, stored = codec.compress(data, method)
    assert 0 < len(stored) <= len(data)
    assert codec.decompress(used, stored, len(data), "here") == data
    assert codec.decompress(used, memoryview(stored), len(data), "here") == data


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", [TEXT, TEXT * 10, bytes(MAX_FRAME), b"x"], ids=len)
def test_round_trip_of_large_frames(method, data):
    data = data[:MAX_FRAME]
    used, stored = codec.compress(data, method)
    assert codec.decompress(used, stored, len(data), "here") == data


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 100, 70_000, MAX_FRAME])
def test_what_does_not_compress_is_stored_raw(method, length):
    data = noise(length)
    assert codec.compress(data, method) == (RAW, data)


@pytest.mark.parametrize(
    ("method", "used"), [("auto", ZSTD), ("lz4", LZ4), ("none", RAW), ("zstd:5", ZSTD)]
)
def test_what_compresses_is_compressed_as_asked(method, used):
    found, stored = codec.compress(TEXT, method)
    assert found == used
    assert used == RAW or len(stored) < len(TEXT) / 3


def test_auto_sees_text_between_noise():
    data = (noise(100_000) + TEXT)[:MAX_FRAME]
    assert codec.compress(data, "auto")[0] == ZSTD


@pytest.mark.parametrize("level", range(1, 20))
def test_no_level_needs_a_larger_window_than_readers_allow(level):
    used, stored = codec.compress(bytes(MAX_FRAME), f"zstd:{level}")
    assert used == ZSTD
    assert zstandard.get_frame_parameters(stored).window_size <= MAX_FRAME


def test_methods():
    for method in METHODS:
        assert codec.check_method(method) == method
    for method in ("", "zstd", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "gzip", "AUTO", "lz4 "):
        with pytest.raises(Usage):
            codec.check_method(method)


def refused(method: int, stored: bytes, raw: int) -> str:
    """The message of the refusal, which may not have cost memory: frames are at most 1 MiB."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt) as caught:
            codec.decompress(method, stored, raw, "here")
        assert tracemalloc.get_traced_memory()[1] < MAX_FRAME + 200_000
    finally:
        tracemalloc.stop()
    assert type(caught.value) is Corrupt
    assert caught.value.where == "here"
    return str(caught.value)


def zstd_frame(declared: int, blocks: bytes, *, window: int | None = None) -> bytes:
    """A frame by hand: a single segment, or one with a window of `2**window` bytes."""
    if window is None:
        head = bytes([0b1010_0000]) + struct.pack("<I", declared)
    else:
        head = bytes([0b1000_0000, (window - 10) << 3]) + struct.pack("<I", declared)
    return struct.pack("<I", 0xFD2FB528) + head + blocks


def block(kind: int, size: int, data: bytes, *, last: bool = True) -> bytes:
    """A block by hand: kind 0 is raw, 1 one byte repeated."""
    return (int(last) | kind << 1 | size << 3).to_bytes(3, "little") + data


HELLO = zstd_frame(5, block(0, 5, b"hello"))


def test_frames_made_by_hand_are_right():
    assert codec.decompress(ZSTD, HELLO, 5, "here") == b"hello"
    assert codec.decompress(ZSTD, zstd_frame(9, block(1, 9, b"x")), 9, "here") == b"x" * 9
    windowed = zstd_frame(5, block(0, 5, b"hello"), window=20)
    assert codec.decompress(ZSTD, windowed, 5, "here") == b"hello"


def test_a_frame_that_declares_a_gibibyte():
    def bomb(blocks: int) -> bytes:
        full = block(1, 128 * 1024, b"\0", last=False) * (blocks - 1) + block(1, 128 * 1024, b"\0")
        return zstd_frame(blocks * 128 * 1024, full, window=17)

    # The decoder itself takes the frame's word over the limit it is given.
    assert len(zstandard.ZstdDecompressor().decompress(bomb(512), max_output_size=5)) == 1 << 26
    gibibyte = bomb(8192)
    assert zstandard.get_frame_parameters(gibibyte).content_size == 1 << 30
    assert "declares" in refused(ZSTD, gibibyte, 5)
    assert "declares" in refused(ZSTD, gibibyte, MAX_FRAME)
    assert "frame of" in refused(ZSTD, gibibyte, 1 << 30)


def test_a_frame_that_holds_more_than_it_declares():
    refused(ZSTD, zstd_frame(5, block(1, 128 * 1024, b"\0", last=False) * 8192), 5)
    refused(ZSTD, zstd_frame(5, block(1, 6, b"\0")), 5)


def test_a_frame_that_holds_less_than_it_declares():
    refused(ZSTD, zstd_frame(1000, block(1, 999, b"\0")), 1000)


def test_a_frame_that_does_not_say_how_much_it_holds():
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(b"hello" * 100)
    assert "declares" in refused(ZSTD, stored, 500)


@pytest.mark.parametrize("window", [21, 27, 30, 31])
def test_a_window_that_is_too_large(window):
    frame = zstd_frame(5, block(0, 5, b"hello"), window=window)
    assert zstandard.get_frame_parameters(frame).window_size == 1 << window
    assert "window" in refused(ZSTD, frame, 5)
    assert "window" in refused(ZSTD, frame[:-1], 5)


@pytest.mark.parametrize("tail", [b"\0", b"junk", HELLO, struct.pack("<II", 0x184D2A50, 0)])
def test_anything_after_a_zstd_frame(tail):
    assert "unused data" in refused(ZSTD, HELLO + tail, 5)


def test_a_skippable_frame_holds_nothing():
    refused(ZSTD, struct.pack("<II", 0x184D2A50, 5) + b"hello", 5)


def test_a_frame_that_needs_a_dictionary():
    words = zstandard.ZstdCompressionDict(TEXT[:5000])
    stored = zstandard.ZstdCompressor(dict_data=words).compress(TEXT)
    refused(ZSTD, stored, len(TEXT))


@pytest.mark.parametrize("stored", [b"", b"\x28", HELLO[:4], HELLO[:9], HELLO[:-1], b"hello world"])
def test_zstd_frames_cut_short(stored):
    refused(ZSTD, stored, 5)


def test_every_flipped_bit_of_a_zstd_frame_gives_the_right_length_or_corrupt():
    _, stored = codec.compress(TEXT[:3000], "zstd:3")
    for bit in range(len(stored) * 8):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert len(codec.decompress(ZSTD, bytes(changed), 3000, "here")) == 3000
        except Corrupt:
            continue


def test_lz4_of_another_size():
    stored = lz4.block.compress(TEXT, store_size=False)
    assert codec.decompress(LZ4, stored, len(TEXT), "here") == TEXT
    refused(LZ4, stored, len(TEXT) - 1)
    assert "holds" in refused(LZ4, stored, len(TEXT) + 1)
    refused(LZ4, stored, 1)
    refused(LZ4, stored[:-1], len(TEXT))
    refused(LZ4, stored + b"\0", len(TEXT))
    refused(LZ4, b"", 5)


def test_an_lz4_block_that_would_unpack_to_a_gibibyte():
    # One literal, then a match of length 255 * 4,000,000: a 4 MB block for 1 GB.
    bomb = b"\x1fx\x01\x00" + b"\xff" * 4_000_000 + b"\x00"
    refused(LZ4, bomb, MAX_FRAME)


def test_raw_of_another_size():
    assert codec.decompress(RAW, b"hello", 5, "here") == b"hello"
    assert "holds 5" in refused(RAW, b"hello", 4)
    assert "holds 5" in refused(RAW, b"hello", 6)


@pytest.mark.parametrize("raw", [0, -1, MAX_FRAME + 1, 2**62])
@pytest.mark.parametrize("method", [RAW, LZ4, ZSTD])
def test_no_frame_is_empty_or_over_a_mebibyte(method, raw):
    assert "frame of" in refused(method, HELLO, raw)


@pytest.mark.parametrize("method", [3, 255, -1])
def test_an_unknown_codec_is_unsupported(method):
    with pytest.raises(Unsupported, match="codec"):
        codec.decompress(method, b"hello", 5, "here")


@given(st.sampled_from([RAW, LZ4, ZSTD]), st.binary(max_size=100), st.integers(1, 300))
def test_any_bytes_give_the_length_asked_for_or_corrupt(method, stored, raw):
    for data in (stored, HELLO[:4] + stored, HELLO[:9] + stored):
        try:
            found = codec.decompress(method, data, raw, "here")
        except Corrupt:
            continue
        assert len(found) == raw

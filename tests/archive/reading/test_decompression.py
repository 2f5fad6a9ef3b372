"""What archives are compressed with: told by the first bytes, checked to the last."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
from collections.abc import Iterator

import pytest
import zstandard
from support import trees

from chunkstore.archive.reading import decompression
from chunkstore.archive.reading.decompression import open_blocks
from chunkstore.errors import Corrupt, Unsupported

PLAIN = random.Random(1).randbytes(70_000) + b"text " * 300_000 + bytes(3_000_000)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


MADE = {
    "gzip": gzip.compress(PLAIN),
    "zstd": zstd(PLAIN),
    "xz": lzma.compress(PLAIN, preset=1),
    "bzip2": bz2.compress(PLAIN),
    "plain": PLAIN,
}
TOOLS = {
    "gzip": ["gzip", "-c"],
    "zstd": ["zstd", "-cq"],
    "xz": ["xz", "-c"],
    "bzip2": ["bzip2", "-c"],
}


class Trickle:
    """A pipe: gives less than was asked for."""

    def __init__(self, data: bytes, most: int) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._most))


def inside(data: bytes, most: int = 1 << 30) -> bytes:
    return b"".join(open_blocks(Trickle(data, most), "file"))


@pytest.mark.parametrize("form", MADE)
@pytest.mark.parametrize("most", [1 << 30, 100_000, 4099])
def test_every_form(form: str, most: int) -> None:
    assert inside(MADE[form], most) == PLAIN


@pytest.mark.parametrize("form", TOOLS)
@trees.needs("gzip", "zstd", "xz", "bzip2")
def test_what_the_tools_write(form: str) -> None:
    made = subprocess.run(TOOLS[form], input=PLAIN, capture_output=True, check=True).stdout
    assert inside(made) == PLAIN


@pytest.mark.parametrize("form", TOOLS)
def test_one_behind_the_other(form: str) -> None:
    assert inside(MADE[form] * 3, 65_537) == PLAIN * 3


def test_zeros_behind_are_nothing() -> None:
    """Tapes and block devices have them."""
    for form in ("gzip", "xz", "bzip2"):
        assert inside(MADE[form] + bytes(100_000)) == PLAIN


@pytest.mark.parametrize("form", TOOLS)
def test_something_else_behind_is_damage(form: str) -> None:
    with pytest.raises(Corrupt, match="^file: "):
        inside(MADE[form] + b"rubbish")


@pytest.mark.parametrize("form", TOOLS)
def test_every_place_to_cut(form: str) -> None:
    made = MADE[form]
    cuts = {*range(6, 40), *range(len(made) - 40, len(made)), *range(6, len(made), len(made) // 50)}
    for cut in sorted(cuts):
        with pytest.raises(Corrupt, match="^file: "):
            inside(made[:cut])


@pytest.mark.parametrize("form", TOOLS)
def test_every_checksum_is_checked(form: str) -> None:
    made = MADE[form]
    for place in (len(made) // 2, len(made) - 30, len(made) - 6, len(made) - 2):
        damaged = bytearray(made)
        damaged[place] ^= 0x10
        try:
            found = inside(bytes(damaged))
        except Corrupt:
            continue
        assert found == PLAIN  # what was hit means nothing


def test_frames_to_pass_over() -> None:
    skip = b"\x5a\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"junk"
    assert inside(skip + zstd(PLAIN) + skip + zstd(b"x")) == PLAIN + b"x"


def test_windows_larger_than_we_would_hold() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(os.urandom(1 << 20)) + compressor.flush()
    with pytest.raises(Corrupt, match="^file: "):
        inside(data)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
    with pytest.raises(Corrupt, match="^file: "):
        inside(lzma.compress(b"x", filters=filters))


def bomb() -> bytes:
    """A frame of repeated blocks: 4 bytes for 128 KiB of zeros."""
    header = b"\x28\xb5\x2f\xfd\x00\x58"
    block = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = ((128 * 1024) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return header + block * 200_000 + last


def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "_HARMLESS", 8 << 20)
    sizes: list[int] = []
    with pytest.raises(Corrupt, match="no honest archive"):
        sizes.extend(map(len, open_blocks(io.BytesIO(bomb()), "file")))
    assert max(sizes) <= decompression.BLOCK + 2048
    assert sum(sizes) < 8 << 30


def test_what_gzip_can_do_at_most_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "_HARMLESS", 0)
    data = gzip.compress(bytes(64 << 20), 9)
    assert sum(map(len, open_blocks(io.BytesIO(data), "file"))) == 64 << 20


@pytest.mark.parametrize(
    "start", [b"PK\x03\x04", b"\x1f\x9d", b"LZIP", b"7z\xbc\xaf\x27\x1c", b"\x04\x22\x4d\x18"]
)
def test_others_are_named(start: bytes) -> None:
    with pytest.raises(Unsupported, match="unpack it"):
        inside(start + bytes(1000))


def test_nothing() -> None:
    assert inside(b"") == b""
    assert inside(b"x") == b"x"


def test_errors_of_the_system_are_its_own() -> None:
    class Broken:
        def __init__(self) -> None:
            self.parts: Iterator[bytes] = iter([MADE["bzip2"][:1000]])

        def read(self, size: int) -> bytes:
            for part in self.parts:
                return part
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(open_blocks(Broken(), "file"))

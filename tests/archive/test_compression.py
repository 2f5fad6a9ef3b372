"""Compressed archives: valid for others, and the same bytes whatever happens around them."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from chunkstore.archive.compression import DEFAULT_LEVELS, LEVELS, Sink, open_sink
from chunkstore.errors import Usage

PAYLOAD = b"".join(
    [
        b"".join(b"line %d of something that compresses\n" % number for number in range(60_000)),
        random.Random(1).randbytes(1_500_000),
        bytes(2_000_000),
    ]
)


def compressed(
    form: str, *, level: int | None = None, threads: int | None = None, cut: int = 2**18
) -> bytes:
    out = io.BytesIO()
    with open_sink(out, form, level=level, threads=threads) as sink:
        for start in range(0, len(PAYLOAD), cut):
            sink.write(PAYLOAD[start : start + cut])
    return out.getvalue()


def expanded(form: str, data: bytes) -> bytes:
    if form == "tar.gz":
        return gzip.decompress(data)
    if form == "tar.zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


@pytest.mark.parametrize("form", LEVELS)
@pytest.mark.parametrize("level", [None, 0, 1, 2, 3, 4, 6, 9])
def test_it_comes_back(form: str, level: int | None) -> None:
    if level is not None and level not in LEVELS[form]:
        with pytest.raises(Usage, match="level"), open_sink(io.BytesIO(), form, level=level):
            pass
        return
    assert expanded(form, compressed(form, level=level)) == PAYLOAD


@pytest.mark.parametrize("form", ["tar.gz", "tar.zst"])
@pytest.mark.parametrize("level", [1, 2, 3, 6])
def test_bytes_do_not_depend_on_threads_or_writes(form: str, level: int) -> None:
    results = {
        compressed(form, level=level, threads=threads, cut=cut)
        for threads in (1, 2, 5)
        for cut in (10_007, 2**20, len(PAYLOAD))
    }
    assert len(results) == 1


@pytest.mark.parametrize(("level", "allowed"), [(None, 1.1), (6, 1.0), (9, 1.0)])
def test_it_is_as_small_as_gzip_makes_it(level: int | None, allowed: float) -> None:
    # What systems are full of, and not of our making: the standard library's sources.
    folder = Path(os.__file__).parent
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    data += Path(sys.executable).resolve().read_bytes()[: 4 * 2**20]
    out = io.BytesIO()
    with open_sink(out, "tar.gz", level=level) as sink:
        sink.write(data)
    theirs = len(gzip.compress(data, 6))
    assert len(out.getvalue()) <= allowed * theirs


@pytest.mark.parametrize("form", LEVELS)
def test_nothing_at_all(form: str) -> None:
    out = io.BytesIO()
    with open_sink(out, form):
        pass
    assert expanded(form, out.getvalue()) == b""


def test_gzip_is_one_member_without_a_time() -> None:
    data = compressed("tar.gz")
    assert data[:10] == bytes.fromhex("1f8b08000000000000ff")
    stream = zlib.decompressobj(31)
    assert stream.decompress(data) == PAYLOAD
    assert stream.eof
    assert stream.unused_data == b""


def test_others_read_it(tmp_path: Path) -> None:
    for form, tool in (("tar.gz", "gzip"), ("tar.zst", "zstd")):
        file = tmp_path / f"archive.{form}"
        file.write_bytes(compressed(form))
        if subprocess.run(["which", tool], capture_output=True, check=False).returncode == 0:
            subprocess.run([tool, "-tq", file], check=True)


@pytest.mark.parametrize("form", ["tar.gz", "tar.zst"])
def test_an_abandoned_archive_has_no_end(form: str) -> None:
    out = io.BytesIO()

    def abandon() -> None:
        with open_sink(out, form) as sink:
            sink.write(PAYLOAD)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        abandon()
    stream = zlib.decompressobj(31) if form == "tar.gz" else decompressor()
    stream.decompress(out.getvalue())
    assert not stream.eof


def decompressor() -> Any:
    return zstandard.ZstdDecompressor().decompressobj()


class Full:
    """A device that has no more room after so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: bytes, /) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, os.strerror(28))
        return len(data)


@pytest.mark.parametrize("form", LEVELS)
@pytest.mark.parametrize("room", [0, 100_000])
def test_a_full_disk_is_an_oserror(form: str, room: int) -> None:
    full: Sink = Full(room)

    def fill() -> None:
        with open_sink(full, form) as sink:
            for start in range(0, len(PAYLOAD), 2**18):
                sink.write(PAYLOAD[start : start + 2**18])

    with pytest.raises(OSError, match="No space left on device"):
        fill()


def test_unknown_format() -> None:
    with pytest.raises(Usage, match=r"tar\.xz"), open_sink(io.BytesIO(), "tar.xz"):
        pass


def test_defaults_exist() -> None:
    assert all(level in LEVELS[form] for form, level in DEFAULT_LEVELS.items())

"""What an archive is compressed with, told by its first bytes, and the bytes inside.

Understood are gzip (also of many members), zstd, xz and bzip2; anything else is handed on as it is,
to be found a tar archive or not.

Promises: what is damaged or cut short is `Corrupt`, and all checksums are checked, also those at
the end. Memory is bounded: blocks are 1 MiB, windows of zstd at most 128 MiB, xz may take 192 MiB.
So is time: an archive that grows more than `MAX_GROWTH` times in all is refused; gzip can't.
"""

from __future__ import annotations

import bz2
import lzma
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Protocol, cast

import zstandard
from isal import isal_zlib

from chunkstore.errors import Corrupt, Unsupported

BLOCK: Final = 1024 * 1024
MAX_GROWTH: Final = 5000
_HARMLESS: Final = 1024 * 1024 * 1024
"""Bytes nobody is asked about."""

_GZIP: Final = b"\x1f\x8b"
_GZIP_ERROR: Final = cast(type[Exception], isal_zlib.error)
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
_SKIPPABLE_HIGH: Final = 5
"""A frame to be passed over, as pzstd begins with: the first byte is 0x50 to 0x5f."""
_XZ: Final = b"\xfd7zXZ\0"
_BZIP2: Final = b"BZh"
_OTHERS: Final = {
    b"\x1f\x9d": "compress",
    b"LZIP": "lzip",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x89LZO": "lzop",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-Zip",
}
_LONGEST: Final = 6
_XZ_MEMORY: Final = 192 * 1024 * 1024
_ZSTD_WINDOW: Final = 128 * 1024 * 1024


class Readable(Protocol):
    """Gives up to `size` bytes at a time, none at the end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes. Raises `OSError`."""
        ...


def open_blocks(file: Readable, name: str) -> Iterator[bytes]:
    """Yield the bytes inside in blocks. Raises `Corrupt` or `Unsupported` naming `name`."""
    counted = _Counted(file)
    start = b""
    while len(start) < _LONGEST and (more := counted.read(_LONGEST - len(start))):
        start += more
    for magic, tool in _OTHERS.items():
        if start.startswith(magic):
            raise Unsupported(
                f"{name}: is made by {tool}: unpack it, and pipe what is inside to 'import'",
                where=name,
            )
    fed = _Fed(start, counted)
    if start.startswith(_ZSTD) or (start[1:4] == _SKIPPABLE and start[0] >> 4 == _SKIPPABLE_HIGH):
        blocks = _zstd(fed, name)
    elif start.startswith(_XZ):
        blocks = _streams(fed, name, _xz, _XZ)
    elif start.startswith(_BZIP2):
        blocks = _streams(fed, name, bz2.BZ2Decompressor, _BZIP2)
    elif start.startswith(_GZIP):
        blocks = _gzip(fed, name)
    else:
        return _plain(fed)
    return _watched(blocks, counted, name)


class _Counted:
    """Counts the bytes that are read."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.read_bytes = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.read_bytes += len(data)
        return data


class _Fed:
    """What was read to tell the format, and then the rest."""

    def __init__(self, start: bytes, file: Readable) -> None:
        self._start = start
        self._file = file

    def read(self, size: int = -1) -> bytes:
        start, self._start = self._start, b""
        return start or self._file.read(size if size >= 0 else BLOCK)


def _plain(file: _Fed) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _watched(blocks: Iterator[bytes], counted: _Counted, name: str) -> Iterator[bytes]:
    total = 0
    for block in blocks:
        total += len(block)
        if total > _HARMLESS and total > counted.read_bytes * MAX_GROWTH:
            raise Corrupt(
                f"{name}: grew to {total} bytes from {counted.read_bytes}: no honest archive does",
                where=name,
            )
        yield block


def _cut_short(name: str) -> Corrupt:
    return Corrupt(f"{name}: the compressed data was cut short", where=name)


def _damaged(name: str, error: Exception) -> Corrupt:
    return Corrupt(f"{name}: the compressed data is damaged: {error}", where=name)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)


def _streams(file: _Fed, name: str, begin: Callable[[], Any], magic: bytes) -> Iterator[bytes]:
    """Streams one after the other, as parallel compressors write them."""
    rest = file.read(BLOCK)
    while rest:
        stream = begin()
        while not stream.eof:
            if stream.needs_input and not rest:
                rest = file.read(BLOCK)
                if not rest:
                    raise _cut_short(name)
            try:
                block = stream.decompress(rest, BLOCK)
            except (lzma.LZMAError, OSError) as error:
                raise _damaged(name, error) from error
            rest = b""
            if block:
                yield block
        rest = _following(stream.unused_data, file, magic, name)


def _gzip(file: _Fed, name: str) -> Iterator[bytes]:
    rest = file.read(BLOCK)
    while rest:
        stream = isal_zlib.decompressobj(wbits=31)
        while not stream.eof:
            if not rest:
                rest = file.read(BLOCK)
                if not rest:
                    raise _cut_short(name)
            try:
                block = stream.decompress(rest, BLOCK)
            except _GZIP_ERROR as error:
                raise _damaged(name, error) from error
            rest = stream.unconsumed_tail
            if block:
                yield block
        rest = _following(stream.unused_data, file, _GZIP, name)


def _following(rest: bytes, file: _Fed, magic: bytes, name: str) -> bytes:
    """What comes behind a stream: another one, or nothing but zeros. Raises `Corrupt`."""
    while True:
        while len(rest) < len(magic) and (more := file.read(BLOCK)):
            rest += more
        if rest.startswith(magic) or not rest:
            return rest
        if rest.strip(b"\0"):
            raise Corrupt(f"{name}: something else follows the compressed data", where=name)
        rest = b""


class _Marked:
    """A file with one more frame behind it. If it can be told, the frames before were whole."""

    def __init__(self, file: _Fed, mark: bytes) -> None:
        self._file = file
        self._frame = zstandard.ZstdCompressor().compress(mark)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if not data:
            data, self._frame = self._frame, b""
        return data


def _zstd(file: _Fed, name: str) -> Iterator[bytes]:
    # The library does not tell a stream that was cut short from one that ended. Repeated, so that
    # the mark does not stand in its frame: cut in a header, a stream may hand on what follows.
    mark = os.urandom(16) * 64
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    reader = decompressor.stream_reader(
        cast(BinaryIO, _Marked(file, mark)), read_size=BLOCK, read_across_frames=True
    )
    held = b""
    while True:
        try:
            block = reader.read(BLOCK)
        except zstandard.ZstdError as error:
            raise _damaged(name, error) from error
        if not block:
            break
        held += block
        if len(held) > len(mark):
            yield held[: -len(mark)]
            held = held[-len(mark) :]
    if held != mark:
        raise _cut_short(name)

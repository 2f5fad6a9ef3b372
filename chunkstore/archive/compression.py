"""Where the bytes of an archive go: through gzip, zstd or nothing, to a file or pipe.

gzip is one member, without a time or a name, made of blocks of 1 MiB that are compressed at the
same time, each with the end of the one before as its dictionary (as pigz does it). Levels 0 to 2
are Intel's igzip, up to fifteen times as fast as `gzip -6` and up to a fifth larger; from 3 on they
are zlib-ng, four times as fast as zlib or less. igzip's level 3 is left out: what it finds depends
on the vector unit of the processor. zlib-ng's levels 6 to 8 make larger archives than `gzip -6`, so
our 6 is its 9, and there is nothing beyond.

Promises: the bytes depend on what is written, the format, the level and the version of the
library, not on how the writes are cut, on the number of threads, or (on x86-64, for igzip with
SSE 4.2 and PCLMUL) on the processor. What is left half by an exception has no valid end. Leaves
opening, closing and making durable to the caller, and lets its `OSError` through.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from isal import isal_zlib
from zlib_ng import zlib_ng

from chunkstore.errors import Usage
from chunkstore.storage.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

LEVELS: Final = {"tar.gz": range(10), "tar.zst": range(1, 20), "tar": range(1)}
DEFAULT_LEVELS: Final = {"tar.gz": 3, "tar.zst": 3, "tar": 0}
"""gzip's 3 stays within 5 % of the size of `gzip -6` for a whole system, in a quarter of its time
on each core; igzip is a tenth larger, and an archive is made once and moved often."""

_BLOCK: Final = 1024 * 1024
_WINDOW: Final = 32 * 1024
_HEADER: Final = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF))
_LAST_BLOCK: Final = b"\x03\x00"
_TRAILER: Final = struct.Struct("<II")
_RAW: Final = -15
_IGZIP_LEVELS: Final = range(3)
_IGZIP_MEMORY: Final = 3
"""It packs up to 4 % better with less than it would take: codes change more often."""
_ZLIB_LEVELS: Final = {3: 3, 4: 5, 5: 7, 6: 9, 7: 9, 8: 9, 9: 9}
_ZLIB_MEMORY: Final = 6
"""Here too: codes that change more often are worth half a percent."""


class Sink(Protocol):
    """Takes the bytes of an archive in order, all of them, whatever their number."""

    def write(self, data: bytes, /) -> object:
        """Take `data`. Raises `OSError`."""


@contextmanager
def open_sink(
    file: Sink, form: str, *, level: int | None = None, threads: int | None = None
) -> Iterator[Sink]:
    """A sink for a tar stream whose compressed form goes to `file`.

    `form` is a key of `LEVELS`. Leaving without an exception ends the compressed stream; `file`
    stays open. Raises `Usage` for a form or level there is not.
    """
    if form not in LEVELS:
        raise Usage(f"unknown archive format {form!r}: {', '.join(LEVELS)}")
    if level is None:
        level = DEFAULT_LEVELS[form]
    if level not in LEVELS[form]:
        allowed = LEVELS[form]
        raise Usage(f"{form} has no level {level}: {allowed[0]} to {allowed[-1]}")
    if threads is None:
        threads = min(4, len(os.sched_getaffinity(0)))
    if form == "tar":
        yield file
    elif form == "tar.zst":
        zstd = _Zstd(file, level, threads)
        yield zstd
        zstd.finish()
    else:
        pool = Threads(threads, "gzip")
        try:
            gzip = _Gzip(file, level, pool, threads)
            yield gzip
            gzip.finish()
        finally:
            pool.close()


class _Gzip:
    """One gzip member, compressed in blocks by a pool of threads."""

    def __init__(self, file: Sink, level: int, pool: Threads, threads: int) -> None:
        self._file = file
        self._level = level
        self._pool = pool
        self._limit = threads + 1
        self._blocks: deque[Future[bytes]] = deque()
        self._parts: list[bytes] = []
        self._held = 0
        self._dictionary = b""
        self._checksum = 0
        self._length = 0
        file.write(_HEADER)

    def write(self, data: bytes) -> None:
        """Take `data`, and pass on what has been compressed by now."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= _BLOCK:
            held = b"".join(self._parts)
            whole = len(held) - len(held) % _BLOCK
            for start in range(0, whole, _BLOCK):
                self._compress(held[start : start + _BLOCK])
            self._parts = [held[whole:]]
            self._held -= whole

    def _compress(self, block: bytes) -> None:
        if len(self._blocks) >= self._limit:
            self._pass_on()
        self._blocks.append(self._pool.submit(_deflate, block, self._dictionary, self._level))
        self._note(block)

    def _note(self, block: bytes) -> None:
        self._dictionary = block[-_WINDOW:]
        self._checksum = isal_zlib.crc32(block, self._checksum)
        self._length += len(block)

    def _pass_on(self) -> None:
        self._file.write(self._blocks.popleft().result())

    def finish(self) -> None:
        """Compress the rest and end the member."""
        rest = b""
        if self._held:
            # Here, since nothing comes after it: most differences are so small that this is all.
            block = b"".join(self._parts)
            rest = _deflate(block, self._dictionary, self._level)
            self._note(block)
        while self._blocks:
            self._pass_on()
        self._file.write(rest)
        self._file.write(_LAST_BLOCK + _TRAILER.pack(self._checksum, self._length % 2**32))


def _deflate(block: bytes, dictionary: bytes, level: int) -> bytes:
    """A block in the raw form, ended so that another can follow at a byte boundary."""
    # The first block has none, and igzip refuses an empty one.
    known = (dictionary,) if dictionary else ()
    is_igzip = level in _IGZIP_LEVELS
    library, memory = (isal_zlib, _IGZIP_MEMORY) if is_igzip else (zlib_ng, _ZLIB_MEMORY)
    level = level if is_igzip else _ZLIB_LEVELS[level]
    stream = library.compressobj(
        level, library.DEFLATED, _RAW, memory, library.Z_DEFAULT_STRATEGY, *known
    )
    stored: bytes = stream.compress(block) + stream.flush(library.Z_SYNC_FLUSH)
    return stored


class _Zstd:
    """One zstd frame with a checksum, compressed by the library's own threads."""

    def __init__(self, file: Sink, level: int, threads: int) -> None:
        import zstandard  # here, since most archives are gzip

        self._file = file
        compressor = zstandard.ZstdCompressor(level, threads=threads, write_checksum=True)
        self._stream = compressor.compressobj()

    def write(self, data: bytes) -> None:
        """Take `data`, and pass on what has been compressed by now."""
        if stored := self._stream.compress(data):
            self._file.write(stored)

    def finish(self) -> None:
        """End the frame."""
        self._file.write(self._stream.flush())

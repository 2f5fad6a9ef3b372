"""Frames: how up to 1 MiB of consecutive chunks becomes stored bytes and comes back.

Specified in `docs/format.md`, section "Frame". Promises: `decompress` returns exactly the raw
length it was asked for or raises `Corrupt`, and never allocates more than that, whatever the
stored bytes claim. Both directions release the interpreter lock while they work. The libraries are
loaded when there is something to do for them: a verb that finds nothing changed does without.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Final

from chunkstore.errors import Corrupt, Unsupported, Usage

if TYPE_CHECKING:
    import zstandard

MAX_FRAME: Final = 1024 * 1024
"""Raw bytes of a frame, and so the most that reading one chunk can cost."""

RAW: Final = 0
LZ4: Final = 1
ZSTD: Final = 2

_DEFAULT_LEVEL: Final = 3
_SAMPLE: Final = 16 * 1024
_SAMPLES: Final = 4
_WORTHWHILE: Final = 0.97
_tools = threading.local()


def check_method(method: str) -> str:
    """Return `method` if it names a compression: auto, lz4, zstd:N or none. Raises `Usage`."""
    if method in ("auto", "lz4", "none"):
        return method
    match = re.fullmatch(r"zstd:([0-9]{1,2})", method)
    if match is None or not 1 <= int(match[1]) <= 19:
        raise Usage(f"unknown compression {method!r}: auto, lz4, none, or zstd:1 to zstd:19")
    return method


def compress(data: bytes, method: str) -> tuple[int, bytes]:
    """Compress a frame; returns the codec used and the stored bytes, never longer than `data`."""
    stored = data
    codec = RAW
    if method == "lz4":
        import lz4.block

        stored, codec = lz4.block.compress(data, store_size=False), LZ4
    elif method != "none" and (method != "auto" or _looks_compressible(data)):
        level = _DEFAULT_LEVEL if method == "auto" else int(method.partition(":")[2])
        stored, codec = _compressor(level).compress(data), ZSTD
    if len(stored) >= len(data):
        return RAW, data
    return codec, stored


def _looks_compressible(data: bytes) -> bool:
    """Whether lz4, seven times as fast as zstd, finds anything in samples of `data`."""
    import lz4.block

    step = max(len(data) // _SAMPLES, _SAMPLE)
    sample = b"".join(data[start : start + _SAMPLE] for start in range(0, len(data), step))
    return len(lz4.block.compress(sample, store_size=False)) < _WORTHWHILE * len(sample)


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's compressor: making one costs more than compressing a small frame."""
    made: dict[int, zstandard.ZstdCompressor] = _tools.__dict__.setdefault("compressors", {})
    if level not in made:
        import zstandard

        made[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return made[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_tools, "decompressor"):
        import zstandard

        _tools.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_FRAME)
    tool: zstandard.ZstdDecompressor = _tools.decompressor
    return tool


def check_declared(stored: bytes | memoryview, raw: int, where: str) -> None:
    """See that a Zstandard frame says it has `raw` bytes, and wants no more window than a frame.

    The one-shot decoder takes the size that is declared over the limit it is given, so this comes
    before it. Raises `Corrupt` naming `where`, and what the library raises.
    """
    import zstandard

    declared = zstandard.get_frame_parameters(stored)
    if declared.content_size != raw or declared.window_size > MAX_FRAME:
        raise Corrupt(
            f"{where}: frame declares {declared.content_size} bytes, not {raw}, "
            f"or too large a window of {declared.window_size}",
            where=where,
        )


def decompress(codec: int, stored: bytes | memoryview, raw: int, where: str) -> bytes:
    """The `raw` bytes of a frame. Raises `Corrupt` naming `where`, `Unsupported` for its codec."""
    if not 0 < raw <= MAX_FRAME:
        raise Corrupt(f"{where}: frame of {raw} bytes", where=where)
    import lz4.block
    import zstandard

    try:
        if codec == RAW:
            data = bytes(stored)
        elif codec == LZ4:
            data = lz4.block.decompress(stored, uncompressed_size=raw)
        elif codec == ZSTD:
            check_declared(stored, raw, where)
            data = _decompressor().decompress(stored, max_output_size=raw, allow_extra_data=False)
        else:
            raise Unsupported(f"{where}: unknown codec {codec}", where=where)
    except (zstandard.ZstdError, lz4.block.LZ4BlockError, MemoryError) as error:
        raise Corrupt(f"{where}: frame does not decompress: {error}", where=where) from error
    if len(data) != raw:
        raise Corrupt(f"{where}: frame holds {len(data)} bytes, not {raw}", where=where)
    return data

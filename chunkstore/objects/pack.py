"""Packs and their indexes: many frames in one immutable file, and which chunk lies where.

Specified in `docs/format.md`, sections "Pack" and "Index".

    pack    header 16 bytes | frames, back to back | index | footer 16 bytes
    header  0 magic "IMGSPACK"  8 u32 format version  12 u32 zero
    footer  0 u64 index length  8 magic "IMGSPEND"
    index   0 magic "IMGSINDX"  8 u32 format version  12 u32 frames F  16 u32 chunks C
            20 F x (u32 stored, u32 raw, u32 chunks, u32 codec)
            then C x (digest 32, u32 length), then checksum 32

Offsets are sums of what comes before, so an index can't name overlapping frames. The `.idx` file
is a copy of the index in the pack. Promises: a parsed index adds up; whether a chunk really is
where it says, only its digest tells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects.codec import LZ4, MAX_FRAME, RAW, ZSTD
from chunkstore.objects.digest import SIZE, index_digest
from chunkstore.objects.record import check_header

VERSION: Final = 1
PACK_MAGIC: Final = b"IMGSPACK"
INDEX_MAGIC: Final = b"IMGSINDX"
END_MAGIC: Final = b"IMGSPEND"

HEADER: Final = struct.Struct("<8sII")
FOOTER: Final = struct.Struct("<Q8s")
INDEX_HEADER: Final = struct.Struct("<8sIII")
FRAME: Final = struct.Struct("<IIII")
CHUNK: Final = struct.Struct(f"<{SIZE}sI")

TARGET_BYTES: Final = 64 * 1024 * 1024
"""A writer begins a new pack once the frames of one reach this."""
MAX_FRAMES: Final = 2**20
MAX_CHUNKS: Final = 2**22
MAX_INDEX: Final = INDEX_HEADER.size + MAX_FRAMES * FRAME.size + MAX_CHUNKS * CHUNK.size + SIZE


class Frame(NamedTuple):
    """Where a frame lies in its pack, and how it is stored."""

    offset: int
    stored: int
    raw: int
    chunks: int
    codec: int


class Index(NamedTuple):
    """A parsed index; `chunks` is the run of 36-byte records, in pack order."""

    frames: list[Frame]
    chunks: bytes

    def places(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield (digest, frame number, offset in the frame, length) of every chunk."""
        records = CHUNK.iter_unpack(self.chunks)
        for number, frame in enumerate(self.frames):
            offset = 0
            for _ in range(frame.chunks):
                digest, length = next(records)
                yield digest, number, offset, length
                offset += length


def encode_header() -> bytes:
    """The first bytes of every pack."""
    return HEADER.pack(PACK_MAGIC, VERSION, 0)


def encode_index(frames: list[Frame], chunks: bytes) -> bytes:
    """The index of frames laid back to back in a pack and the records of their chunks.

    Raises `Corrupt` for more of them than a reader would take.
    """
    if len(frames) > MAX_FRAMES or len(chunks) > MAX_CHUNKS * CHUNK.size:
        raise Corrupt(f"{len(frames)} frames or their chunks are more than one pack can hold")
    head = INDEX_HEADER.pack(INDEX_MAGIC, VERSION, len(frames), len(chunks) // CHUNK.size)
    table = b"".join(FRAME.pack(f.stored, f.raw, f.chunks, f.codec) for f in frames)
    body = head + table + chunks
    return body + index_digest(body)


def encode_footer(index: bytes) -> bytes:
    """The last bytes of a pack, which find its index."""
    return FOOTER.pack(len(index), END_MAGIC)


def index_extent(footer: bytes, pack_size: int, where: str) -> tuple[int, int]:
    """Where in a pack of `pack_size` bytes its index lies: (start, stop). Raises `Corrupt`."""
    if len(footer) == FOOTER.size:
        length, magic = FOOTER.unpack(footer)
        stop = pack_size - FOOTER.size
        if magic == END_MAGIC and 0 < length <= min(MAX_INDEX, stop - HEADER.size):
            return stop - length, stop
    raise Corrupt(f"{where}: pack is cut short or has no footer", where=where)


def parse_index(data: bytes, where: str) -> Index:
    """Decode an index. Raises `Corrupt` naming `where`."""
    check_header(data, INDEX_MAGIC, VERSION, where)
    if len(data) < INDEX_HEADER.size + SIZE:
        raise Corrupt(f"{where}: index is cut short", where=where)
    _, _, frame_count, chunk_count = INDEX_HEADER.unpack_from(data)
    table_end = INDEX_HEADER.size + frame_count * FRAME.size
    chunks_end = table_end + chunk_count * CHUNK.size
    if (
        frame_count > MAX_FRAMES
        or chunk_count > MAX_CHUNKS
        or len(data) != chunks_end + SIZE
        or index_digest(memoryview(data)[:chunks_end]) != data[chunks_end:]
    ):
        raise Corrupt(f"{where}: index is damaged", where=where)
    table = list(FRAME.iter_unpack(memoryview(data)[INDEX_HEADER.size : table_end]))
    stored = (row[0] for row in table)
    offsets = accumulate(stored, initial=HEADER.size)
    frames = [Frame(offset, *row) for offset, row in zip(offsets, table, strict=False)]
    chunks = data[table_end:chunks_end]
    _check(frames, chunks, where)
    return Index(frames, chunks)


def _check(frames: list[Frame], chunks: bytes, where: str) -> None:
    lengths = (length for _, length in CHUNK.iter_unpack(chunks))
    total = 0
    for frame in frames:
        total += frame.chunks
        if (
            not 0 < frame.stored <= frame.raw <= MAX_FRAME
            or not frame.chunks
            or total * CHUNK.size > len(chunks)
            or (frame.codec == RAW and frame.stored != frame.raw)
        ):
            raise Corrupt(f"{where}: index has an impossible frame", where=where)
        if frame.codec not in (RAW, LZ4, ZSTD):
            raise Unsupported(f"{where}: unknown codec {frame.codec}", where=where)
        covered = 0
        for _ in range(frame.chunks):
            length = next(lengths)
            if not length:
                raise Corrupt(f"{where}: index has a chunk of no length", where=where)
            covered += length
        if covered != frame.raw:
            raise Corrupt(f"{where}: chunks of a frame do not fill it", where=where)
    if total * CHUNK.size != len(chunks):
        raise Corrupt(f"{where}: index has chunks in no frame", where=where)

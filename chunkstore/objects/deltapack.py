"""Delta packs: frames compressed against chunks that a node one version behind has already.

Specified in `docs/format.md`, section "Delta pack".

    pack    header 16 bytes | frames, back to back | index | footer 16 bytes
    header  0 magic "IMGSDPCK"  8 u32 format version  12 u32 zero
    footer  0 u64 index length  8 magic "IMGSPEND"
    index   0 magic "IMGSDIDX"  8 u32 format version
            12 u32 frames F  16 u32 chunks C  20 u32 bases B
            24 F x (u32 stored, u32 raw, u32 chunks, u32 bases)
            then C x (digest 32, u32 length), then B x the same, then checksum 32
    deltas  a document: which delta packs lead to a version

A frame holds chunks, one behind the other, as a Zstandard frame that was made with the bytes of its
bases, one behind the other, standing in front. Promises: a parsed index adds up; `decompress`
returns the raw length it was asked for or raises `Corrupt`, and allocates no more than that,
whatever the stored bytes claim. Leaves checking digests, those of bases too, to callers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

import zstandard

from chunkstore.errors import Corrupt
from chunkstore.objects import record
from chunkstore.objects.codec import MAX_FRAME, check_declared
from chunkstore.objects.digest import SIZE, delta_index_digest
from chunkstore.objects.documents import PackUse, check_use
from chunkstore.objects.pack import CHUNK, HEADER, encode_footer
from chunkstore.objects.record import check_header

VERSION: Final = 1
PACK_MAGIC: Final = b"IMGSDPCK"
INDEX_MAGIC: Final = b"IMGSDIDX"
INDEX_HEADER: Final = struct.Struct("<8sIIII")
FRAME: Final = struct.Struct("<IIII")

MAX_BASE: Final = 4 * 1024 * 1024
"""Bytes of the bases of a frame: what a node reads and holds to open it."""
MAX_FRAMES: Final = 2**16
MAX_RECORDS: Final = 2**20
"""Of chunks, and of bases, in one delta pack."""
MAX_INDEX: Final = INDEX_HEADER.size + MAX_FRAMES * FRAME.size + 2 * MAX_RECORDS * CHUNK.size + SIZE
MAX_PACKS: Final = 1024
MAX_DELTAS: Final = 65536
"""Bytes of a hint."""
_DELTAS_MAGIC: Final = b"IMGSDELT"
_REACH_LOG: Final = 23
"""How far back the compressor looks: over all bases and the frame."""
_TABLE_LOG: Final = 19
_LEVEL: Final = 3


class DeltaFrame(NamedTuple):
    """A frame: where it lies in its pack, and the 36-byte records of its chunks and bases."""

    offset: int
    stored: int
    raw: int
    chunks: bytes
    bases: bytes


def records(run: bytes) -> Iterator[tuple[bytes, int]]:
    """The (digest, length) of each record in a run of them."""
    return CHUNK.iter_unpack(run)


def encode_header() -> bytes:
    """The first bytes of every delta pack."""
    return HEADER.pack(PACK_MAGIC, VERSION, 0)


def encode_index(frames: list[DeltaFrame]) -> bytes:
    """The index of frames laid back to back in a delta pack."""
    chunks = b"".join(frame.chunks for frame in frames)
    bases = b"".join(frame.bases for frame in frames)
    counts = len(frames), len(chunks) // CHUNK.size, len(bases) // CHUNK.size
    table = b"".join(
        FRAME.pack(
            frame.stored,
            frame.raw,
            len(frame.chunks) // CHUNK.size,
            len(frame.bases) // CHUNK.size,
        )
        for frame in frames
    )
    body = INDEX_HEADER.pack(INDEX_MAGIC, VERSION, *counts) + table + chunks + bases
    return body + delta_index_digest(body)


def parse_index(data: bytes, where: str) -> list[DeltaFrame]:
    """The frames of a delta pack by its index. Raises `Corrupt` naming `where`, `Unsupported`."""
    check_header(data, INDEX_MAGIC, VERSION, where)
    if len(data) < INDEX_HEADER.size + SIZE:
        raise Corrupt(f"{where}: index is cut short", where=where)
    _, _, frames, chunks, bases = INDEX_HEADER.unpack_from(data)
    table_end = INDEX_HEADER.size + frames * FRAME.size
    chunks_end = table_end + chunks * CHUNK.size
    bases_end = chunks_end + bases * CHUNK.size
    if (
        frames > MAX_FRAMES
        or max(chunks, bases) > MAX_RECORDS
        or len(data) != bases_end + SIZE
        or delta_index_digest(memoryview(data)[:bases_end]) != data[bases_end:]
    ):
        raise Corrupt(f"{where}: index is damaged", where=where)
    rows = list(FRAME.iter_unpack(memoryview(data)[INDEX_HEADER.size : table_end]))
    if sum(row[2] for row in rows) != chunks or sum(row[3] for row in rows) != bases:
        raise Corrupt(f"{where}: index has chunks in no frame, or none in one", where=where)
    offsets = accumulate((row[0] for row in rows), initial=HEADER.size)
    found = []
    chunk, base = table_end, chunks_end
    for offset, (stored, raw, chunk_count, base_count) in zip(offsets, rows, strict=False):
        chunk_stop = chunk + chunk_count * CHUNK.size
        base_stop = base + base_count * CHUNK.size
        frame = DeltaFrame(offset, stored, raw, data[chunk:chunk_stop], data[base:base_stop])
        _check(frame, where)
        found.append(frame)
        chunk, base = chunk_stop, base_stop
    return found


def _check(frame: DeltaFrame, where: str) -> None:
    lengths = [length for _, length in records(frame.chunks)]
    bases = [length for _, length in records(frame.bases)]
    if (
        not 0 < frame.stored <= frame.raw <= MAX_FRAME
        or not all(lengths)
        or sum(lengths) != frame.raw
        or not all(bases)
        or not 0 < sum(bases) <= MAX_BASE
    ):
        raise Corrupt(f"{where}: index has an impossible frame", where=where)


def compress(data: bytes, base: bytes) -> bytes:
    """The stored bytes of a frame that holds `data`; `base` is what its bases hold."""
    tool = zstandard.ZstdCompressor(
        dict_data=_prefix(base), compression_params=_parameters(len(data) + len(base))
    )
    return tool.compress(data)


def decompress(stored: bytes | memoryview, base: bytes, raw: int, where: str) -> bytes:
    """The `raw` bytes of a frame. Raises `Corrupt` naming `where`."""
    if not 0 < raw <= MAX_FRAME or not 0 < len(base) <= MAX_BASE:
        raise Corrupt(f"{where}: frame of {raw} bytes over {len(base)}", where=where)
    try:
        check_declared(stored, raw, where)
        tool = zstandard.ZstdDecompressor(dict_data=_prefix(base), max_window_size=MAX_FRAME)
        data = tool.decompress(stored, max_output_size=raw, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Corrupt(f"{where}: frame does not decompress: {error}", where=where) from error
    if len(data) != raw:
        raise Corrupt(f"{where}: frame holds {len(data)} bytes, not {raw}", where=where)
    return data


def _prefix(base: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _parameters(reach: int) -> zstandard.ZstdCompressionParameters:
    log = min(max((reach - 1).bit_length(), 10), _REACH_LOG)
    # Tables with room for every place of the bases: by itself the level would take those of a
    # small window, and forget the beginning of the bases before it comes to their end.
    tables = min(log, _TABLE_LOG)
    return zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=log, hash_log=tables, chain_log=tables, write_content_size=True
    )


def encode_deltas(version_id: bytes, uses: list[PackUse]) -> bytes:
    """The hint which delta packs lead to a version."""
    return record.seal(_DELTAS_MAGIC, 1, (version_id, tuple(uses)))


def parse_deltas(data: bytes, version_id: bytes) -> list[PackUse]:
    """The delta packs that a hint names. Raises `Corrupt`."""
    where = f"deltas of version {version_id.hex()}"
    match record.unseal(data, _DELTAS_MAGIC, 1, where):
        case (bytes(named), tuple(raw)) if named == version_id and len(raw) <= MAX_PACKS:
            return [check_use(item, where, MAX_INDEX) for item in raw]
    raise Corrupt(f"{where}: is no such hint", where=where)


__all__ = [
    "MAX_BASE",
    "MAX_DELTAS",
    "MAX_INDEX",
    "DeltaFrame",
    "compress",
    "decompress",
    "encode_deltas",
    "encode_footer",
    "encode_header",
    "encode_index",
    "parse_deltas",
    "parse_index",
    "records",
]

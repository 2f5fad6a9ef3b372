"""Content that comes in pieces, into chunks: the same as of a file that is read from disk.

Promises: where the pieces end makes no difference. Memory is one block of 4 MiB and a chunk, plus
a node per level of a long chunk list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from chunkstore.archive.reading.members import Run
from chunkstore.objects import chunker
from chunkstore.objects.chunklist import ListWriter
from chunkstore.objects.digest import HOLE, chunk_digest

_BLOCK: Final = 4 * 1024 * 1024


class Sink(Protocol):
    """Takes content."""

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        """Store chunks (digest, bytes) that are not stored yet; the bytes will not change."""
        ...

    def store_node(self, data: bytes) -> bytes:
        """Store a list node and return its digest."""
        ...


def store(
    runs: Iterable[Run], size: int, parameters: chunker.Parameters, sink: Sink
) -> tuple[bytes, int]:
    """Give a file's runs to `sink`; returns the entry's `content` and `depth`."""
    writer = ListWriter(sink.store_node)
    end = 0
    for offset, length, parts in runs:
        if offset > end:
            writer.add(HOLE, offset - end)
        _store_run(parts, length, parameters, sink, writer)
        end = offset + length
    if end < size:
        writer.add(HOLE, size - end)
    return writer.finish()


def _store_run(
    parts: Iterator[bytes],
    left: int,
    parameters: chunker.Parameters,
    sink: Sink,
    writer: ListWriter,
) -> None:
    held: list[bytes] = []
    waiting = 0
    for part in parts:
        held.append(part)
        waiting += len(part)
        left -= len(part)
        if left and waiting < _BLOCK:
            continue
        block = held[0] if len(held) == 1 else b"".join(held)
        # Near the end of a block the chunker could have seen further: what is left there is
        # offered again in front of what comes next.
        limit = len(block) - parameters.maximum if left else len(block)
        view = memoryview(block)
        chunks: list[tuple[bytes, bytes | memoryview]] = []
        offset = 0
        for length in chunker.cut(block, parameters):
            if offset > limit:
                break
            data = view[offset : offset + length]
            digest = chunk_digest(data)
            chunks.append((digest, data))
            writer.add(digest, length)
            offset += length
        sink.store(chunks)
        held = [block[offset:]] if offset < len(block) else []
        waiting = len(block) - offset

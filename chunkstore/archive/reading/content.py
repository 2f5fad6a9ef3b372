"""Content that comes in pieces, into chunks: the same as of a file that is read from disk.

Promises: where the pieces end makes no difference. Memory is one block of 4 MiB and a chunk, plus
a node per level of a long chunk list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chunkstore.archive.reading.members import Run
from chunkstore.objects import chunker
from chunkstore.objects.chunklist import ListWriter
from chunkstore.objects.cutting import BLOCK, Sink, cut_block
from chunkstore.objects.digest import HOLE


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
        if left and waiting < BLOCK:
            continue
        block = held[0] if len(held) == 1 else b"".join(held)
        offset = cut_block(block, parameters, sink, writer, is_end=not left)
        held = [block[offset:]] if offset < len(block) else []
        waiting = len(block) - offset

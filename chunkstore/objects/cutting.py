"""Cutting: the content of a file, block by block, into chunks and the records of its list.

Promises: where the blocks end makes no difference to the chunks.
"""

from __future__ import annotations

from typing import Final, Protocol

from chunkstore.objects import chunker
from chunkstore.objects.chunklist import ListWriter
from chunkstore.objects.digest import chunk_digest

BLOCK: Final = 4 * 1024 * 1024
"""Bytes of a block, about: enough that what is offered twice does not count."""


class Sink(Protocol):
    """Takes the content of files."""

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        """Store chunks (digest, bytes) that are not stored yet; the bytes will not change."""
        ...

    def store_node(self, data: bytes) -> bytes:
        """Store a list node and return its digest."""
        ...


def cut_block(
    block: bytes, parameters: chunker.Parameters, sink: Sink, writer: ListWriter, *, is_end: bool
) -> int:
    """Give the chunks of a block to `sink` and record them; returns where the last one ends.

    What is left of a block behind that has to stand in front of the next one.
    """
    # Near the end of a block the chunker could have seen further.
    limit = len(block) if is_end else len(block) - parameters.maximum
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
    return offset

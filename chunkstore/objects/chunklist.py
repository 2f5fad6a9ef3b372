"""Chunk lists: which chunks and holes a file is made of, in order.

Specified in `docs/format.md`, section "Chunk list". A list is a run of 40-byte records (digest,
length). A hole is a record with the digest `HOLE`. A list too long for its entry is cut, at places
its content decides, into list nodes that are stored as chunks; the entry then holds the records of
the nodes. So an entry stays small whatever the size of its file, and a small change to a huge
file changes one node per level.

Promises: what `walk` yields adds up to the file's size, or it raises `Corrupt`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NoReturn

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects.codec import MAX_FRAME
from chunkstore.objects.digest import HOLE, SIZE, chunk_digest
from chunkstore.objects.entry import FILE, MAX_DEPTH, MAX_RECORDS, Entry
from chunkstore.objects.names import printable
from chunkstore.objects.record import decode, encode, whole

RECORD: Final = struct.Struct("<32sQ")
MAX_INLINE: Final = MAX_RECORDS
MIN_NODE: Final = 32
MAX_NODE: Final = 512
CUT_MASK: Final = 0x7F
NODE_FORMAT: Final = 1

Load = Callable[[bytes], bytes]
Save = Callable[[bytes], bytes]


class ListWriter:
    """Collects the records of one file and folds them into list nodes as they come.

    Memory stays at one node per level, whatever the file's size. `save` stores a node and returns
    its digest.
    """

    def __init__(self, save: Save) -> None:
        self._save = save
        self._levels: list[list[bytes]] = [[]]

    def add(self, digest: bytes, length: int) -> None:
        """Append a chunk, or with the digest `HOLE` a hole."""
        self._push(0, RECORD.pack(digest, length))

    def _push(self, level: int, record: bytes) -> None:
        if level == len(self._levels):
            self._levels.append([])
        records = self._levels[level]
        records.append(record)
        # The shortest list that still needs no node is kept back, so that a file which turns out
        # to fit into its entry never leaves a node behind.
        if len(records) > MAX_INLINE + MAX_NODE:
            self._fold(level, final=False)

    def _fold(self, level: int, *, final: bool) -> None:
        records = self._levels[level]
        start = 0
        while len(records) - start > (0 if final else MAX_NODE):
            stop = _cut(records, start)
            blob = b"".join(records[start:stop])
            covered = sum(length for _, length in RECORD.iter_unpack(blob))
            digest = self._save(encode((NODE_FORMAT, level, blob)))
            self._push(level + 1, RECORD.pack(digest, covered))
            start = stop
        del records[:start]

    def finish(self) -> tuple[bytes, int]:
        """The entry's `content` and `depth`."""
        depth = 0
        while True:
            is_top = depth == len(self._levels) - 1
            if is_top and len(self._levels[depth]) <= MAX_INLINE:
                return b"".join(self._levels[depth]), depth
            if depth == MAX_DEPTH:
                raise Corrupt("file has more chunks than a manifest can name")
            self._fold(depth, final=True)
            depth += 1


def _cut(records: list[bytes], start: int) -> int:
    """Where the node that begins at `start` ends: after a record whose digest says so."""
    end = min(start + MAX_NODE, len(records))
    for index in range(start + MIN_NODE - 1, end):
        if records[index][SIZE - 1] & CUT_MASK == 0:
            return index + 1
    return end


def walk(entry: Entry, load: Load) -> Iterator[tuple[bytes, int]]:
    """Yield (digest, length) of a file's chunks and holes in order; `load` gets list nodes.

    What is not a file has none: its content is something else.
    """
    if entry.kind != FILE:
        return
    total = 0
    if entry.depth:
        records = _walk(entry.content, entry.depth, load, entry.path)
    else:
        records = RECORD.iter_unpack(entry.content)
    for record in records:
        digest, length = record
        if not 0 < length <= MAX_FRAME and (digest != HOLE or not length):
            _refuse(length, entry.path)
        total += length
        yield record
    if total != entry.size:
        raise Corrupt(f"{printable(entry.path)}: chunks add up to {total} bytes, not {entry.size}")


def _walk(blob: bytes, depth: int, load: Load, path: bytes) -> Iterator[tuple[bytes, int]]:
    for digest, length in RECORD.iter_unpack(blob):
        if not length:
            _refuse(length, path)
        if not depth:
            yield digest, length
            continue
        if digest == HOLE:
            raise Corrupt(f"{printable(path)}: hole where a list node must be")
        below = 0
        for item in _walk(read_node(load(digest), depth - 1, digest), depth - 1, load, path):
            below += item[1]
            yield item
        if below != length:
            raise Corrupt(f"{printable(path)}: list node covers {below} bytes, not {length}")


def _refuse(length: int, path: bytes) -> NoReturn:
    raise Corrupt(f"{printable(path)}: chunk of {length or 'no'} {'bytes' if length else 'length'}")


def data_size(entry: Entry, load: Load) -> int:
    """Bytes of a file that are not holes."""
    return sum(length for digest, length in walk(entry, load) if digest != HOLE)


def nodes(entry: Entry, load: Load) -> Iterator[bytes]:
    """Yield the digests of a file's list nodes."""
    return _nodes(entry.content, entry.depth, load)


def _nodes(blob: bytes, depth: int, load: Load) -> Iterator[bytes]:
    if depth:
        for digest, _ in RECORD.iter_unpack(blob):
            yield digest
            if depth > 1:  # below are chunks, and the node that lists them need not be read
                yield from _nodes(read_node(load(digest), depth - 1, digest), depth - 1, load)


def read_node(data: bytes, level: int, digest: bytes) -> bytes:
    """The records of a list node. Raises `Corrupt`."""
    where = f"list node {digest.hex()}"
    match decode(data, where):
        case (int(version), *_) if whole(version) and version != NODE_FORMAT:
            raise Unsupported(f"{where}: format version {version}", where=where)
        case (int(version), int(found), bytes(blob)) if whole(version, found):
            fits = blob and not len(blob) % RECORD.size and len(blob) <= MAX_NODE * RECORD.size
            if found == level and fits:
                return blob
    raise Corrupt(f"{where}: is not a list node of level {level}", where=where)


def inline_digests(content: bytes) -> Iterable[bytes]:
    """The digests of a run of records, holes left out."""
    return (digest for digest, _ in RECORD.iter_unpack(content) if digest != HOLE)


def node_digest(data: bytes) -> bytes:
    """The name of a node: nodes are stored as chunks."""
    return chunk_digest(data)

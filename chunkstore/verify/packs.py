"""Checking packs: every byte of one, in a single pass.

Its bytes must hash to its name, its index must parse, and every frame decompress into chunks that
have their digests. A pack that fails one of these may still hold good chunks; which, is told. The
`.idx` must be the same bytes as the index in the pack, and its torrent, if it has one, must be of
these bytes. Memory is a frame and the index, whatever
the size of the pack; hashing and decompressing release the interpreter lock, so packs are checked
side by side on threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from chunkstore.errors import Corrupt, LocalError, NotFound
from chunkstore.objects import codec, pack, torrent
from chunkstore.objects.digest import chunk_digest, pack_hasher
from chunkstore.objects.pack import Frame, Index
from chunkstore.storage import layout
from chunkstore.storage.repository import Repository
from chunkstore.verify.findings import damage

_BLOCK: Final = 1024 * 1024
_Chunk = tuple[bytes, int, int, int]


@dataclass(frozen=True)
class CheckedPack:
    """What one pack turned out to be.

    `faults` are its own, `hint_fault` is its `.idx`'s, which may just not be there, and
    `torrent_fault` its torrent's.
    `index` says where its chunks are, None when nothing does; `damaged` ones are not as they
    should be. `size` is the bytes read.
    """

    id: bytes
    size: int
    index: Index | None
    damaged: frozenset[bytes]
    faults: tuple[str, ...]
    hint_fault: str
    is_without_hint: bool
    torrent_fault: str

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with it."""
        return not (self.faults or self.hint_fault or self.torrent_fault)


def check_pack(store: Repository, pack_id: bytes) -> CheckedPack:
    """Read a pack and its `.idx`. Raises `LocalError` only when this machine is to blame."""
    check = _Check(store, pack_id)
    try:
        check.run()
    except (Corrupt, NotFound, LocalError) as error:
        check.faults.append(damage(error))
    damaged = frozenset(check.damaged)
    return CheckedPack(
        pack_id,
        check.position,
        check.index,
        damaged,
        tuple(check.faults),
        check.hint_fault,
        check.is_without_hint,
        check.torrent_fault,
    )


class _Check:
    """One pass over one pack."""

    def __init__(self, store: Repository, pack_id: bytes) -> None:
        self._store = store
        self._id = pack_id
        self._name = layout.pack(pack_id)
        self._hasher = pack_hasher()
        self.position = 0
        self.index: Index | None = None
        self.damaged: set[bytes] = set()
        self.faults: list[str] = []
        self.hint_fault = ""
        self.is_without_hint = False
        self.torrent_fault = ""
        self._pieces: torrent.PieceHasher | None = None

    def run(self) -> None:
        size = self._store.reader.size(self._name)
        if 0 < size <= torrent.MAX_PACK:
            self._pieces = torrent.PieceHasher(size)
        self._read_index()
        if self._take(pack.HEADER.size) != pack.encode_header():
            self.faults.append("its header is damaged")
        total = 0
        if self.index is not None:
            places = groupby(self.index.places(), key=lambda place: place[1])
            for number, chunks in places:
                total += self._check_frame(self.index.frames[number], list(chunks))
        if self.damaged:
            self.faults.append(f"{len(self.damaged)} of {total} chunks are damaged")
        while self.position < size:
            if not self._take(min(_BLOCK, size - self.position)):
                break
        if self._hasher.digest() != self._id:
            self.faults.append("its bytes do not match its name")
        elif self._pieces is not None:
            self._check_torrent(self._pieces.torrent(self._id))

    def _take(self, count: int) -> bytes:
        """The next bytes of the pack; fewer where it ends or can't be read."""
        start = self.position
        self.position += count
        try:
            data = self._store.reader.get(self._name, start, start + count)
        except LocalError as error:
            # A bad sector spoils one frame, and the rest can still be looked at.
            self.faults.append(damage(error))
            return b""
        self._hasher.update(data)
        if self._pieces is not None:
            self._pieces.update(data)
        return data

    def _check_frame(self, frame: Frame, chunks: list[_Chunk]) -> int:
        where = f"frame at {frame.offset}"
        try:
            stored = self._take(frame.stored)
            raw = memoryview(codec.decompress(frame.codec, stored, frame.raw, where))
        except Corrupt:
            raw = memoryview(b"")
        for digest, _, offset, length in chunks:
            if chunk_digest(raw[offset : offset + length]) != digest:
                self.damaged.add(digest)
        return len(chunks)

    def _check_torrent(self, made: torrent.Torrent) -> None:
        name = layout.torrent(self._id)
        try:
            data = self._store.reader.get(name, 0, torrent.MAX_TORRENT + 1)
            if torrent.parse(data, self._id, name).info != made.info:
                self.torrent_fault = "is not of the bytes of its pack; delete it"
        except NotFound:
            pass  # stores from before have none, and whoever serves the pack makes one
        except (Corrupt, LocalError) as error:
            self.torrent_fault = damage(error)

    def _read_index(self) -> None:
        """The pack's own index; if it has none, the copy beside it leads to what is left."""
        own: bytes | None = None
        try:
            own = self._store.index_in_pack(self._id)
            self.index = pack.parse_index(own, self._name)
            self._check_extent(own)
        except (Corrupt, NotFound, LocalError) as error:
            self.faults.append(damage(error))
        name = layout.index(self._id)
        try:
            limit = pack.MAX_INDEX if self.index is None else len(own or b"")
            copy = self._store.reader.get(name, 0, limit + 1)
            if self.index is None:
                self.index = pack.parse_index(copy, name)
            elif copy != own:
                self.hint_fault = "differs from the index in its pack; readers go by that one"
        except NotFound:
            self.is_without_hint = True
            self.hint_fault = "is missing; readers go by the index in its pack"
        except (Corrupt, LocalError) as error:
            self.hint_fault = damage(error)

    def _check_extent(self, own: bytes) -> None:
        assert self.index is not None
        size = self._store.reader.size(self._name)
        last = self.index.frames[-1] if self.index.frames else Frame(pack.HEADER.size, 0, 0, 0, 0)
        if last.offset + last.stored + len(own) + pack.FOOTER.size != size:
            self.faults.append("its frames do not end where its index begins")

"""Torrents of packs: what a BitTorrent client needs to take a pack from its peers (BEP 3).

Specified in `docs/format.md`, section "Torrent". The info dictionary follows from the pack's bytes
alone, so a torrent that is made twice, anywhere, names the same swarm. Where the tracker and web
seeds are stands beside it and may differ. Promises: a parsed torrent is of the pack that was
asked for, and its pieces add up. It is a hint all the same: its hashes keep strangers' bytes out
early, and what a chunk is only its own digest tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from chunkstore.errors import Corrupt
from chunkstore.objects import bencode

LEAST_PIECE: Final = 64 * 1024
MAX_PIECE: Final = 16 * 1024 * 1024
TARGET_PIECES: Final = 2048
"""Pieces are doubled until a pack has no more of them than this."""
MAX_TORRENT: Final = 128 * 1024
"""Bytes of a torrent: 2048 hashes, and room for trackers and web seeds."""
MAX_PACK: Final = MAX_PIECE * TARGET_PIECES
_HASH: Final = hashlib.sha1().digest_size
_MAX_URL: Final = 2048
_MAX_URLS: Final = 16


class Torrent(NamedTuple):
    """A pack as a swarm sees it. `trackers` and `web_seeds` are URLs, in order of preference."""

    pack: bytes
    size: int
    piece: int
    """Bytes of a piece; the last one may be shorter."""
    hashes: bytes
    """The SHA-1 of each piece, 20 bytes each."""
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self.hashes) // _HASH

    @property
    def name(self) -> str:
        """The name of the one file in it."""
        return f"{self.pack.hex()}.pack"

    @property
    def info(self) -> bytes:
        """The info dictionary as it is hashed and handed to clients."""
        return bencode.encode(
            {
                b"length": self.size,
                b"name": self.name.encode(),
                b"piece length": self.piece,
                b"pieces": self.hashes,
                b"private": 1,
            }
        )

    @property
    def info_hash(self) -> bytes:
        """20 bytes that name the swarm."""
        return hashlib.sha1(self.info, usedforsecurity=False).digest()

    def encode(self) -> bytes:
        """The torrent as a file."""
        fields: dict[bytes, Any] = {b"info": bencode.decode(self.info, self.name)}
        if self.trackers:
            fields[b"announce"] = self.trackers[0].encode()
        if len(self.trackers) > 1:
            fields[b"announce-list"] = [[url.encode()] for url in self.trackers]
        if self.web_seeds:
            fields[b"url-list"] = [url.encode() for url in self.web_seeds]
        return bencode.encode(fields)

    def covering(self, start: int, stop: int) -> range:
        """The numbers of the pieces that hold the bytes from `start` up to `stop`."""
        return range(start // self.piece, -(-stop // self.piece)) if start < stop else range(0)

    def span(self, piece: int) -> tuple[int, int]:
        """Where in the pack a piece begins and ends."""
        start = piece * self.piece
        return start, min(start + self.piece, self.size)

    def is_right(self, piece: int, data: bytes) -> bool:
        """Whether `data` is that piece."""
        expected = self.hashes[piece * _HASH : (piece + 1) * _HASH]
        return hashlib.sha1(data, usedforsecurity=False).digest() == expected


def piece_length(size: int) -> int:
    """Bytes of a piece in a pack of `size` bytes. Raises `Corrupt` for one too large for swarms."""
    if not 0 < size <= MAX_PACK:
        raise Corrupt(f"a pack of {size} bytes can't travel in a swarm: {MAX_PACK} are the most")
    length = LEAST_PIECE
    while length * TARGET_PIECES < size:
        length *= 2
    return length


class PieceHasher:
    """Hashes the pieces of a pack of `size` bytes as its bytes pass by."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._piece = piece_length(size)
        self._hashes: list[bytes] = []
        self._running = hashlib.sha1(usedforsecurity=False)
        self._filled = 0
        self._seen = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the pack, any number of them."""
        rest = memoryview(data)
        while rest:
            part = rest[: self._piece - self._filled]
            self._running.update(part)
            self._filled += len(part)
            self._seen += len(part)
            if self._filled == self._piece:
                self._close()
            rest = rest[len(part) :]

    def _close(self) -> None:
        self._hashes.append(self._running.digest())
        self._running = hashlib.sha1(usedforsecurity=False)
        self._filled = 0

    def torrent(self, pack_id: bytes) -> Torrent:
        """The torrent, once all bytes have passed. Raises `Corrupt` when there were not so many."""
        if self._seen != self._size:
            raise Corrupt(f"pack {pack_id.hex()} has {self._seen} bytes, not {self._size}")
        if self._filled:
            self._close()
        return Torrent(pack_id, self._size, self._piece, b"".join(self._hashes))


def make(pack_id: bytes, size: int, parts: Iterable[bytes]) -> Torrent:
    """The torrent of a pack of `size` bytes that comes in `parts`. Raises `Corrupt`."""
    hasher = PieceHasher(size)
    for part in parts:
        hasher.update(part)
    return hasher.torrent(pack_id)


def parse(data: bytes, pack_id: bytes, where: str) -> Torrent:
    """The torrent of that pack. Raises `Corrupt` naming `where` for any other."""
    if len(data) > MAX_TORRENT:
        raise Corrupt(f"{where}: longer than {MAX_TORRENT} bytes", where=where)
    fields = bencode.decode(data, where)
    info = fields.get(b"info") if isinstance(fields, dict) else None
    if not isinstance(info, dict):
        raise Corrupt(f"{where}: is no torrent", where=where)
    size, hashes = info.get(b"length"), info.get(b"pieces")
    if not isinstance(size, int) or not isinstance(hashes, bytes):
        raise Corrupt(f"{where}: is no torrent of one file", where=where)
    found = Torrent(pack_id, size, piece_length(size), hashes)
    count = -(-size // found.piece)
    # Whatever else stands in it, such as a length of pieces of its own, would make another swarm.
    if len(hashes) != count * _HASH or info != bencode.decode(found.info, where):
        raise Corrupt(f"{where}: is not the torrent of pack {pack_id.hex()}", where=where)
    return found._replace(
        trackers=tuple(_urls(_trackers(fields, where), where)),
        web_seeds=tuple(_urls(_listed(fields.get(b"url-list", [])), where)),
    )


def _trackers(fields: dict[bytes, Any], where: str) -> Sequence[Any]:
    tiers = fields.get(b"announce-list", [])
    if not isinstance(tiers, list) or not all(isinstance(tier, list) for tier in tiers):
        raise Corrupt(f"{where}: its list of trackers is none", where=where)
    named = [url for tier in tiers for url in tier]
    return named or _listed(fields.get(b"announce", []))


def _listed(value: Any) -> Sequence[Any]:
    """One URL may stand where a list of them could."""
    return value if isinstance(value, list) else [value]


def _urls(values: Sequence[Any], where: str) -> Iterable[str]:
    for value in values[:_MAX_URLS]:
        if not isinstance(value, bytes) or len(value) > _MAX_URL:
            raise Corrupt(f"{where}: a URL in it is none", where=where)
        try:
            text = value.decode("ascii")
        except UnicodeDecodeError:
            raise Corrupt(f"{where}: a URL in it is none", where=where) from None
        if text.startswith(("http://", "https://")) and text.isprintable() and " " not in text:
            yield text

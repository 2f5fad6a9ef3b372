"""The torrents of a store's packs: those that were made at commit, and those that are missing.

Promises: a torrent handed out is of the pack that is there under that name; one that is missing or
damaged is made again from the pack, one at a time, and only kept in memory. Of a store of any size
no more is kept than a few bytes for each pack, and the torrents asked for lately.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from chunkstore.errors import Corrupt
from chunkstore.objects import torrent
from chunkstore.objects.torrent import Torrent
from chunkstore.server.public import PublicTree
from chunkstore.storage import layout

PACKS: Final = layout.PACKS.rstrip("/")
_KEPT: Final = 64
_READ_BYTES: Final = 1 << 20
_AGAIN_SECONDS: Final = 1.0
"""Between two looks at all packs, however often somebody asks for a swarm nobody knows."""


class Torrents:
    """Finds torrents by pack and by info hash. For one event loop."""

    def __init__(self, tree: PublicTree) -> None:
        self._tree = tree
        self._lately: OrderedDict[bytes, Torrent] = OrderedDict()
        self._packs: dict[bytes, bytes] = {}
        self._swarms: dict[bytes, bytes] = {}
        self._folders: dict[bytes, str] = {}
        self._looking = asyncio.Lock()
        self._making = asyncio.Lock()
        self._looked = -_AGAIN_SECONDS

    async def of_pack(self, pack_id: bytes, folder: str = PACKS) -> Torrent:
        """The torrent of a pack, or of a delta pack in its folder.

        Raises `FileNotFoundError`, `OSError`, and `Corrupt` when the pack is none that could have
        one.
        """
        found = self._lately.get(pack_id)
        if found is None:
            async with self._making:
                found = self._lately.get(pack_id)
                if found is None:
                    found = await asyncio.to_thread(self._read, pack_id, folder)
                    self._folders[pack_id] = folder
        self._remember(found)
        return found

    async def pack_of(self, info_hash: bytes) -> bytes | None:
        """Which pack a swarm is about; None when it is about none of this store."""
        if info_hash not in self._packs:
            async with self._looking:
                if info_hash not in self._packs and self._may_look():
                    # Only what was stored: to hash every pack for a stranger is too much. Who got
                    # a torrent that was made here is known from then on.
                    for found in await asyncio.to_thread(lambda: list(self._stored())):
                        self._note(found)
        return self._packs.get(info_hash)

    def folder(self, pack_id: bytes) -> str:
        """Where a pack lies whose torrent was handed out."""
        return self._folders.get(pack_id, PACKS)

    def known(self, pack_id: bytes) -> bytes | None:
        """The info hash of a pack, if it is known; nothing is looked for."""
        return self._swarms.get(pack_id)

    def _may_look(self) -> bool:
        now = time.monotonic()
        if now - self._looked < _AGAIN_SECONDS:
            return False
        self._looked = now
        return True

    def _remember(self, found: Torrent) -> None:
        self._note((found.info_hash, found.pack))
        self._lately[found.pack] = found
        self._lately.move_to_end(found.pack)
        while len(self._lately) > _KEPT:
            self._lately.popitem(last=False)

    def _note(self, found: tuple[bytes, bytes]) -> None:
        self._packs[found[0]] = found[1]
        self._swarms[found[1]] = found[0]

    def _stored(self) -> Iterator[tuple[bytes, bytes]]:
        """The info hash and pack of each stored torrent that is not known yet."""
        for pack_id in self._tree.packs():
            if pack_id not in self._swarms:
                try:
                    yield self._parsed(pack_id).info_hash, pack_id
                except (OSError, Corrupt):
                    continue

    def _parsed(self, pack_id: bytes) -> Torrent:
        name = layout.torrent(pack_id)
        fd, _ = self._tree.open(name)
        with open(fd, "rb") as file:
            return torrent.parse(file.read(torrent.MAX_TORRENT + 1), pack_id, name)

    def _read(self, pack_id: bytes, folder: str) -> Torrent:
        fd, status = self._tree.open(f"{folder}/{pack_id.hex()}.pack")
        with open(fd, "rb", buffering=0) as file:
            try:
                if folder != PACKS:
                    raise FileNotFoundError  # delta packs come and go: theirs are not stored
                found = self._parsed(pack_id)
                if found.size == status.st_size:
                    return found
            except (FileNotFoundError, Corrupt):
                pass  # a store from before, or damage: what is in the pack decides
            parts = iter(lambda: file.read(_READ_BYTES), b"")
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            return torrent.make(pack_id, status.st_size, parts)

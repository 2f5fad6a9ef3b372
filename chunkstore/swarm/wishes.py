"""Which packs a node wants from swarms: their torrents, and whether they fit into the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import torrent as torrents
from chunkstore.objects.torrent import Torrent
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, Span
from chunkstore.swarm.cache import Cache
from chunkstore.swarm.choice import LEAST_BYTES, Wish, fitting, is_worth_it
from chunkstore.swarm.settings import SwarmSettings


class Wishes:
    """Chooses packs; opens the cache when the first is chosen."""

    def __init__(
        self, server: Reader, settings: SwarmSettings, open_cache: Callable[[], Cache]
    ) -> None:
        self._server = server
        self._settings = settings
        self._open_cache = open_cache
        self._chosen: set[bytes] = set()
        self.cache: Cache | None = None

    def choose(self, spans: Mapping[str, Sequence[Span]], reserve: int) -> dict[str, Wish]:
        """Those packs that are worth a swarm, with what is wanted of them. Raises `LocalError`."""
        total = sum(stop - start for parts in spans.values() for start, stop in parts)
        if self._settings.transport == "auto" and total < LEAST_BYTES:
            return {}
        wishes: dict[str, Wish] = {}
        for name, parts in spans.items():
            found = self._torrent(name)
            if found is None:
                continue
            wish = Wish(found, tuple(parts))
            if self._settings.transport == "swarm" or is_worth_it(wish):
                wishes[name] = wish
        return self._fitting(wishes, reserve) if wishes else {}

    def _fitting(self, wishes: dict[str, Wish], reserve: int) -> dict[str, Wish]:
        if self.cache is None:
            self.cache = self._open_cache()
        wanted = self._chosen | {wish.torrent.pack for wish in wishes.values()}
        room = self.cache.room(self._settings.cache_size, wanted, reserve)
        chosen = fitting(wishes.values(), room)
        if len(chosen) < len(wishes):
            self._settings.tell(
                f"{len(wishes) - len(chosen)} of {len(wishes)} packs don't fit into the cache: "
                "they come from the server"
            )
        self._chosen |= {wish.torrent.pack for wish in chosen}
        return {name: wish for name, wish in wishes.items() if wish in chosen}

    def _torrent(self, name: str) -> Torrent | None:
        match = layout.PACK_FILE.fullmatch(name) or layout.DELTA_FILE.fullmatch(name)
        if match is None or match["suffix"] != "pack":
            return None
        place = name.removesuffix(".pack") + ".torrent"
        try:
            data = self._server.get(place, 0, torrents.MAX_TORRENT + 1)
            found = torrents.parse(data, bytes.fromhex(match["id"]), place)
        except NotFound:
            return None  # a store of before, or one that nobody tracks
        except Corrupt as error:
            self._settings.tell(f"no swarm: {error}")
            return None
        found = found._replace(trackers=self._settings.trackers or found.trackers)
        return found if found.trackers else None

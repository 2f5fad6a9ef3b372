"""A reader that takes packs from their swarms, and everything else from the server behind it.

Once told what will be asked for it decides pack by pack, and hands out bytes as they come: from a
swarm where there is one, from the server where a node is alone. Promises: whatever happens to the
swarm, the bytes come, from the server if need be, within seconds, and what is here is not fetched
again. Only pieces of the right hash are handed out of the cache; a chunk is believed by its own
digest, later. Leaves the choice of packs to `wishes`, what becomes of them to `part`, patience to
`fetch`, and the tree to others: all it writes is its cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from chunkstore.errors import LocalError
from chunkstore.storage.backend import Reader, Span, abandon, doubt
from chunkstore.swarm.settings import Figures, SwarmSettings

if TYPE_CHECKING:
    from chunkstore.swarm.cache import Cache
    from chunkstore.swarm.choice import Wish
    from chunkstore.swarm.fetch import Fetch
    from chunkstore.swarm.part import Part
    from chunkstore.swarm.wishes import Wishes


class SwarmReader:
    """Reads from `server`, and packs from their swarms into a cache, opened when it is needed.

    What makes a swarm is loaded when something is foreseen. Close it before the `server`.
    """

    def __init__(
        self, server: Reader, settings: SwarmSettings, open_cache: Callable[[], Cache]
    ) -> None:
        self._server = server
        self._settings = settings
        self._open_cache = open_cache
        self._wishes: Wishes | None = None
        self._lock = threading.Lock()
        self._fetches: dict[str, Fetch] = {}
        self._part: Part | None = None
        self._doubted: dict[str, set[Span]] = {}
        self._last = Figures()

    @property
    def cache(self) -> Cache | None:
        """Where packs of swarms are, once there are any."""
        return self._wishes.cache if self._wishes is not None else None

    # Reading

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        fetch = self._fetches.get(name)
        if fetch is None:
            return self._server.get(name, start, stop)
        return fetch.read(start, stop, self._server)

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        return self._server.size(name)

    def foresee(self, spans: Mapping[str, Sequence[Span]], *, reserve: int = 0) -> None:
        """Take part for those packs for which it is worth it. See `Foreseeing.foresee`."""
        from chunkstore.swarm.wishes import Wishes

        if self._wishes is None:
            self._wishes = Wishes(self._server, self._settings, self._open_cache)
        known = self._fetches.keys() | self._doubted.keys()
        fresh = {name: parts for name, parts in spans.items() if name not in known}
        try:
            wishes = self._wishes.choose(fresh, reserve)
            if wishes:
                self._begin(wishes)
        except LocalError as error:
            # A full or read-only cache, no port, no libtorrent: the bytes come all the same.
            self._settings.tell(f"no swarm: {error}")

    def _begin(self, wishes: dict[str, Wish]) -> None:
        from chunkstore.swarm.fetch import Fetch, Way
        from chunkstore.swarm.part import Part

        cache = self.cache
        assert cache is not None
        if self._part is None:
            self._part = Part(self._server, self._settings, cache)
        way = Way.SWARM if self._settings.transport == "swarm" else Way.ASKING
        for name, wish in wishes.items():
            fetch = Fetch(name, wish, cache.directory, way)
            self._part.begin(fetch)
            self._fetches[name] = fetch

    # Doubt, figures, the end

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """See `Doubtable.doubt`: a pack that was wrong comes from the server from now on."""
        with self._lock:
            fetch = self._fetches.get(name)
            if fetch is not None and not fetch.is_begun:
                return doubt(self._server, name, start, stop)  # it came from there
            self._fetches.pop(name, None)
            is_doubted = name in self._doubted
            if fetch is not None:
                self._doubted[name] = set()
            elif not is_doubted or (start, stop) in self._doubted[name]:
                return doubt(self._server, name, start, stop)
            # What other threads had read by then is as wrong, each range once.
            self._doubted[name].add((start, stop))
        if fetch is not None:
            self._settings.tell(f"{name}: its torrent is of something else; from the server")
            if self._part is not None:
                self._part.forget(fetch)
            if self.cache is not None:
                self.cache.drop(fetch.torrent.pack)
        return True

    @property
    def figures(self) -> Figures:
        """What came so far, from whom."""
        part = self._part
        return part.figures if part is not None else self._last

    def holds(self) -> bool:
        """Whether there is anything to give; packs of which nothing came are dropped."""
        found = False
        for fetch in list(self._fetches.values()):
            if fetch.is_begun:
                found = True
            elif self.cache is not None:
                self.cache.drop(fetch.torrent.pack)
        return found

    def note_peers(self) -> None:
        """Note in the cache who is in the swarms, for whoever goes on giving: a tracker that dies
        with its server can't tell who is left behind. Raises `LocalError`.
        """
        for fetch in list(self._fetches.values()):
            if fetch.is_begun and self.cache is not None:
                self.cache.note_peers(fetch.torrent.pack, fetch.peers)

    @property
    def is_wanted(self) -> bool:
        """Whether others are fetching what is here, at this moment."""
        part = self._part
        return part is not None and part.is_missed

    def abandon(self) -> None:
        """Let those who wait end soon. See `Abandonable.abandon`."""
        for fetch in list(self._fetches.values()):
            fetch.end()
        abandon(self._server)

    def leave(self) -> None:
        """Leave all swarms; what is in the cache stays."""
        with self._lock:
            part = self._part
            if part is not None:
                self._last = part.figures
                self._part = None
                part.close()

    def close(self) -> None:
        """Leave all swarms, and give back the cache."""
        self.leave()
        if self._wishes is not None and self._wishes.cache is not None:
            self._wishes.cache.close()
            self._wishes.cache = None

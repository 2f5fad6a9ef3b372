"""A reader that takes packs from their swarms, and everything else from the server behind it.

Once told what will be asked for it decides pack by pack, joins the swarms, and hands out bytes as
the pieces come. Promises: whatever happens to the swarm, the bytes come, from the server if need
be, within seconds, and what is here is not fetched again. Only pieces of the right hash are handed
out; a chunk is believed by its own digest, later. Leaves the choice of packs to `choice`, patience
to `fetch`, and the tree to others: all it writes is its cache.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from chunkstore.errors import ChunkstoreError, Corrupt, LocalError, NotFound
from chunkstore.objects import torrent as torrents
from chunkstore.objects.torrent import Torrent
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, Span, abandon, doubt
from chunkstore.swarm.announce import Reply
from chunkstore.swarm.cache import Cache
from chunkstore.swarm.choice import LEAST_BYTES, Wish, fitting, is_worth_it, priorities
from chunkstore.swarm.fetch import Fetch, Way
from chunkstore.swarm.help import Helper
from chunkstore.swarm.presence import Presence
from chunkstore.swarm.session import Banned, Broken, Came, Finished, Session
from chunkstore.swarm.settings import Figures, SwarmSettings
from chunkstore.swarm.tracking import Tracker

_STEP: Final = 0.1
_TICK: Final = 0.25
_COUNT: Final = 1.0


class SwarmReader:
    """Reads from `server`, and packs from their swarms into a cache, opened when it is needed.

    Close it before the `server`.
    """

    def __init__(
        self, server: Reader, settings: SwarmSettings, open_cache: Callable[[], Cache]
    ) -> None:
        self._server = server
        self._settings = settings
        self._open_cache = open_cache
        self.cache: Cache | None = None
        """Where packs of swarms are, once there are any."""
        self._lock = threading.Lock()
        self._fetches: dict[str, Fetch] = {}
        self._session: Session | None = None
        self._presence: Presence | None = None
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._counted = 0.0
        self._by_pack: dict[bytes, Fetch] = {}
        self._wishes: list[Wish] = []
        self._left: list[Fetch] = []
        self._doubted: dict[str, set[Span]] = {}
        self._told = 0
        self._banned: dict[str, None] = {}
        self._last = Figures()

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

    # Choosing

    def foresee(self, spans: Mapping[str, Sequence[Span]], *, reserve: int = 0) -> None:
        """Join the swarms of those packs for which it is worth it. See `Foreseeing.foresee`."""
        known = self._fetches.keys() | self._doubted.keys()
        fresh = {name: parts for name, parts in spans.items() if name not in known}
        total = sum(stop - start for parts in fresh.values() for start, stop in parts)
        if self._settings.transport == "auto" and total < LEAST_BYTES:
            return
        try:
            wishes = self._choose(fresh, reserve)
            if wishes:
                self._join(wishes)
        except LocalError as error:
            # A full or read-only cache, no port, no libtorrent: the bytes come all the same.
            self._settings.tell(f"no swarm: {error}")

    def _choose(self, spans: Mapping[str, Sequence[Span]], reserve: int) -> dict[str, Wish]:
        wishes: dict[str, Wish] = {}
        for name, parts in spans.items():
            found = self._torrent(name)
            if found is None:
                continue
            wish = Wish(found, tuple(parts))
            if self._settings.transport == "swarm" or is_worth_it(wish):
                wishes[name] = wish
        if not wishes:
            return {}
        if self.cache is None:
            self.cache = self._open_cache()
        wanted = {wish.torrent.pack for wish in [*wishes.values(), *self._wishes]}
        room = self.cache.room(self._settings.cache_size, wanted, reserve)
        chosen = fitting(wishes.values(), room)
        if len(chosen) < len(wishes):
            self._settings.tell(
                f"{len(wishes) - len(chosen)} of {len(wishes)} packs don't fit into the cache: "
                "they come from the server"
            )
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

    def _join(self, wishes: dict[str, Wish]) -> None:
        session = self._opened()
        assert self._presence is not None
        assert self.cache is not None
        for name, wish in wishes.items():
            fetch = Fetch(name, wish, self.cache.directory)
            pieces = wish.torrent.pieces
            self.cache.keep(wish.torrent)
            session.fetch(wish.torrent, self.cache.path, priorities(pieces, wish.pieces, None, 0))
            self._fetches[name] = self._by_pack[wish.torrent.pack] = fetch
            self._wishes.append(wish)
            self._presence.join(wish.torrent, wish.torrent.trackers)

    def _opened(self) -> Session:
        if self._session is None:
            self._session = Session(self._settings.session)
            self._presence = Presence(self._session, self._heard, self._tracker)
            self._presence.__enter__()
            helper = Helper(self._server, self._session, self._settings.tell, self._closing)
            help_all = partial(helper.run, lambda: list(self._fetches.values()))
            for name, work in (("swarm", self._watch), ("help", help_all)):
                thread = threading.Thread(target=work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return self._session

    # What the other threads do

    def _heard(self, pack: bytes, answer: Reply | ChunkstoreError) -> None:
        """Connect to those the tracker knows; on the announcing thread."""
        fetch, session = self._by_pack.get(pack), self._session
        if fetch is None or session is None:
            return
        if not isinstance(answer, Reply):
            if fetch.not_heard():
                self._settings.tell(str(answer))
            return
        if fetch.heard(answer, self._settings.session.allows) and fetch.way is not Way.DIRECT:
            order = sorted(fetch.wanted)
            session.prioritise(
                pack, priorities(fetch.torrent.pieces, order, fetch.rank, fetch.crowd)
            )
        session.connect(pack, answer.peers)

    def _tracker(self, url: str) -> Tracker:
        return Tracker(url, home=self._settings.home, access=self._settings.access)

    def _watch(self) -> None:
        """Take in what the session tells, and keep an eye on every fetch."""
        assert self._session is not None
        looked = 0.0
        # In steps: to wake for each block costs more than the block.
        while not self._closing.wait(_STEP):
            for event in self._session.events(0):
                fetch = self._by_pack.get(event.pack)
                match event:
                    case Came(_, size, peer) if fetch is not None:
                        fetch.take(size, peer, time.monotonic())
                    case Finished(_, piece) if fetch is not None:
                        fetch.note(piece)
                    case Banned(_, name):
                        if name not in self._banned:
                            self._banned[name] = None
                            self._settings.tell(f"{name}: sent bad data and is banned")
                    case Broken(pack, reason) if fetch is not None:
                        self._settings.tell(f"pack {pack.hex()[:12]}: no swarm any more: {reason}")
                        self._leave(fetch)
            now = time.monotonic()
            if now - looked >= _TICK:
                looked = now
                self._look(now)

    def _look(self, now: float) -> None:
        assert self._session is not None
        for fetch in list(self._fetches.values()):
            pack = fetch.torrent.pack
            before = fetch.way
            if fetch.judge(self._session.status(pack), now) is before:
                continue
            if fetch.way is Way.DIRECT:
                self._settings.tell(f"pack {pack.hex()[:12]}: nobody has it; from the server")
                # What comes from the server is not to come from peers as well.
                self._session.prioritise(pack, [0] * fetch.torrent.pieces)
            elif fetch.way is Way.HELPED:
                self._settings.tell(f"pack {pack.hex()[:12]}: the swarm stalls; the server helps")
        if now - self._counted >= _COUNT:
            self._counted = now
            self._count()

    def _count(self) -> None:
        figures = self.figures
        came = figures.from_peers + figures.from_seed
        if came > self._told:
            self._settings.came(came - self._told)
            self._told = came

    def _leave(self, fetch: Fetch) -> None:
        fetch.give_up()
        if self._session is not None:
            self._session.remove(fetch.torrent.pack)
        if self._presence is not None:
            self._presence.leave(fetch.torrent.pack)

    # Doubt, figures, the end

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """See `Doubtable.doubt`: a pack that was wrong comes from the server from now on."""
        with self._lock:
            fetch = self._fetches.pop(name, None)
            is_doubted = name in self._doubted
            if fetch is not None:
                self._doubted[name] = set()
            elif not is_doubted or (start, stop) in self._doubted[name]:
                return doubt(self._server, name, start, stop)
            # What other threads had read by then is as wrong, each range once.
            self._doubted[name].add((start, stop))
        if fetch is not None:
            self._settings.tell(f"{name}: its torrent is of something else; from the server")
            self._leave(fetch)
            self._left.append(fetch)
            if self.cache is not None:
                self.cache.drop(fetch.torrent.pack)
        return True

    @property
    def figures(self) -> Figures:
        """What came so far, from whom."""
        session = self._session
        if session is None:
            return self._last
        came = given = seed = 0
        for fetch in [*self._fetches.values(), *self._left]:
            status = session.status(fetch.torrent.pack)
            given += status.uploaded if status is not None else 0
            came += fetch.came.total()
            if fetch.first is not None:
                host = str(ipaddress.ip_address(fetch.first.address))
                seed += fetch.came[host, fetch.first.port]
        return Figures(len(self._fetches), came - seed, seed, given, tuple(self._banned))

    def holds(self) -> bool:
        """Whether there is anything to give; packs of which nothing came are dropped."""
        found = False
        for fetch in list(self._fetches.values()):
            if fetch.is_begun:
                found = True
            elif self.cache is not None:
                self.cache.drop(fetch.torrent.pack)
        return found

    @property
    def is_wanted(self) -> bool:
        """Whether, by what trackers said last, others are fetching what is here."""
        return any(fetch.crowd > (fetch.rank is not None) for fetch in list(self._fetches.values()))

    def abandon(self) -> None:
        """Let those who wait end soon. See `Abandonable.abandon`."""
        for fetch in list(self._fetches.values()):
            fetch.end()
        abandon(self._server)

    def leave(self) -> None:
        """Leave all swarms; what is in the cache stays."""
        with self._lock:
            session, presence = self._session, self._presence
            if session is not None:
                self._last = self.figures
                self._session_over(presence)
                self._session = self._presence = None
                session.close()
                for fetch in self._fetches.values():
                    fetch.close()

    def close(self) -> None:
        """Leave all swarms, and give back the cache."""
        self.leave()
        cache, self.cache = self.cache, None
        if cache is not None:
            cache.close()

    def _session_over(self, presence: Presence | None) -> None:
        self._closing.set()
        with ExitStack() as stack:
            if presence is not None:
                stack.callback(presence.close)
            for fetch in self._fetches.values():
                fetch.end()
            for thread in self._threads:
                with suppress(RuntimeError):
                    thread.join()

"""A node's part in the swarms of the packs it fetches: announced, watched, joined when it pays.

By itself a node is known to the trackers only, at a port that it holds; libtorrent is loaded when a
tracker knows of anybody besides the server's own seed, which HTTP outruns. From then on the pack is
in its swarm to the end. Promises: who holds the port is told within moments of who comes; whatever
fails here, the fetches go on over HTTP.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from chunkstore.errors import ChunkstoreError, LocalError
from chunkstore.storage.backend import Reader
from chunkstore.swarm.announce import Reply
from chunkstore.swarm.cache import Cache
from chunkstore.swarm.choice import priorities
from chunkstore.swarm.events import Banned, Broken, Came, Finished, Status
from chunkstore.swarm.fetch import Fetch, Way
from chunkstore.swarm.help import Helper
from chunkstore.swarm.ports import HeldPort, hold
from chunkstore.swarm.presence import Presence
from chunkstore.swarm.session import Session, require_library
from chunkstore.swarm.settings import Figures, SwarmSettings
from chunkstore.swarm.tracking import Tracker

ALONE_SECONDS: Final = 2.0
"""How often a node that is alone asks whether it still is."""
_CALLED_SECONDS: Final = 1.0
"""Between two questions because somebody has connected, whoever does that how often."""
_STEP: Final = 0.1
_TICK: Final = 0.25
_COUNT: Final = 1.0


class Part:
    """Takes part for fetches into `cache`. Raises `LocalError` without libtorrent, or a port."""

    def __init__(self, server: Reader, settings: SwarmSettings, cache: Cache) -> None:
        self._server = server
        self._settings = settings
        self._cache = cache
        self._fetches: dict[bytes, Fetch] = {}
        self._left: list[Fetch] = []
        self._opening = threading.Lock()
        self._session: Session | None = None
        self._closing = threading.Event()
        self._banned: dict[str, None] = {}
        self._called = self._counted = 0.0
        self._told = (0, 0)
        require_library()
        self._port: HeldPort = hold(settings.session.addresses, settings.session.ports)
        self._presence = Presence(self, self._heard, self._tracker)
        self._presence.__enter__()
        self._threads: list[threading.Thread] = []
        self._start("swarm", self._watch)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # What presence asks

    @property
    def port(self) -> int:
        """See `Standing.port`."""
        session = self._session
        return session.port if session is not None else self._port.port

    def status(self, pack: bytes) -> Status | None:
        """See `Standing.status`."""
        session = self._session
        return session.status(pack) if session is not None else None

    # Joining

    def begin(self, fetch: Fetch) -> None:
        """Take part for one that asks, or is to be in its swarm at once. Raises `LocalError`."""
        self._cache.keep(fetch.torrent)
        self._fetches[fetch.torrent.pack] = fetch
        fetch.look()
        try:
            if fetch.way is Way.SWARM:
                self._enter(fetch)
        except LocalError:
            del self._fetches[fetch.torrent.pack]
            raise
        self._presence.join(fetch.torrent, fetch.torrent.trackers)

    def _enter(self, fetch: Fetch) -> None:
        session = self._opened()
        found = fetch.torrent
        fetch.late = partial(session.give, found.pack)
        fetch.wants_more = partial(self._prioritise, fetch)
        order = fetch.join()
        wanted = priorities(found.pieces, order, fetch.rank, fetch.crowd)
        session.fetch(found, self._cache.path, wanted)
        fetch.is_entered = True

    def _opened(self) -> Session:
        with self._opening:
            if self._session is None:
                settings = self._settings.session
                self._port.release()
                try:
                    self._session = Session(settings._replace(ports=(self.port, self.port)))
                except LocalError:
                    # Somebody was quicker. At another port we are another peer, and as good.
                    self._session = Session(settings)
                helper = Helper(self._server, self._session, self._settings.tell, self._closing)
                self._start("help", partial(helper.run, lambda: list(self._fetches.values())))
            return self._session

    def _heard(self, pack: bytes, answer: Reply | ChunkstoreError) -> float | None:
        """Take in what a tracker said; on the announcing thread."""
        fetch = self._fetches.get(pack)
        if fetch is None:
            return None
        if not isinstance(answer, Reply):
            if fetch.not_heard():
                self._settings.tell(str(answer))
            fetch.go_alone()
            return None
        is_news = fetch.heard(answer, self._settings.session.allows)
        if fetch.way in {Way.ASKING, Way.ALONE}:
            if not fetch.has_company:
                fetch.go_alone()
                return ALONE_SECONDS
            try:
                self._enter(fetch)
            except LocalError as error:
                self._settings.tell(f"no swarm: {error}")
                self.leave(fetch)
                return None
            # Who is in one of our swarms is likely to be in the others.
            self._presence.hurry(but=pack)
        elif is_news and fetch.way is not Way.DIRECT:
            self._prioritise(fetch)
        if self._session is not None:
            self._session.connect(pack, answer.peers)
        return None

    def _prioritise(self, fetch: Fetch) -> None:
        assert self._session is not None
        found = fetch.torrent
        wanted = priorities(found.pieces, sorted(fetch.wanted), fetch.rank, fetch.crowd)
        self._session.prioritise(found.pack, wanted)

    def _tracker(self, url: str) -> Tracker:
        return Tracker(url, home=self._settings.home, access=self._settings.access)

    # Watching

    def _watch(self) -> None:
        """Take in what the session tells, and keep an eye on every fetch."""
        looked = 0.0
        # In steps: to wake for each block costs more than the block.
        while not self._closing.wait(_STEP):
            if self._session is not None:
                self._take_in(self._session)
            now = time.monotonic()
            if now - self._called > _CALLED_SECONDS and self._port.was_called():
                self._called = now
                self._presence.hurry()
            if now - looked >= _TICK:
                looked = now
                self._look(now)

    def _take_in(self, session: Session) -> None:
        for event in session.events(0):
            fetch = self._fetches.get(event.pack)
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
                    self.leave(fetch)

    def _look(self, now: float) -> None:
        for pack, fetch in list(self._fetches.items()):
            before = fetch.way
            if fetch.judge(self.status(pack), now) is before:
                continue
            if fetch.way is Way.DIRECT:
                self._settings.tell(f"pack {pack.hex()[:12]}: nobody has it; from the server")
                if self._session is not None:
                    # What comes from the server is not to come from peers as well.
                    self._session.prioritise(pack, [0] * fetch.torrent.pieces)
            elif fetch.way is Way.HELPED:
                self._settings.tell(f"pack {pack.hex()[:12]}: the swarm stalls; the server helps")
        if now - self._counted >= _COUNT:
            self._counted = now
            self._count()

    def _count(self) -> None:
        figures = self.figures
        peers, seed = figures.from_peers, figures.from_seed
        if (peers, seed) != self._told:
            self._settings.came(peers - self._told[0], seed - self._told[1])
            self._told = (peers, seed)

    @property
    def figures(self) -> Figures:
        """What came so far, from whom."""
        came = given = seed = packs = 0
        for fetch in [*self._fetches.values(), *self._left]:
            status = self.status(fetch.torrent.pack)
            given += status.uploaded if status is not None else 0
            came += fetch.came.total()
            packs += fetch.has_joined
            if fetch.first is not None:
                host = str(ipaddress.ip_address(fetch.first.address))
                seed += fetch.came[host, fetch.first.port]
        return Figures(packs, came - seed, seed, given, tuple(self._banned))

    @property
    def is_missed(self) -> bool:
        """Whether anybody takes from here just now."""
        session = self._session
        return session is not None and any(map(session.is_missed, list(self._fetches)))

    # Leaving

    def leave(self, fetch: Fetch) -> None:
        """Leave the swarm of a pack, whose bytes come from the server from now on."""
        fetch.give_up()
        if self._session is not None:
            self._session.remove(fetch.torrent.pack)
        self._presence.leave(fetch.torrent.pack)

    def forget(self, fetch: Fetch) -> None:
        """Leave it, and take nothing of it for good any more."""
        self.leave(fetch)
        if self._fetches.pop(fetch.torrent.pack, None) is not None:
            self._left.append(fetch)

    def close(self) -> None:
        """Leave all swarms; what is in the cache stays."""
        self._closing.set()
        with ExitStack() as stack:
            stack.callback(self._presence.close)
            for fetch in self._fetches.values():
                fetch.end()
            for thread in list(self._threads):
                with suppress(RuntimeError):
                    thread.join()
        self._port.release()
        if self._session is not None:
            self._session.close()
        for fetch in self._fetches.values():
            fetch.close()

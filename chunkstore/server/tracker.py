"""The tracker of this store's swarms, on the port that serves its packs (BEP 3, 23, 48).

    /announce             a client joins, goes on, leaves; it hears of others, and its rank
    /scrape               figures of some swarms
    /packs/<id>.torrent   with the tracker's address in it, as the client knows this server
    /deltas/<id>.torrent  the same of a delta pack
    /swarm                all that is going on, as JSON for people's programs

Promises: no swarm but those of this store's packs; a peer is where its connection came from, or
where a proxy that is believed says so. While
a node is one of many in the swarm of a pack, what it reads of that pack over HTTP waits for one of
a few places: when a swarm gives out, the crowd comes back one by one. The rest is bounded by
`crowd`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from aiohttp import hdrs, web

from chunkstore.errors import Corrupt
from chunkstore.objects import bencode
from chunkstore.objects.torrent import Torrent
from chunkstore.server.proxies import Proxies, facing
from chunkstore.server.public import DIGEST, PublicTree
from chunkstore.server.torrents import Torrents
from chunkstore.swarm.announce import Peer, failure, parse_announce, parse_scrape
from chunkstore.swarm.crowd import Crowd, CrowdLimits, Full
from chunkstore.swarm.settings import EVERYWHERE

FALLBACKS: Final = 16
"""Ranges of packs sent at once to nodes that are in those packs' swarms."""
TURN_SECONDS: Final = 15.0
"""How long one of those may wait for its place before it is told to come again."""
COME_AGAIN: Final = "5"
_BENCODED: Final = "text/plain"


class Seed(Protocol):
    """The first seed, beside this server."""

    @property
    def port(self) -> int:
        """Where it listens, on its addresses."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of this machine's at which it listens; `EVERYWHERE` for all."""
        ...

    def offer(self, torrent: Torrent, folder: str) -> None:
        """Somebody wants this pack, which lies in that folder of the store; called often."""
        ...

    def rates(self) -> dict[bytes, tuple[int, int]]:
        """Bytes per second and bytes sent so far of each pack it offers."""
        ...

    def close(self) -> None:
        """Stop; takes a moment."""
        ...


@dataclass
class SwarmService:
    """What a server does for swarms. Set it up before the application starts.

    `trackers` stand in torrents instead of this server's own. `seed` is opened when the
    application starts; without one, torrents name the pack's URL as web seed: with one, all nodes
    would take that way as well and crowd the seed out of its own line.
    """

    trackers: tuple[str, ...] = ()
    seed: Callable[[], Seed] | None = None
    limits: CrowdLimits = field(default_factory=CrowdLimits)


SERVICE: Final = web.AppKey("swarm", SwarmService)


class Tracker:
    """The routes. `lifetime` belongs into the application's clean-up."""

    def __init__(self, store_root: Path, service: SwarmService, proxies: Proxies) -> None:
        self._store_root = store_root
        self._service = service
        self._proxies = proxies
        self._chance = random.Random()
        self._places = asyncio.Semaphore(FALLBACKS)
        self._tree: PublicTree
        self._torrents: Torrents
        self._crowd: Crowd
        self._seed: Seed | None = None

    def add_routes(self, app: web.Application) -> None:
        """Add what a tracker answers."""
        app[SERVICE] = self._service
        app.cleanup_ctx.append(self.lifetime)
        app.router.add_get("/announce", self.announce)
        app.router.add_get("/scrape", self.scrape)
        app.router.add_get("/swarm", self.status)
        app.router.add_get(f"/{{folder:packs|deltas}}/{{pack:{DIGEST}}}.torrent", self.torrent)

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """Open the store and the seed while the application runs."""
        self._tree = PublicTree(self._store_root)
        self._torrents = Torrents(self._tree)
        self._crowd = Crowd(self._service.limits, self._chance)
        if self._service.seed is not None:
            self._seed = self._service.seed()
        yield
        if self._seed is not None:
            await asyncio.to_thread(self._seed.close)
        self._tree.close()

    async def announce(self, request: web.Request) -> web.StreamResponse:
        """BEP 3; what is no good is answered as trackers do, with a reason and status 200."""
        try:
            said = parse_announce(_query(request))
            pack_id = await self._torrents.pack_of(said.info_hash)
            if pack_id is None:
                return _bencoded(failure("no pack of this store has that info hash"))
            address = _packed(self._proxies.client(request))
            reply = self._crowd.announce(said, address, time.monotonic())
        except (Corrupt, Full) as error:
            return _bencoded(failure(str(error)))
        if self._seed is not None and said.left and said.event != "stopped":
            with suppress(OSError, Corrupt):  # the pack may have gone meanwhile
                folder = self._torrents.folder(pack_id)
                self._seed.offer(await self._torrents.of_pack(pack_id, folder), folder)
                first = Peer(_packed(self._seed_address(request)), self._seed.port)
                reply = reply._replace(peers=(first, *reply.peers), first=first)
        if self._seed is not None:
            reply = reply._replace(seeds=reply.seeds + 1)
        return _bencoded(reply.encode())

    def _seed_address(self, request: web.Request) -> str:
        """Where this client reaches the first seed, "" for nowhere. Raises `OSError`."""
        assert self._seed is not None
        client = self._proxies.client(request)
        # Where it reached us; or where it would, were it not for the proxy.
        here = facing(client) if self._proxies.has_passed(request) else _local_address(request)
        kin = [place for place in self._seed.addresses if (":" in place) == (":" in here)]
        if here in kin or not set(EVERYWHERE).isdisjoint(kin):
            return here
        return kin[0] if kin else ""

    async def scrape(self, request: web.Request) -> web.StreamResponse:
        """BEP 48, of swarms that are named."""
        try:
            hashes = parse_scrape(_query(request))
        except Corrupt as error:
            return _bencoded(failure(str(error)))
        files = {}
        for info_hash in hashes:
            if await self._torrents.pack_of(info_hash) is not None:
                found = self._crowd.census(info_hash, time.monotonic())
                files[info_hash] = {
                    b"complete": found.seeds + (self._seed is not None),
                    b"downloaded": found.finished,
                    b"incomplete": found.leechers,
                }
        return _bencoded(bencode.encode({b"files": files}))

    async def torrent(self, request: web.Request) -> web.StreamResponse:
        """The torrent of a pack, with this server's tracker in it."""
        if request.raw_path != request.path:
            raise web.HTTPNotFound
        folder = request.match_info["folder"]
        try:
            found = await self._torrents.of_pack(bytes.fromhex(request.match_info["pack"]), folder)
        except (FileNotFoundError, Corrupt) as error:
            raise web.HTTPNotFound from error
        here = f"{self._proxies.scheme(request)}://{request.host}"
        has_name = request.host and request.host.isascii() and len(request.host) < 256
        own = (f"{here}/announce",) if has_name else ()
        seeds = (f"{here}/{folder}/{found.name}",) if has_name and self._seed is None else ()
        made = found._replace(trackers=self._service.trackers or own, web_seeds=seeds)
        if self._seed is not None and self._service.trackers:
            # That tracker can't call for the seed when it is wanted: this is the only sign.
            self._seed.offer(found, folder)
        return web.Response(
            body=made.encode(),
            headers={
                hdrs.CONTENT_TYPE: "application/x-bittorrent",
                hdrs.CACHE_CONTROL: "no-cache",
                hdrs.VARY: hdrs.HOST,
            },
        )

    async def status(self, request: web.Request) -> web.StreamResponse:
        """Every swarm somebody is in."""
        if request.raw_path != request.path:
            raise web.HTTPNotFound
        now = time.monotonic()
        offered = self._seed.rates() if self._seed is not None else {}
        rows = []
        for info_hash in self._crowd.busy(now):
            pack_id = await self._torrents.pack_of(info_hash)
            if pack_id is None:
                continue
            found = self._crowd.census(info_hash, now)
            rate, sent = offered.get(pack_id, (0, 0))
            rows.append(
                {
                    "pack": pack_id.hex(),
                    "seeds": found.seeds + (self._seed is not None),
                    "leechers": found.leechers,
                    "finished": found.finished,
                    "peers_rate": int(found.rate),
                    "server_rate": rate,
                    "server_sent": sent,
                }
            )
        body = {"packs": sorted(rows, key=lambda row: str(row["pack"])), "peers": self._crowd.peers}
        return web.json_response(body, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def turn(self, request: web.Request, pack: str) -> Callable[[], None] | None:
        """Wait for a place to send a part of a pack, if the client is in its swarm.

        Returns what gives the place back, None when none was needed. Raises `TimeoutError`.
        """
        if not self._crowd.peers:
            return None
        found = self._torrents.known(bytes.fromhex(pack))
        client = self._proxies.client(request)
        if found is None or not client:
            return None
        if not self._crowd.is_one_of_many(found, _packed(client)):
            return None
        async with asyncio.timeout(TURN_SECONDS):
            await self._places.acquire()
        return self._places.release


def _query(request: web.Request) -> str:
    # As it was sent: parsed as text, an info hash would not survive.
    return request.raw_path.partition("?")[2]


def _local_address(request: web.Request) -> str:
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport is not None else None
    return str(name[0]) if name else ""


def _packed(host: str) -> bytes:
    try:
        # A link-local address comes with its interface.
        return ipaddress.ip_address(host.partition("%")[0]).packed
    except ValueError as error:
        raise Corrupt("announce: the client has no address") from error


def _bencoded(body: bytes) -> web.Response:
    return web.Response(
        body=body, headers={hdrs.CONTENT_TYPE: _BENCODED, hdrs.CACHE_CONTROL: "no-store"}
    )


def come_again() -> web.Response:
    """All places are taken."""
    return web.Response(
        status=503, text="the swarm's way back is crowded\n", headers={hdrs.RETRY_AFTER: COME_AGAIN}
    )

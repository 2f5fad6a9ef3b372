"""A store whose pack is worth a swarm, its server, and nodes on the loopback."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from chunkstore.objects import torrent as torrents
from chunkstore.objects.names import parse_spec
from chunkstore.objects.torrent import Torrent
from chunkstore.pull import PullReport, pull
from chunkstore.server import SERVICE, running
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.storage.metered import MeteredReader
from chunkstore.storage.store import Store
from chunkstore.swarm.settings import SessionSettings, SwarmSettings
from support import stores

LOOPBACK = SessionSettings(addresses=("127.0.0.1",), ports=(20_000, 29_999))
LOOPBACK_6 = LOOPBACK._replace(addresses=("::1",))


@dataclass
class Node:
    """A directory that pulls, and what it was told meanwhile."""

    directory: Path
    settings: SwarmSettings
    remarks: list[str] = field(default_factory=list)
    came: list[tuple[int, int]] = field(default_factory=list)

    def pull(self, url: str, spec: str = "web", **options: Any) -> PullReport:
        settings = self.settings._replace(
            tell=self.remarks.append,
            came=lambda peers, seed: self.came.append((peers, seed)),
        )
        with closing(open_reader(url)) as reader:
            return pull(
                *(reader, [parse_spec(spec)], str(self.directory)),
                location=url,
                options=stores.trusting()._replace(swarm=settings, **options),
            )

    def reads(self, url: str) -> tuple[MeteredReader, Any]:
        """A reader of the remote by swarm, and the one of the server that it uses."""
        from chunkstore.swarm.cache import Cache
        from chunkstore.swarm.reader import SwarmReader

        self.directory.mkdir(exist_ok=True)
        server = MeteredReader(open_reader(url))
        settings = self.settings._replace(tell=self.remarks.append)
        return server, SwarmReader(server, settings, lambda: Cache(str(self.directory / "cache")))


@dataclass
class Rig:
    """The store, its image, and the packs of its two versions."""

    place: Path
    store: Store
    tree: Path

    @property
    def root(self) -> Path:
        return Path(self.store.root)

    def torrents(self) -> list[Torrent]:
        return [
            torrents.parse(path.read_bytes(), bytes.fromhex(path.stem), path.name)
            for path in sorted(self.root.glob("packs/*.torrent"))
        ]

    def data(self, torrent: Torrent) -> bytes:
        return (self.root / "packs" / torrent.name).read_bytes()

    def largest(self) -> Torrent:
        return max(self.torrents(), key=lambda torrent: torrent.size)

    def node(self, name: str, **settings: Any) -> Node:
        settings = {"transport": "swarm", "session": LOOPBACK, **settings}
        return Node(self.place / name, SwarmSettings(**settings))

    @contextmanager
    def server(
        self,
        *,
        seeds: bool = True,
        limit: int = 0,
        session: SessionSettings = LOOPBACK,
        **service: Any,
    ) -> Iterator[str]:
        """Serve the store where a session listens, with the first seed unless told otherwise."""

        def extend(app: web.Application) -> None:
            for name, value in service.items():
                setattr(app[SERVICE], name, value)
            if seeds:
                from chunkstore.swarm.seed import FirstSeed

                settings = session._replace(limit_upload=limit)
                trackers = service.get("trackers", ())
                app[SERVICE].seed = lambda: FirstSeed(str(self.root), settings, trackers)

        with running(self.root, session.addresses[0], extend=extend) as url:
            yield url


def whole(found: Torrent) -> dict[str, list[tuple[int, int]]]:
    """All of a pack, as `foresee` is told of it."""
    return {layout.pack(found.pack): [(0, found.size)]}


def cached(node: Path) -> list[str]:
    """What a node keeps for others."""
    return [name for name in os.listdir(node / ".imgstore/swarm") if name != "lock"]


def together(works: list[Callable[[], object]]) -> list[object]:
    """Do all of this at once; the results in order, or what one of them raised."""
    results: list[object] = [None] * len(works)

    def run(place: int) -> None:
        try:
            results[place] = works[place]()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results

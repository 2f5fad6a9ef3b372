"""The first seed: a server's packs, offered from the moment somebody asks for them.

A pack joins the session when the tracker hears of the first who wants it, and leaves after nobody
did for a while, so that a store of any size costs nothing while its nodes are quiet. With trackers
of others the seed announces itself there.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Final

from chunkstore.errors import ChunkstoreError, LocalError
from chunkstore.objects.torrent import Torrent
from chunkstore.swarm.announce import Reply
from chunkstore.swarm.events import Broken
from chunkstore.swarm.presence import Presence
from chunkstore.swarm.session import Session
from chunkstore.swarm.settings import SessionSettings

IDLE_SECONDS: Final = 900.0
_TICK: Final = 1.0


class FirstSeed:
    """Offers packs of the store at `root`. Raises `LocalError` when it can't listen."""

    def __init__(
        self, root: str, settings: SessionSettings, trackers: tuple[str, ...] = ()
    ) -> None:
        self._root = root
        self._trackers = trackers
        self._session = Session(settings)
        self.port = self._session.port
        self.addresses = settings.addresses
        self._presence = Presence(self._session, self._heard) if trackers else None
        if self._presence is not None:
            self._presence.__enter__()
        self._lock = threading.Lock()
        self._offered: dict[bytes, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seed", daemon=True)
        self._thread.start()

    def offer(self, torrent: Torrent, folder: str) -> None:
        """Offer a pack that lies in `folder`, or go on offering it."""
        with self._lock:
            is_new = torrent.pack not in self._offered
            self._offered[torrent.pack] = time.monotonic()
            if not is_new:
                return
            with suppress(LocalError):
                self._session.seed(torrent, os.path.join(self._root, folder))
        if self._presence is not None:
            self._presence.join(torrent, self._trackers, fetches=False)

    def rates(self) -> dict[bytes, tuple[int, int]]:
        """Bytes per second and bytes sent so far of each pack it offers."""
        with self._lock:
            packs = list(self._offered)
        found = {pack: self._session.status(pack) for pack in packs}
        return {
            pack: (status.upload_rate, status.uploaded)
            for pack, status in found.items()
            if status is not None
        }

    def _heard(self, pack: bytes, answer: Reply | ChunkstoreError) -> None:
        if isinstance(answer, Reply):
            if answer.leechers:
                with self._lock:
                    self._offered[pack] = time.monotonic()
            self._session.connect(pack, answer.peers)

    def _run(self) -> None:
        while not self._over.is_set():
            broken = {
                event.pack for event in self._session.events(_TICK) if isinstance(event, Broken)
            }
            now = time.monotonic()
            with self._lock:
                for pack, last in list(self._offered.items()):
                    # A pack that could not be read is offered anew when somebody asks again.
                    if pack in broken or now - last > IDLE_SECONDS:
                        del self._offered[pack]
                        self._session.remove(pack)
                        if self._presence is not None:
                            self._presence.leave(pack)

    def close(self) -> None:
        """Leave all swarms."""
        self._over.set()
        self._thread.join()
        if self._presence is not None:
            self._presence.close()
        self._session.close()

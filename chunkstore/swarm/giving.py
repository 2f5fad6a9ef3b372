"""What a node goes on giving: the packs in its cache, for a time, or until nobody wants them.

Promises: never for ever by accident: whoever starts it says for how long, or is a service; it ends
when it is told to, and when the crowd is served. What it gives is checked as it is read from the
disk first.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from chunkstore.errors import ChunkstoreError, Conflict, LocalError, NotFound, local_errors
from chunkstore.swarm.announce import Reply
from chunkstore.swarm.cache import LOCK, Cache
from chunkstore.swarm.events import Broken
from chunkstore.swarm.presence import Presence
from chunkstore.swarm.session import Session
from chunkstore.swarm.settings import SessionSettings
from chunkstore.swarm.tracking import Tracker

SERVED_SECONDS: Final = 45.0
"""So long nobody may want anything before a crowd counts as served: two announces of a late one."""
_TICK: Final = 0.5
_STEP: Final = 0.05
_SETTLE_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Terms:
    """When to end: after `seconds`, when `ratio` times the bytes here were given, and, if `served`,
    when nobody wants any. None and False for no such end. `discard` empties the cache then.
    """

    seconds: float | None = None
    ratio: float | None = None
    served: bool = False
    discard: bool = False


class Given(NamedTuple):
    """What was given: packs, their bytes that were here, bytes sent, and why it ended."""

    packs: int
    size: int
    sent: int
    reason: str


def give(
    path: str,
    settings: SessionSettings,
    terms: Terms,
    *,
    stopping: threading.Event,
    on_ready: Callable[[int, int], None] = lambda _packs, _port: None,
    opened: Callable[[str], Tracker] = Tracker,
    on_cache: Callable[[int], None] = lambda _directory: None,
    wait: bool = False,
) -> Given:
    """Give the packs in the cache at `path` until the terms are met, or `stopping` is set.

    `on_ready` hears how many packs there are and the port, once others can connect and have them;
    `opened` makes the tracker at a URL; `on_cache` hears the cache's descriptor before anything is
    done with it, and may `confine` this thread to it. Raises `NotFound` when there is no cache,
    `Conflict` when it is in use, unless `wait` says to wait until it is free, and `LocalError`.
    """
    if not os.path.isdir(path):
        raise NotFound(f"nothing came from a swarm to {path}", name=path)
    cache = _opened(path, stopping, wait=wait)
    if cache is None:
        return Given(0, 0, 0, "stopped")
    on_cache(cache.directory)
    with closing(cache), closing(Session(settings)) as session:
        giver = _Giver(cache, session)
        with Presence(session, giver.heard, opened) as presence:
            giver.begin(presence)
            giver.settle(stopping)
            on_ready(len(giver.packs), session.port)
            reason = giver.run(terms, stopping)
            report = giver.report(reason)
        # Who stops it goes on with the cache, such as the next pull.
        if terms.discard and not stopping.is_set():
            cache.clear()
    return report


def _opened(path: str, stopping: threading.Event, *, wait: bool) -> Cache | None:
    while True:
        try:
            return Cache(path)
        except Conflict:
            if not wait:
                raise
        if stopping.wait(_TICK):
            return None


class _Giver:
    """One run."""

    def __init__(self, cache: Cache, session: Session) -> None:
        self._cache = cache
        self._session = session
        self.packs: list[bytes] = []
        self._sizes = 0
        self._wanted_last = time.monotonic()

    def begin(self, presence: Presence) -> None:
        for torrent in self._cache.packs():
            # Nothing is fetched; what is here is found by its hashes.
            self._session.fetch(torrent, self._cache.path, [0] * torrent.pieces)
            self.packs.append(torrent.pack)
            self._sizes += torrent.size
            # With a tracker that is dead nobody would hear of this port.
            self._session.connect(torrent.pack, self._cache.peers(torrent.pack))
            presence.join(torrent, torrent.trackers, fetches=False)

    def settle(self, stopping: threading.Event) -> None:
        """Wait until all that is here has been looked at, and can be had."""
        until = time.monotonic() + _SETTLE_SECONDS
        while not stopping.is_set() and time.monotonic() < until:
            self._take_in(_STEP)
            found = map(self._session.status, self.packs)
            if all(status is None or status.is_checked for status in found):
                return

    def heard(self, pack: bytes, answer: Reply | ChunkstoreError) -> None:
        if not isinstance(answer, Reply):
            return
        if answer.leechers:
            self._wanted_last = time.monotonic()
        # They would find us, but may sit where nobody can connect to them from outside.
        self._session.connect(pack, answer.peers)

    def run(self, terms: Terms, stopping: threading.Event) -> str:
        began = looked = time.monotonic()
        while not stopping.is_set():
            self._take_in(_TICK)
            now = time.monotonic()
            if terms.served and now - looked > _LOOK_SECONDS:
                looked = now
                if any(map(self._session.is_missed, self.packs)):
                    self._wanted_last = now
            if terms.seconds is not None and now - began >= terms.seconds:
                return "its time was over"
            if terms.ratio is not None and self._sent() >= terms.ratio * self._sizes:
                return "it had given enough"
            if terms.served and now - self._wanted_last > SERVED_SECONDS:
                return "nobody wanted any more"
        return "stopped"

    def _take_in(self, seconds: float) -> None:
        for event in self._session.events(seconds):
            if isinstance(event, Broken):
                self._session.remove(event.pack)

    def _sent(self) -> int:
        found = (self._session.status(pack) for pack in self.packs)
        return sum(status.uploaded for status in found if status is not None)

    def report(self, reason: str) -> Given:
        return Given(len(self.packs), self._sizes, self._sent(), reason)


def stop(path: str) -> bool:
    """Let whoever uses the cache at `path` end, and wait for it; False when nobody did.

    Raises `LocalError` when it does not end.
    """
    with local_errors("can't look who uses the swarm's cache"):
        try:
            lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Its number is in the lock, and as long as the lock is held it is that process.
            number = os.pread(lock, 32, 0).strip()
            holder = os.pidfd_open(int(number)) if number.isdigit() else -1
        except ProcessLookupError:
            holder = -1
        finally:
            held = _is_held(lock)
            os.close(lock)
    if holder < 0 or not held:
        with suppress(OSError):
            os.close(holder)
        return False
    try:
        signal.pidfd_send_signal(holder, signal.SIGTERM)
        ended, _, _ = select.select([holder], [], [], _STOP_SECONDS)
    except ProcessLookupError:
        return True
    finally:
        os.close(holder)
    if not ended:
        raise LocalError(f"process {number.decode()} uses {path} and does not end: look at it")
    return True


def _is_held(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False

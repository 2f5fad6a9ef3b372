"""Being known to trackers: one thread that announces every pack of a session when it is due.

In the first seconds it asks often, while the crowd gathers and ranks move; then as often as the
tracker wants. Promises: a tracker that is dead or slow holds up nobody but this thread, and is
asked ever less often; leaving says so to each tracker, for a moment at most.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from chunkstore.errors import ChunkstoreError
from chunkstore.objects.torrent import Torrent
from chunkstore.swarm.announce import Announce, Reply
from chunkstore.swarm.events import Status
from chunkstore.swarm.tracking import Tracker

Heard = Callable[[bytes, Reply | ChunkstoreError], float | None]
"""Told the pack, and what its tracker said, or why it said nothing; returns after how many seconds
to ask again at the latest, None for no such wish."""


class Standing(Protocol):
    """Who is announced: a session, or who may open one."""

    @property
    def port(self) -> int:
        """Where it listens, or will."""
        ...

    def status(self, pack: bytes) -> Status | None:
        """How a pack is doing; None as long as it is in no swarm here."""
        ...


_GATHERING: Final = (0.6, 0.9, 1.5, 3.0, 5.0)
"""Seconds between the first announces."""
_LEAST: Final = 5.0
_MOST: Final = 300.0
_AGAIN: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
_LEAVING: Final = 2.0
_CLIENT: Final = b"-IM0100-"


@dataclass
class _Swarm:
    torrent: Torrent
    trackers: tuple[str, ...]
    due: float
    told: int = 0
    failed: int = 0
    is_done: bool = False
    """Whether the tracker knows that nothing is left to fetch."""
    events: list[str] = field(default_factory=lambda: ["started"])


class Presence:
    """Announces the packs of `who`. A context manager; `heard` is called on its thread."""

    def __init__(
        self, who: Standing, heard: Heard, opened: Callable[[str], Tracker] = Tracker
    ) -> None:
        self._who = who
        self._heard = heard
        self._opened = opened
        self._peer_id = _CLIENT + os.urandom(6).hex().encode()
        self._swarms: dict[bytes, _Swarm] = {}
        self._trackers: dict[str, Tracker] = {}
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="announce", daemon=True)

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def join(self, torrent: Torrent, trackers: Sequence[str], *, fetches: bool = True) -> None:
        """Announce this pack from now on, at the first of its trackers that answers.

        Who does not fetch counts as a seed, also while its file is still looked at.
        """
        with self._changed:
            swarm = _Swarm(torrent, tuple(trackers), time.monotonic(), is_done=not fetches)
            self._swarms[torrent.pack] = swarm
            self._changed.notify()

    def leave(self, pack: bytes) -> None:
        """Announce once more that we leave, and then no more."""
        with self._changed:
            swarm = self._swarms.get(pack)
            if swarm is not None:
                swarm.events = ["stopped"]
                swarm.due = time.monotonic()
                self._changed.notify()

    def hurry(self, but: bytes = b"") -> None:
        """Ask about every pack now, `but` for one that was just asked about."""
        with self._changed:
            for pack, swarm in self._swarms.items():
                if pack != but:
                    swarm.due = min(swarm.due, time.monotonic())
            self._changed.notify()

    def close(self) -> None:
        """Leave all swarms; waits a moment for the trackers to hear it."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread.ident is None:
            return
        self._thread.join(_LEAVING)
        for tracker in list(self._trackers.values()):
            tracker.abandon()
        self._thread.join()

    def _run(self) -> None:
        while (swarm := self._next()) is not None:
            self._announce(swarm)
        until = time.monotonic() + _LEAVING
        for swarm in list(self._swarms.values()):
            if swarm.told and time.monotonic() < until:
                swarm.events = ["stopped"]
                self._announce(swarm)
        for tracker in self._trackers.values():
            tracker.close()

    def _next(self) -> _Swarm | None:
        """Wait until an announce is due; None when it is all over."""
        with self._changed:
            while not self._is_over:
                now = time.monotonic()
                self._note_done(now)
                first = min(self._swarms.values(), key=lambda swarm: swarm.due, default=None)
                if first is not None and first.due <= now:
                    return first
                self._changed.wait(min(0.5, first.due - now) if first is not None else None)
        return None

    def _note_done(self, now: float) -> None:
        """Tell of a finished pack at once: others then know that it can be had whole here."""
        for pack, swarm in self._swarms.items():
            if swarm.told and not swarm.is_done:
                status = self._who.status(pack)
                if status is not None and status.is_checked and not status.left:
                    swarm.is_done = True
                    swarm.events.append("completed")
                    swarm.due = now

    def _announce(self, swarm: _Swarm) -> None:
        event = swarm.events.pop(0) if swarm.events else ""
        said = self._words(swarm, event)
        answer: Reply | ChunkstoreError | None = None
        for url in swarm.trackers:
            try:
                answer = self._tracker(url).announce(said)
                break
            except ChunkstoreError as error:
                answer = error
        now = time.monotonic()
        if event == "stopped":
            with self._changed:
                self._swarms.pop(swarm.torrent.pack, None)
            return
        if isinstance(answer, Reply):
            step = swarm.told
            swarm.told += 1
            swarm.failed = 0
            regular = min(max(answer.interval, _LEAST), _MOST)
            early = step < len(_GATHERING) and not swarm.is_done
            swarm.due = now + (_GATHERING[step] if early else regular)
        else:
            if event:
                swarm.events.insert(0, event)
            swarm.due = now + _AGAIN[min(swarm.failed, len(_AGAIN) - 1)]
            swarm.failed += 1
        if answer is not None:
            soon = self._heard(swarm.torrent.pack, answer)
            if soon is not None:
                swarm.due = min(swarm.due, now + soon)

    def _words(self, swarm: _Swarm, event: str) -> Announce:
        status = self._who.status(swarm.torrent.pack)
        left = swarm.torrent.size if status is None or not status.is_checked else status.left
        if swarm.is_done:
            left = 0
        swarm.is_done = not left
        return Announce(
            info_hash=swarm.torrent.info_hash,
            peer_id=self._peer_id,
            port=self._who.port,
            left=left,
            uploaded=status.uploaded if status is not None else 0,
            downloaded=status.downloaded if status is not None else 0,
            event=event,
            wanted=0 if event == "stopped" else None,
        )

    def _tracker(self, url: str) -> Tracker:
        found = self._trackers.get(url)
        if found is None:
            found = self._trackers[url] = self._opened(url)
        return found

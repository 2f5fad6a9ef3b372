"""One pack on its way from its swarm: what is here, who waits for it, and when to lose patience.

A fetch is in one of five ways. `ASKING`, a tracker is yet to say whether there is anybody.
`ALONE`, there is nobody but the server: it is read over HTTP, in slices so short that what is left
can turn to a crowd at any moment. By `SWARM`, pieces come from peers. `HELPED`, the swarm has given
out for now: pieces are also read from the server, a few at a time, and handed to the peers, and
when the swarm gives again that ends. `DIRECT`, it gives nothing and there is no use in waiting:
whoever waits reads from the server what is missing, and only that. Pure but for the file.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final

from chunkstore.errors import TransferError
from chunkstore.fsio import read_at
from chunkstore.objects.torrent import Torrent
from chunkstore.storage.backend import Reader
from chunkstore.swarm.alone import Alone
from chunkstore.swarm.announce import Peer, Reply
from chunkstore.swarm.choice import Wish
from chunkstore.swarm.events import Status

NOBODY_SECONDS: Final = 1.5
"""Without a tracker that answers, or with one that knows nobody."""
FIRST_SECONDS: Final = 5.0
"""For the first byte from anybody."""
STALL_SECONDS: Final = 5.0
"""Without a byte, after some came."""
CHANCE_SECONDS: Final = 3.0
"""At most so much more, by chance: else all nodes lose patience in the same moment."""
NODE_SECONDS: Final = 0.2
"""More for each node that fetches the same,"""
MOST_SECONDS: Final = 15.0
"""but at most so much."""
FLOWING_SECONDS: Final = 2.0
"""So long a swarm has to give before help ends."""


class Way(Enum):
    """How a pack comes."""

    ASKING = "asking"
    ALONE = "alone"
    SWARM = "swarm"
    HELPED = "helped"
    DIRECT = "direct"


class Fetch:
    """What is wanted of one pack. Safe from any thread."""

    def __init__(self, name: str, wish: Wish, directory: int, way: Way = Way.SWARM) -> None:
        self.name = name
        self.torrent: Torrent = wish.torrent
        self.wanted = frozenset(wish.pieces)
        self._bytes = wish.bytes_by_piece
        self.way = way
        self.has_joined = way is Way.SWARM
        """Whether it ever was in a swarm."""
        self.is_entered = False
        """Whether the session has it: before, there is no status to judge by."""
        self.late: Callable[[int, bytes], None] = lambda _piece, _data: None
        """Takes whole pieces that a node alone had asked for when the crowd came."""
        self.wants_more: Callable[[], None] = lambda: None
        """Called when more pieces are wanted than when it joined."""
        self.has_company = False
        """Whether, by the tracker's last word, there is anybody but the server's own seed."""
        self.peers: set[Peer] = set()
        self.first: Peer | None = None
        self.rank: int | None = None
        self.crowd = 0
        self.has_failed_tracker = False
        self.is_answered = False
        """Whether the tracker has said something, or can't be reached."""
        self._directory = directory
        self._file = -1
        self._alone = Alone(self.torrent, directory)
        self._ready: set[int] = set()
        self._changed = threading.Condition()
        self._is_over = False
        self._patience = random.uniform(0, CHANCE_SECONDS)
        self.came: Counter[tuple[str, int]] = Counter()
        """Bytes by the peer they came from, those in vain included."""
        self.last = self._since = time.monotonic()
        """When bytes came last, or else when it began."""

    # What is here

    @property
    def missing(self) -> list[int]:
        """The wanted pieces that are not here."""
        with self._changed:
            return sorted(self.wanted - self._ready)

    @property
    def is_begun(self) -> bool:
        """Whether any piece is here."""
        return bool(self._ready)

    def look(self) -> None:
        """Find what an earlier pull has left in the file."""
        for piece in sorted(self.wanted):
            low, high = self.torrent.span(piece)
            data = self._from_file(low, high)
            if not data and self._file < 0:
                return
            if len(data) == high - low and self.torrent.is_right(piece, data):
                self.note(piece)

    def note(self, piece: int) -> None:
        """A piece is in the file, and right."""
        with self._changed:
            self._ready.add(piece)
            self._changed.notify_all()

    def take(self, size: int, peer: tuple[str, int], now: float) -> None:
        """So many bytes have come from a peer."""
        self.came[peer] += size
        if now - self.last > FLOWING_SECONDS:
            self._since = now  # it flows again from here on
        self.last = now

    def read(self, start: int, stop: int, server: Reader) -> bytes:
        """Bytes of the pack, from the file as soon as they are there, else from the server.

        Raises what the server's reader raises, and `TransferError` when all is over.
        """
        stop = min(stop, self.torrent.size)
        parts = []
        while start < stop:
            with self._changed:
                self._wait(self.torrent.covering(start, stop))
                is_alone = self.way is Way.ALONE
                end = self._alone.ask(start, stop) if is_alone else stop
                here = self._ready.intersection(self.torrent.covering(start, end))
            try:
                parts += self._read(start, end, here, server, is_alone=is_alone)
                start = end
            except TransferError:
                if not self._turn_back(set(self.torrent.covering(start, end)) - here):
                    raise
        return b"".join(parts)

    def _turn_back(self, lacking: set[int]) -> bool:
        """What a node alone had asked of a server that fails is to come by the swarm after all.

        False where nothing was lacking: then waiting for it would end at the server again.
        """
        with self._changed:
            if not self.has_joined or self.way is Way.DIRECT or not lacking:
                return False
            is_news = not lacking <= self.wanted
            self.wanted |= lacking
        if is_news:
            self.wants_more()
        return True

    def _wait(self, pieces: range) -> None:
        """Wait until they are here, or need not be waited for; with the lock."""
        while not (self.way in {Way.ALONE, Way.DIRECT} or self._are_here(pieces)):
            if self._is_over:
                raise TransferError(f"{self.name}: given up")
            self._changed.wait()

    def _read(
        self, start: int, stop: int, here: set[int], server: Reader, *, is_alone: bool
    ) -> list[bytes]:
        parts = []
        for first, last, is_here in _runs(self.torrent.covering(start, stop), here):
            low, high = (
                max(self.torrent.span(first)[0], start),
                min(self.torrent.span(last)[1], stop),
            )
            parts.append(self._from_file(low, high) if is_here else b"")
            if len(parts[-1]) != high - low:
                # Somebody has cut the file, or it was never here.
                begun = time.monotonic()
                parts[-1] = server.get(self.name, low, high)
                if is_alone:
                    self._came_alone(low, parts[-1], time.monotonic() - begun)
        return parts

    def _came_alone(self, start: int, data: bytes, seconds: float) -> None:
        with self._changed:
            if self.way is Way.ALONE:
                self._alone.came(start, data, seconds)
                return
        # The crowd came meanwhile. What is in the file now has been checked, and stays that way.
        for piece in self.torrent.covering(start, start + len(data)):
            low, high = (place - start for place in self.torrent.span(piece))
            if low >= 0 and self.torrent.is_right(piece, data[low:high]):
                self.late(piece, data[low:high])

    def _are_here(self, pieces: range) -> bool:
        return all(piece in self._ready for piece in pieces if piece in self.wanted)

    def _from_file(self, start: int, stop: int) -> bytes:
        with self._changed:
            if self._file < 0:
                with suppress(OSError):
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    self._file = os.open(self.torrent.name, flags, dir_fd=self._directory)
            if self._file < 0:
                return b""
        with suppress(OSError):
            return read_at(self._file, start, stop)
        return b""

    # When to lose patience

    def heard(self, reply: Reply, allows: Callable[[bytes], bool]) -> bool:
        """What the tracker said; whether rank or crowd have changed."""
        before = (self.rank, self.crowd)
        peers = {peer for peer in reply.peers if allows(peer.address)}
        self.peers |= peers
        self.rank, self.crowd = reply.rank, reply.leechers
        self.first = reply.first or self.first
        self.has_company = bool(peers - {self.first})
        self.is_answered = True
        self.has_failed_tracker = False
        return (self.rank, self.crowd) != before

    def not_heard(self) -> bool:
        """The tracker can't be reached; whether that is news."""
        is_news = not self.has_failed_tracker
        self.has_failed_tracker = self.is_answered = True
        return is_news

    def judge(self, status: Status | None, now: float) -> Way:
        """Look at how it goes, and decide the way; called a few times a second."""
        if self.way is Way.ASKING and now - self.last > NOBODY_SECONDS:
            self.go_alone()
        if self.way in {Way.ASKING, Way.ALONE, Way.DIRECT} or not self.missing:
            return self.way
        if not self.is_entered:
            self.last = now
            return self.way
        if status is None:
            self.give_up()
            return self.way
        if not status.is_checked:
            self.last = now
        idle = now - self.last
        patience = (STALL_SECONDS if self.came else FIRST_SECONDS) + self._patience
        # The larger the crowd, the longer it takes until one of it has its turn.
        patience += min(self.crowd * NODE_SECONDS, MOST_SECONDS)
        if self.way is Way.HELPED:
            if idle < 1 and now - self._since > FLOWING_SECONDS:
                self.way = Way.SWARM
        elif idle > patience and (self.came or status.peers):
            # Who is connected may only be slow to make up its mind.
            self.way = Way.HELPED
        elif not self.came and not status.peers:
            is_hopeless = self.is_answered and not self.peers
            if idle > (NOBODY_SECONDS if is_hopeless else patience):
                self.give_up()
        return self.way

    def go_alone(self) -> None:
        """Read from the server, as long as there is nobody else."""
        with self._changed:
            if self.way is Way.ASKING:
                self.way = Way.ALONE
                self._changed.notify_all()

    def join(self) -> list[int]:
        """Wait for a swarm from now on; the pieces that are to come by it.

        See `Alone.is_settled` for which do not. Afterwards the file is the swarm's.
        """
        with self._changed:
            self.way = Way.SWARM
            self.has_joined = True
            settled = self._alone.is_settled
            self.wanted = frozenset(
                piece for piece in self.wanted if not settled(piece, self._bytes[piece])
            )
            self.last = self._since = time.monotonic()
            self._alone.close()
            self._changed.notify_all()
            return sorted(self.wanted)

    def give_up(self) -> None:
        """Wait for the swarm no longer."""
        with self._changed:
            self.way = Way.DIRECT
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody may wait any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def close(self) -> None:
        """Give back the file."""
        self.end()
        with self._changed:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._alone.close()


def _runs(pieces: range, here: set[int]) -> list[tuple[int, int, bool]]:
    """Pieces in runs of those that are here and those that are not: (first, last, are here)."""
    runs: list[tuple[int, int, bool]] = []
    for piece in pieces:
        is_here = piece in here
        if runs and runs[-1][2] is is_here:
            runs[-1] = (runs[-1][0], piece, is_here)
        else:
            runs.append((piece, piece, is_here))
    return runs

"""Who is in the swarm of each pack: the state of a tracker.

Pure: told the time and given its chance, so that every case can be tried. Promises: bounded
memory, whoever announces what; a peer is only ever at the address it announced from, so nobody can
send the crowd to somebody else; who falls silent expires. Each peer that still fetches has a rank
among those who do, by which nodes fetch disjoint parts first.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from chunkstore.swarm.announce import Announce, Peer, Reply

SECONDS_APART: Final = 20
"""Between two announces of a peer that has nothing new to say."""
_MEASURED_SECONDS: Final = 2.0
"""Rates over less than this say nothing."""
MAX_PEERS: Final = 100
"""Peers told at once; as many connections as one client can make good use of."""
USUAL_PEERS: Final = 40


class Full(Exception):
    """The tracker has no room for another peer; the message says of which kind."""


@dataclass(frozen=True, slots=True)
class CrowdLimits:
    """What the tracker keeps at most. A peer takes about 400 bytes.

    `of_host` bounds one address over all swarms: many nodes may share one, and one node be in the
    swarms of many packs. `silence` is in seconds.
    """

    peers: int = 50_000
    of_swarm: int = 10_000
    of_host: int = 2_048
    silence: float = 2.5 * SECONDS_APART


class Census(NamedTuple):
    """How many there are, and how many ever finished; `rate` is bytes per second given."""

    seeds: int
    leechers: int
    finished: int
    rate: float


@dataclass(slots=True)
class _Member:
    left: int
    uploaded: int
    seen: float
    measured: float
    rate: float = 0.0


class _Swarm:
    def __init__(self) -> None:
        self.members: dict[Peer, _Member] = {}
        self.finished = 0

    @property
    def fetching(self) -> list[Peer]:
        """In the order they came."""
        return [peer for peer, member in self.members.items() if member.left]


class Crowd:
    """The swarms of a tracker, by info hash. Which ones there may be is the caller's business."""

    def __init__(self, limits: CrowdLimits | None = None, chance: random.Random | None = None):
        self._limits = limits or CrowdLimits()
        self._chance = chance or random.Random()
        self._swarms: dict[bytes, _Swarm] = {}
        self._hosts: Counter[bytes] = Counter()
        self._swept = 0.0

    @property
    def peers(self) -> int:
        """How many are known, each in as many swarms as it is in."""
        return self._hosts.total()

    def announce(self, said: Announce, address: bytes, now: float) -> Reply:
        """Take in what a peer at `address` (4 or 16 bytes) says, and tell it of the others.

        Raises `Full`.
        """
        self._sweep(now)
        peer = Peer(address, said.port)
        if said.event == "stopped":
            self._drop(said.info_hash, peer)
            swarm = self._swarms.get(said.info_hash) or _Swarm()
        else:
            swarm = self._swarms.setdefault(said.info_hash, _Swarm())
            try:
                self._note(swarm, peer, said, now)
            except Full:
                if not swarm.members:
                    del self._swarms[said.info_hash]
                raise
        fetching = swarm.fetching
        wanted = USUAL_PEERS if said.wanted is None else min(said.wanted, MAX_PEERS)
        told = self._others(swarm, peer, is_seed=not said.left, count=wanted)
        return Reply(
            interval=SECONDS_APART,
            peers=() if said.event == "stopped" else tuple(told),
            seeds=len(swarm.members) - len(fetching),
            leechers=len(fetching),
            rank=fetching.index(peer) if peer in swarm.members and said.left else None,
        )

    def _note(self, swarm: _Swarm, peer: Peer, said: Announce, now: float) -> None:
        member = swarm.members.get(peer)
        if member is None:
            limits = self._limits
            if len(swarm.members) >= limits.of_swarm or self.peers >= limits.peers:
                raise Full("this tracker is full")
            if self._hosts[peer.address] >= limits.of_host:
                raise Full("too many peers at this address")
            self._hosts[peer.address] += 1
            member = swarm.members[peer] = _Member(said.left, said.uploaded, now, now)
        elif now - member.measured >= _MEASURED_SECONDS:
            member.rate = max(said.uploaded - member.uploaded, 0) / (now - member.measured)
            member.uploaded, member.measured = said.uploaded, now
        if said.event == "completed" and member.left:
            swarm.finished += 1
        member.left, member.seen = said.left, now

    def _others(self, swarm: _Swarm, peer: Peer, *, is_seed: bool, count: int) -> list[Peer]:
        # Seeds have nothing to say to each other.
        others = [
            other
            for other, member in swarm.members.items()
            if other != peer and (member.left or not is_seed)
        ]
        return others if len(others) <= count else self._chance.sample(others, count)

    def census(self, info_hash: bytes, now: float) -> Census:
        """The figures of one swarm."""
        self._sweep(now)
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            return Census(0, 0, 0, 0.0)
        leechers = len(swarm.fetching)
        rate = sum(member.rate for member in swarm.members.values())
        return Census(len(swarm.members) - leechers, leechers, swarm.finished, rate)

    def busy(self, now: float) -> list[bytes]:
        """The info hashes of the swarms that somebody is in."""
        self._sweep(now)
        return [name for name, swarm in self._swarms.items() if swarm.members]

    def is_one_of_many(self, info_hash: bytes, address: bytes) -> bool:
        """Whether somebody at `address` is not done with that swarm, and others are not either."""
        swarm = self._swarms.get(info_hash)
        fetching = swarm.fetching if swarm is not None else []
        return len(fetching) > 1 and any(peer.address == address for peer in fetching)

    def _drop(self, info_hash: bytes, peer: Peer) -> None:
        swarm = self._swarms.get(info_hash)
        if swarm is None or swarm.members.pop(peer, None) is None:
            return
        self._hosts[peer.address] -= 1
        if not self._hosts[peer.address]:
            del self._hosts[peer.address]
        if not swarm.members and not swarm.finished:
            del self._swarms[info_hash]

    def _sweep(self, now: float) -> None:
        """Let go of those who fell silent; not at every call, which would make each one slow."""
        if now - self._swept < self._limits.silence / 10:
            return
        self._swept = now
        for info_hash, swarm in list(self._swarms.items()):
            for peer, member in list(swarm.members.items()):
                if now - member.seen > self._limits.silence:
                    self._drop(info_hash, peer)

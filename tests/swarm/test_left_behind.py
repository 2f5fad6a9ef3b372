"""Those who are left behind when the server, and the tracker with it, is gone."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.crowd import LOOPBACK, Rig

from chunkstore.storage import layout
from chunkstore.swarm import giving
from chunkstore.swarm.announce import Peer
from chunkstore.swarm.cache import Cache

SOON = 30.0


def test_who_goes_on_giving_finds_them(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    """By what the pull has noted, at another port than the pull's, and as long as they take."""
    monkeypatch.setattr(giving, "SERVED_SECONDS", 1.0)
    monkeypatch.setattr(giving, "_LOOK_SECONDS", 0.1)
    found = rig.largest()
    name, data = layout.pack(found.pack), rig.data(found)
    slow = LOOPBACK._replace(limit_download=found.size // 6)
    got: list[bytes] = []
    with rig.server() as url:
        server, first = rig.node("first").reads(url)
        other, second = rig.node("second", session=slow).reads(url)
        for reader in (first, second):
            reader.foresee({name: [(0, found.size)]})
        until = time.monotonic() + SOON
        while len(first._fetches[name].peers) < 2:  # the seed is one
            assert time.monotonic() < until
            time.sleep(0.05)
        taking = threading.Thread(target=lambda: got.append(second.get(name, 0, found.size)))
        taking.start()
        assert first.get(name, 0, found.size) == data
        first.note_peers()
    with closing(second), closing(other):
        first.close()
        server.close()
        path = str(rig.place / "first/cache")
        given = giving.give(
            *(path, LOOPBACK, giving.Terms(served=True)), stopping=threading.Event()
        )
        taking.join(SOON)
        assert got == [data]
        assert given.reason == "nobody wanted any more"
        assert given.sent > found.size / 3


def test_peers_that_were_noted(tmp_path: Path):
    pack = bytes(range(32))
    peers = [Peer(bytes([10, 0, 0, 1]), 6881), Peer(bytes(15) + b"\1", 65535)]
    with closing(Cache(str(tmp_path / "cache"))) as cache:
        assert cache.peers(pack) == []
        cache.note_peers(pack, peers)
        assert cache.peers(pack) == peers
        place = tmp_path / "cache" / f"{pack.hex()}.peers"
        assert place.read_text() == "10.0.0.1 6881\n::1 65535\n"
        assert place.stat().st_mode & 0o777 == 0o600
        for damage in (b"\xff\n", b"nowhere 6881\n", b"10.0.0.1\n", b"10.0.0.1 x\n"):
            place.write_bytes(b"10.0.0.1 6881\n" + damage)
            assert cache.peers(pack) in ([], peers[:1])
        place.write_bytes(b"10.0.0.1 0\n10.0.0.1 70000\n")
        assert cache.peers(pack) == []
        cache.drop(pack)
        assert not place.exists()

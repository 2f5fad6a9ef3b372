"""When a node loses patience with a swarm, and what it does then."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from support.crowd import Rig, whole
from support.peers import Peer
from support.trees import assert_same

from chunkstore.storage import layout
from chunkstore.storage.backends import http
from chunkstore.swarm import fetch as fetching
from chunkstore.swarm import help as helping
from chunkstore.swarm.fetch import Way

pytestmark = pytest.mark.usefixtures("impatient")


def test_ways(rig: Rig):
    """A fetch's judgement, at made-up times."""
    from chunkstore.swarm.announce import Peer as Known
    from chunkstore.swarm.choice import Wish
    from chunkstore.swarm.events import Status
    from chunkstore.swarm.fetch import Fetch

    found = rig.largest()

    def fetch() -> Fetch:
        made = Fetch(layout.pack(found.pack), Wish(found, ((0, found.size),)), -1)
        made.peers.add(Known(bytes(4), 1))
        assert made.judge(None, made.last + 100) is Way.SWARM  # its session has not got it yet
        made.is_entered = True
        return made

    status = Status(1, 0, 0, 0, 0, 1, True)
    alone = status._replace(peers=0)
    peer = ("10.0.0.1", 1)
    fresh = fetch()
    begun = fresh.last
    assert fresh.judge(status, begun + fetching.FIRST_SECONDS * 0.9) is Way.SWARM
    fresh.take(5, peer, begun + fetching.FIRST_SECONDS)
    assert fresh.judge(status, begun + fetching.FIRST_SECONDS) is Way.SWARM
    late = begun + 100
    assert fresh.judge(status, late) is Way.HELPED
    fresh.take(5, peer, late + 1)
    assert fresh.judge(status, late + 1) is Way.HELPED  # one block is no flow
    for step in range(1, 8):
        fresh.take(5, peer, late + 1 + step * 0.5)
        way = fresh.judge(status, late + 1 + step * 0.5)
    assert way is Way.SWARM
    slow = fetch()
    assert slow.judge(status, begun + 100) is Way.HELPED
    nothing = fetch()
    assert nothing.judge(alone, begun + 100) is Way.DIRECT
    nothing.take(9, peer, begun + 101)
    assert nothing.judge(status, begun + 101) is Way.DIRECT
    gone = fetch()
    assert gone.judge(None, begun) is Way.DIRECT


def test_a_stalled_swarm_is_helped_and_nothing_is_fetched_twice(rig: Rig):
    """The only peer gives a third and then nothing. The server sends the rest, and no more."""
    found = rig.largest()
    node = rig.node("node")
    third = found.pieces // 3
    given: set[int] = set()

    def tired(piece: int, data: bytes) -> bytes | None:
        if len(given) < third or piece in given:
            given.add(piece)
            return data
        return None

    with rig.server(seeds=False) as url, Peer(found, rig.data(found), tired) as peer:
        peer.announce(f"{url}/announce")
        report = node.pull(url)
        assert_same(rig.tree, node.directory)
        assert any("the server helps" in remark for remark in node.remarks)
        rest = found.size - report.swarm.from_peers
        assert report.swarm.from_peers > 0
        assert rest * 0.9 <= report.received <= rest + third * found.piece * 0.5 + 200_000


def test_a_server_that_is_gone_is_no_help_and_the_swarm_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    """The only peer gives half, pauses until the server is dead and its help has failed, and goes
    on. With nobody left at all, it is an error in the end."""
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(helping, "GONE_SECONDS", 8.0)
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node")
    given: set[int] = set()
    may_go_on = threading.Event()

    def pausing(piece: int, data: bytes) -> bytes:
        given.add(piece)
        if len(given) > found.pieces // 2:
            may_go_on.wait(60)
        return data

    with Peer(found, rig.data(found), pausing) as peer:
        with rig.server(seeds=False) as url:
            peer.announce(f"{url}/announce")
            server, reader = node.reads(url)
            reader.foresee(whole(found))
            reader.get(name, 0, 1)
        with closing(server), closing(reader):
            threading.Timer(5.0, may_go_on.set).start()
            assert reader.get(name, 0, found.size) == rig.data(found)
            assert any("the server helps" in remark for remark in node.remarks)

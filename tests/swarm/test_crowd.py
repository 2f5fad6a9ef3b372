"""The tracker's state: who is told of whom, ranks, bounds, and forgetting."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.swarm.announce import Announce, Peer
from chunkstore.swarm.crowd import Crowd, CrowdLimits, Full

ONE = b"\x01" * 20
TWO = b"\x02" * 20


def host(number: int) -> bytes:
    return bytes([10, 0, number // 256, number % 256])


def says(
    number: int, *, left: int = 1, event: str = "", swarm: bytes = ONE, uploaded: int = 0, **more
) -> Announce:
    return Announce(swarm, b"p%019d" % number, 6881, left, uploaded, 0, event, **more)


def join(crowd: Crowd, number: int, now: float = 0.0, **said):
    return crowd.announce(says(number, **said), host(number), now)


def test_each_hears_of_the_others_and_never_of_itself():
    crowd = Crowd()
    assert join(crowd, 1).peers == ()
    assert join(crowd, 2).peers == (Peer(host(1), 6881),)
    assert set(join(crowd, 3).peers) == {Peer(host(1), 6881), Peer(host(2), 6881)}
    assert join(crowd, 1, swarm=TWO).peers == ()


def test_a_peer_is_where_it_spoke_from_and_once_however_often_it_speaks():
    crowd = Crowd()
    for peer_id in range(5):
        crowd.announce(says(peer_id), host(1), 0.0)
    assert crowd.peers == 1
    assert join(crowd, 9).peers == (Peer(host(1), 6881),)


def test_ranks_are_the_order_of_coming_among_those_who_fetch():
    crowd = Crowd()
    assert [join(crowd, number).rank for number in range(4)] == [0, 1, 2, 3]
    reply = join(crowd, 2)
    assert (reply.rank, reply.leechers, reply.seeds) == (2, 4, 0)
    assert join(crowd, 1, left=0, event="completed").rank is None
    reply = join(crowd, 2)
    assert (reply.rank, reply.leechers, reply.seeds) == (1, 3, 1)
    join(crowd, 0, event="stopped")
    assert join(crowd, 2).rank == 0


def test_seeds_hear_of_no_seeds():
    crowd = Crowd()
    join(crowd, 1, left=0)
    assert join(crowd, 2, left=0).peers == ()
    assert join(crowd, 3).peers != ()
    assert join(crowd, 2, left=0).peers == (Peer(host(3), 6881),)


def test_who_leaves_is_not_told_of_again():
    crowd = Crowd()
    join(crowd, 1)
    assert join(crowd, 1, event="stopped").peers == ()
    assert join(crowd, 2).peers == ()
    assert crowd.peers == 1


def test_nobody_can_make_another_leave():
    crowd = Crowd()
    join(crowd, 1)
    crowd.announce(says(1, event="stopped"), host(66), 0.0)
    assert join(crowd, 2).peers == (Peer(host(1), 6881),)


def test_who_falls_silent_expires():
    limits = CrowdLimits(silence=50)
    crowd = Crowd(limits)
    join(crowd, 1, now=0)
    join(crowd, 2, now=40)
    assert len(join(crowd, 3, now=49).peers) == 2
    assert join(crowd, 3, now=60).peers == (Peer(host(2), 6881),)
    assert crowd.busy(60) == [ONE]
    assert crowd.busy(1000) == []
    assert crowd.peers == 0


def test_not_more_peers_are_told_than_asked_for():
    crowd = Crowd(chance=random.Random(1))
    for number in range(300):
        join(crowd, number)
    assert len(join(crowd, 0).peers) == 40
    assert len(join(crowd, 0, wanted=7).peers) == 7
    assert len(join(crowd, 0, wanted=0).peers) == 0
    assert len(join(crowd, 0, wanted=10**6).peers) == 100
    told = {peer for _ in range(60) for peer in join(crowd, 0).peers}
    assert len(told) > 250


def test_memory_is_bounded():
    crowd = Crowd(CrowdLimits(peers=30, of_swarm=10, of_host=4))
    for number in range(10):
        join(crowd, number)
    with pytest.raises(Full):
        join(crowd, 10)
    assert join(crowd, 3).leechers == 10  # who is in stays in
    for port in range(1, 5):
        crowd.announce(says(1, swarm=TWO)._replace(port=port), host(77), 0.0)
    with pytest.raises(Full):
        crowd.announce(says(1, swarm=TWO)._replace(port=5), host(77), 0.0)
    for number in range(100, 106):
        join(crowd, number, swarm=TWO)
    for number in range(200, 210):
        join(crowd, number, swarm=b"\x03" * 20)
    assert crowd.peers == 30
    with pytest.raises(Full):
        join(crowd, 300, swarm=b"\x04" * 20)
    assert crowd.busy(0.0) == [ONE, TWO, b"\x03" * 20]


def test_figures_of_a_swarm():
    crowd = Crowd()
    assert crowd.census(ONE, 0) == (0, 0, 0, 0.0)
    join(crowd, 1, now=0, event="started")
    join(crowd, 2, now=0, event="started")
    join(crowd, 1, now=10, uploaded=5_000)
    join(crowd, 2, now=10, uploaded=1_000, left=0, event="completed")
    join(crowd, 2, now=20, uploaded=3_000, left=0)
    assert crowd.census(ONE, 20) == (1, 1, 1, 700.0)
    assert not crowd.is_one_of_many(ONE, host(1))
    join(crowd, 3, now=20)
    assert crowd.is_one_of_many(ONE, host(1))
    assert crowd.is_one_of_many(ONE, host(3))
    assert not crowd.is_one_of_many(ONE, host(2))
    assert not crowd.is_one_of_many(TWO, host(1))


STEPS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["", "started", "completed", "stopped"]),
        st.integers(0, 2),
        st.sampled_from([ONE, TWO]),
        st.floats(0, 40),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_is_said_the_books_are_right(steps):
    limits = CrowdLimits(peers=12, of_swarm=8, of_host=5, silence=50)
    crowd = Crowd(limits)
    model: dict[bytes, dict[int, tuple[float, int]]] = {ONE: {}, TWO: {}}
    now = 0.0
    for number, event, left, swarm, pause in steps:
        now += pause
        try:
            reply = join(crowd, number, now, event=event, left=left, swarm=swarm)
        except Full:
            assert number not in {n for n, (seen, _) in model[swarm].items() if now - seen < 50}
            continue
        model[swarm].pop(number, None) if event == "stopped" else model[swarm].update(
            {number: (now, left)}
        )
        # Some time may pass before who is silent is swept, but who spoke lately is there.
        lately = {n for n, (seen, _) in model[swarm].items() if now - seen <= 50}
        assert reply.seeds + reply.leechers >= len(lately)
        assert Peer(host(number), 6881) not in reply.peers
        assert crowd.peers <= 12
        if event != "stopped" and left:
            assert reply.rank is not None
            assert 0 <= reply.rank < reply.leechers
    assert crowd.busy(now + 1000) == []
    assert crowd.peers == 0

"""What clients and trackers say: ours, theirs, and nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt
from chunkstore.objects import bencode
from chunkstore.swarm.announce import (
    Announce,
    Peer,
    Reply,
    failure,
    parse_announce,
    parse_reply,
    parse_scrape,
)

PEERS = st.builds(
    Peer,
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    st.integers(1, 65535),
)
ANNOUNCES = st.builds(
    Announce,
    st.binary(min_size=20, max_size=20),
    st.binary(min_size=20, max_size=20),
    st.integers(1, 65535),
    *[st.integers(0, 2**63 - 1)] * 3,
    st.sampled_from(["", "started", "completed", "stopped"]),
    st.none() | st.integers(0, 1000),
)


@given(ANNOUNCES)
def test_what_we_say_we_understand(said):
    assert parse_announce(said.query) == said


@given(
    st.lists(PEERS, max_size=9),
    st.integers(1, 2**31),
    st.integers(0, 9),
    st.integers(0, 9),
    st.none() | st.integers(0, 99),
    st.none() | PEERS,
)
def test_what_we_answer_we_understand(peers, interval, seeds, leechers, rank, first):
    reply = Reply(interval, tuple(peers), seeds, leechers, rank, first)
    found = parse_reply(reply.encode(), "tracker")
    assert found._replace(peers=()) == reply._replace(peers=())
    assert set(found.peers) == set(peers)


def test_as_transmission_says_it():
    query = (
        "info_hash=%124Vx%9a%bc%de%f1%23Eg%89%ab%cd%ef%124Vx%9a&peer_id=-TR3000-abcdefghijkl"
        "&port=51413&uploaded=0&downloaded=0&left=66541&numwant=80&key=1b2c3d&compact=1"
        "&supportcrypto=1&event=started&ip=10.9.9.9"
    )
    said = parse_announce(query)
    assert said.info_hash == bytes.fromhex("123456789abcdef123456789abcdef123456789a")
    assert said.peer_id == b"-TR3000-abcdefghijkl"
    assert (said.port, said.left, said.event, said.wanted) == (51413, 66541, "started", 80)


GOOD = Announce(bytes(20), b"x" * 20, 1, 0).query


@pytest.mark.parametrize(
    "query",
    [
        "",
        "info_hash=abc",
        GOOD.replace("port=1", "port=0"),
        GOOD.replace("port=1", "port=65536"),
        GOOD.replace("port=1", "port=-1"),
        GOOD.replace("port=1", "port=x"),
        GOOD.replace("left=0", "left=-1"),
        GOOD.replace("left=0", "left=" + "9" * 40),
        GOOD.replace("left=0", "left=9223372036854775808"),
        GOOD.replace("&left=0", ""),
        GOOD.replace("peer_id=", "peer_id=y"),
        GOOD + "&numwant=-2",
    ],
)
def test_what_is_no_announce_is_refused(query):
    with pytest.raises(Corrupt, match="announce"):
        parse_announce(query)


def test_events_nobody_knows_are_none():
    assert parse_announce(GOOD + "&event=paused&numwant=-1") == parse_announce(GOOD)


def test_scrape():
    one, two = bytes(range(20)), b"\xff" * 20
    query = "&".join(f"info_hash={''.join(f'%{b:02x}' for b in item)}" for item in (one, two))
    assert parse_scrape(query) == [one, two]
    for bad in ("", "info_hash=abc", "&".join([query] * 40)):
        with pytest.raises(Corrupt):
            parse_scrape(bad)


def test_a_refusal_shows_nothing_that_could_steer_a_terminal():
    with pytest.raises(Corrupt, match=r"refuses: no \?\[31m way") as caught:
        parse_reply(failure("no \x1b[31m way"), "http://tracker/announce")
    assert "http://tracker/announce" in str(caught.value)


def test_peers_as_dictionaries_and_strange_ones():
    data = bencode.encode(
        {
            b"interval": 0,
            b"peers": [
                {b"ip": b"10.0.0.1", b"port": 5, b"peer id": b"x"},
                {b"ip": b"fd00::1", b"port": 6},
                {b"ip": b"example.org", b"port": 7},
                {b"ip": b"10.0.0.2", b"port": 0},
                {b"port": 5},
                5,
            ],
            b"rank": -1,
        }
    )
    reply = parse_reply(data, "t")
    assert [str(peer) for peer in reply.peers] == ["10.0.0.1:5", "[fd00::1]:6"]
    assert (reply.interval, reply.rank) == (1, None)


@given(st.binary(max_size=80))
def test_nonsense_ends_in_a_declared_error(data):
    for text in (data, b"d8:intervali1e5:peers" + b"%d:" % len(data) + data + b"e"):
        try:
            parse_reply(text, "t")
        except Corrupt as error:
            assert "\n" not in str(error)

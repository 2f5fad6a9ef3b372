"""Peers and torrents that lie: it costs time, and never a wrong byte."""

from __future__ import annotations

import random

import pytest
from support import stores
from support.crowd import Rig
from support.peers import Peer, corrupt
from support.trees import assert_same

from chunkstore.objects import torrent as torrents
from chunkstore.storage import layout


@pytest.mark.usefixtures("patient")
def test_a_peer_that_sends_rubbish_is_banned_and_named(rig: Rig):
    found = rig.largest()
    node = rig.node("node")
    with rig.server(limit=8_000_000) as url, Peer(found, rig.data(found), corrupt) as bad:
        bad.announce(f"{url}/announce")
        report = node.pull(url)
        assert_same(rig.tree, node.directory)
        assert bad.sent > 0
        assert report.swarm.banned == (f"127.0.0.1:{bad.port}",)
        assert any(f"127.0.0.1:{bad.port}: sent bad data" in remark for remark in node.remarks)


def evil(rig: Rig, found: torrents.Torrent) -> tuple[bytes, torrents.Torrent]:
    """Other bytes of the same length, and the torrent that goes with them under the pack's name."""
    data = bytearray(rig.data(found))
    for place in range(1_000, len(data), 50_000):
        data[place] ^= 1
    return bytes(data), torrents.make(found.pack, len(data), [bytes(data)])


@pytest.mark.usefixtures("patient")
def test_a_torrent_of_other_bytes_costs_time_and_never_a_wrong_byte(rig: Rig):
    """Torrent, tracker and seed agree on wrong bytes: only the chunks' own digests know better."""
    found = rig.largest()
    data, wrong = evil(rig, found)
    (rig.root / layout.torrent(found.pack)).write_bytes(wrong.encode())
    node = rig.node("node")
    with rig.server(seeds=False) as url, Peer(wrong, data) as peer:
        peer.announce(f"{url}/announce")
        report = node.pull(url)
        assert peer.sent > found.size // 2
    assert_same(rig.tree, node.directory)
    assert any("its torrent is of something else" in remark for remark in node.remarks)
    assert report.received >= found.size


@pytest.mark.usefixtures("impatient")
def test_what_the_server_helps_with_is_held_against_the_torrent(rig: Rig):
    """The torrent is of other bytes, and its seed tires: help does not fit it, and ends that."""
    found = rig.largest()
    data, wrong = evil(rig, found)
    (rig.root / layout.torrent(found.pack)).write_bytes(wrong.encode())
    given: set[int] = set()

    def tired(piece: int, block: bytes) -> bytes | None:
        given.add(piece)
        return block if len(given) < 10 else None

    node = rig.node("node")
    with rig.server(seeds=False) as url, Peer(wrong, data, tired) as peer:
        peer.announce(f"{url}/announce")
        node.pull(url)
    assert_same(rig.tree, node.directory)
    assert any("the server helps" in remark for remark in node.remarks)


@pytest.mark.usefixtures("patient")
def test_an_update_by_a_torrent_of_other_bytes(rig: Rig):
    """The same where chunks go to the stage first."""
    node = rig.node("node")
    with rig.server() as url:
        node.pull(url)
        before = {torrent.pack for torrent in rig.torrents()}
        chance = random.Random(8)
        for number in range(40):
            (rig.tree / f"d{number % 7}" / f"f{number}").write_bytes(chance.randbytes(180_000))
        stores.settle()
        stores.record(rig.store, rig.tree)
    (found,) = [torrent for torrent in rig.torrents() if torrent.pack not in before]
    data, wrong = evil(rig, found)
    (rig.root / layout.torrent(found.pack)).write_bytes(wrong.encode())
    with rig.server(seeds=False) as url, Peer(wrong, data) as peer:
        peer.announce(f"{url}/announce")
        node.pull(url)
        assert peer.sent > 0
    assert_same(rig.tree, node.directory)
    assert any("its torrent is of something else" in remark for remark in node.remarks)

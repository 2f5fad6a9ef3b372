"""Nodes that take packs from a swarm: which, how much of them, and what is there from before."""

from __future__ import annotations

import random
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support import stores
from support.crowd import LOOPBACK, Rig, cached, together, whole
from support.peers import Peer
from support.trees import assert_same

from chunkstore.objects import torrent as torrents
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.swarm import choice, giving
from chunkstore.swarm.cache import Cache

pytestmark = pytest.mark.usefixtures("patient")


def test_a_crowd_installs_and_updates_from_each_other(rig: Rig):
    """Four nodes, and a seed with a line so narrow that the nodes have to help each other."""
    with rig.server(limit=8_000_000) as url:
        nodes = [rig.node(f"n{number}") for number in range(4)]
        reports = together([lambda node=node: node.pull(url) for node in nodes])
        size = rig.largest().size
        for node, report in zip(nodes, reports, strict=True):
            assert_same(rig.tree, node.directory)
            assert report.swarm.packs == 1
            # All but the manifest, which came before.
            swarmed = report.swarm.from_peers + report.swarm.from_seed
            assert swarmed >= 0.95 * size, node.remarks
            assert report.received < 0.05 * size, node.remarks
            # Told about once a second, so perhaps not of the last.
            told = [sum(counts) for counts in zip(*node.came, strict=True)]
            assert 0 < told[0] <= report.swarm.from_peers
            assert 0 < told[1] <= report.swarm.from_seed
            assert cached(node.directory) == []
        assert sum(report.swarm.from_seed for report in reports) < 3 * size
        assert sum(report.swarm.given for report in reports) > size
        chance = random.Random(7)
        for number in range(0, 60, 2):
            (rig.tree / f"d{number % 7}" / f"f{number}").write_bytes(chance.randbytes(180_000))
        stores.settle()
        stores.record(rig.store, rig.tree)
        reports = together([lambda node=node: node.pull(url) for node in nodes])
        for node, report in zip(nodes, reports, strict=True):
            assert_same(rig.tree, node.directory)
            assert report.swarm.packs == 1
            assert report.received < 0.05 * size, node.remarks


def test_torrents_that_are_missing_are_made(rig: Rig):
    node = rig.node("node")
    with rig.server() as url:
        for path in rig.root.glob("packs/*.torrent"):
            path.unlink()
        report = node.pull(url)
        assert report.swarm.packs == 1
        assert report.swarm.from_seed > 5_500_000
    assert_same(rig.tree, node.directory)


def test_a_store_that_nobody_tracks_is_read_over_http(rig: Rig):
    """Any web server: what it has are files. With a tracker of others, there is a swarm."""
    found = rig.largest()
    node = rig.node("node")
    with closing(Store(str(rig.root))):
        report = node.pull(str(rig.root))
    assert_same(rig.tree, node.directory)
    assert report.swarm.packs == 0
    with rig.server() as url:
        server, reader = rig.node("other", trackers=(f"{url}/announce",)).reads(str(rig.root))
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            assert reader.get(layout.pack(found.pack), 0, found.size) == rig.data(found)
            assert reader.figures.from_seed + reader.figures.from_peers > 0


def test_delta_packs_travel_by_swarm_too(rig: Rig):
    node = rig.node("node")
    with rig.server() as url:
        node.pull(url)
        for path in rig.tree.rglob("f*"):
            data = bytearray(path.read_bytes())
            for place in range(0, len(data), 10_000):
                data[place] ^= 1
            path.write_bytes(data)
        stores.settle()
        stores.record(rig.store, rig.tree)
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.delta_chunks > 0
    assert report.swarm.packs > 0
    assert report.swarm.from_seed > 0


def test_few_bytes_and_scattered_ones_are_read_over_http(rig: Rig):
    found = rig.largest()
    node = rig.node("node", transport="auto")
    name = layout.pack(found.pack)
    scattered = [(start, start + 45_000) for start in range(0, found.size - 65_536, 60_000)]
    assert sum(stop - start for start, stop in scattered) > choice.LEAST_BYTES
    with rig.server() as url, Peer(found, rig.data(found)) as peer:
        peer.announce(f"{url}/announce")
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            for few in ([(1000, 500_000)], scattered):
                reader.foresee({name: few})
                start, stop = few[0]
                assert reader.get(name, start, stop) == rig.data(found)[start:stop]
                assert reader.cache is None
            came = server.traffic.received
            reader.foresee(whole(found))
            assert reader.get(name, 0, found.size) == rig.data(found)
            assert reader.figures.packs == 1
            assert server.traffic.received < came + 100_000


def test_only_the_pieces_that_cover_what_is_wanted_come(rig: Rig):
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node")
    spans = [(100_000, 300_000), (4_000_000, 4_000_100), (found.size - 10, found.size)]
    with rig.server() as url:
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            reader.foresee({name: spans})
            for start, stop in spans:
                assert reader.get(name, start, stop) == rig.data(found)[start:stop]
            assert reader.figures.from_seed <= 8 * found.piece
            # What nobody foresaw is not waited for.
            assert reader.get(name, 5_000_000, 5_100_000) == rig.data(found)[5_000_000:5_100_000]
            assert 100_000 <= server.traffic.received < 300_000


def test_what_came_is_not_fetched_again_after_an_interruption(rig: Rig):
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node")
    half = found.size // 2
    with rig.server() as url:
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            reader.foresee({name: [(0, half)]})
            reader.get(name, 0, half)
    with rig.server(seeds=False) as url:
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            assert reader.get(name, 0, found.size) == rig.data(found)
            assert found.size - half - found.piece <= server.traffic.received
            assert server.traffic.received <= found.size - half + 100_000, node.remarks


def test_a_damaged_cache_is_found_out(rig: Rig):
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node")
    with rig.server() as url:
        for damage in (b"", b"rubbish" * 100_000, rig.data(found)[: found.size // 2]):
            cache = node.directory / "cache"
            cache.mkdir(parents=True, exist_ok=True)
            cache.chmod(0o700)
            (cache / found.name).write_bytes(damage)
            server, reader = node.reads(url)
            with closing(server), closing(reader):
                reader.foresee(whole(found))
                assert reader.get(name, 0, found.size) == rig.data(found)
                assert server.traffic.received < 100_000


def test_a_server_that_dies_when_the_crowd_has_all_of_it_is_not_missed(rig: Rig):
    """One node is whole. The others get everything from it, though tracker and seed are gone."""
    found = rig.largest()
    name = layout.pack(found.pack)
    first, second = rig.node("first"), rig.node("second")
    with rig.server() as url:
        server, whole_one = first.reads(url)
        whole_one.foresee(whole(found))
        whole_one.get(name, 0, found.size)
    # Another server at another port is the tracker only; it seeds nothing and refuses packs.
    with rig.server(seeds=False) as url:
        pack = rig.root / "packs" / found.name
        whole_one.close()
        server.close()
        cache = first.directory / "cache"
        stopping = threading.Event()
        torrent = next(iter(closing_packs(cache)))._replace(trackers=(f"{url}/announce",))
        with closing(Cache(str(cache))) as opened:
            opened.keep(torrent)
        data = rig.data(found)
        ready = threading.Event()
        thread = threading.Thread(
            target=lambda: giving.give(
                *(str(cache), LOOPBACK, giving.Terms()),
                stopping=stopping,
                on_ready=lambda *_: ready.set(),
            )
        )
        thread.start()
        try:
            assert ready.wait(20)
            server, reader = second.reads(url)
            with closing(server), closing(reader):
                reader.foresee(whole(found))
                pack.unlink()
                assert reader.get(name, 0, found.size) == data
        finally:
            stopping.set()
            thread.join()


def closing_packs(cache: Path) -> list[torrents.Torrent]:
    with closing(Cache(str(cache))) as opened:
        return list(opened.packs())

"""Nodes that take packs from each other, and what they do when that goes wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from support import stores
from support.crowd import LOOPBACK, Rig, together
from support.peers import Peer, corrupt
from support.trees import assert_same

from chunkstore.errors import Conflict, NotFound, TransferError
from chunkstore.objects import torrent as torrents
from chunkstore.storage import layout
from chunkstore.storage.backends import http
from chunkstore.storage.store import Store
from chunkstore.swarm import choice, giving
from chunkstore.swarm import fetch as fetching
from chunkstore.swarm import help as helping
from chunkstore.swarm.cache import Cache
from chunkstore.swarm.fetch import Way
from chunkstore.swarm.settings import parse_network

NOWHERE = ("http://127.0.0.1:9/announce",)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions, sooner."""
    for name in ("NOBODY_SECONDS", "FIRST_SECONDS", "STALL_SECONDS", "CHANCE_SECONDS"):
        monkeypatch.setattr(fetching, name, getattr(fetching, name) / 3)


def whole(found: torrents.Torrent) -> dict[str, list[tuple[int, int]]]:
    return {layout.pack(found.pack): [(0, found.size)]}


def cached(node: Path) -> list[str]:
    return [name for name in os.listdir(node / ".imgstore/swarm") if name != "lock"]


# The crowd


def test_a_crowd_installs_and_updates_from_each_other(rig: Rig):
    """Four nodes, and a seed with a line so narrow that the nodes have to help each other."""
    with rig.server(limit=4_000_000) as url:
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


# Trouble


def test_a_dead_tracker_is_no_trouble(rig: Rig):
    node = rig.node("node", trackers=NOWHERE)
    with rig.server() as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.from_peers == report.swarm.from_seed == 0
    assert any("127.0.0.1:9" in remark for remark in node.remarks)


def test_nobody_there_is_no_trouble(rig: Rig):
    node = rig.node("node")
    with rig.server(seeds=False) as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert any("nobody has it" in remark for remark in node.remarks)
    size = rig.largest().size
    assert size <= report.received < size + 200_000


def test_peers_of_other_networks_do_not_count(rig: Rig):
    session = LOOPBACK.__class__(**{**vars(LOOPBACK), "networks": (parse_network("10.0.0.0/8"),)})
    node = rig.node("node", session=session)
    with rig.server() as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.from_peers == report.swarm.from_seed == 0


def test_a_peer_that_sends_rubbish_is_banned_and_named(rig: Rig):
    found = rig.largest()
    node = rig.node("node")
    with rig.server(limit=4_000_000) as url, Peer(found, rig.data(found), corrupt) as bad:
        bad.announce(f"{url}/announce")
        report = node.pull(url)
        assert_same(rig.tree, node.directory)
        assert bad.sent > 0
        assert report.swarm.banned == (f"127.0.0.1:{bad.port}",)
        assert any(f"127.0.0.1:{bad.port}: sent bad data" in remark for remark in node.remarks)


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


def evil(rig: Rig, found: torrents.Torrent) -> tuple[bytes, torrents.Torrent]:
    """Other bytes of the same length, and the torrent that goes with them under the pack's name."""
    data = bytearray(rig.data(found))
    for place in range(1_000, len(data), 50_000):
        data[place] ^= 1
    return bytes(data), torrents.make(found.pack, len(data), [bytes(data)])


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


def test_a_cache_that_is_full_or_no_directory_is_no_trouble(rig: Rig, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "open").mkdir()
    os.mkdir(tmp_path / "open/imgstore-swarm")
    os.chmod(tmp_path / "open/imgstore-swarm", 0o777)
    with rig.server() as url:
        for number, settings in enumerate(
            [
                {"cache_size": 1_000_000},
                {"staging": str(tmp_path / "file")},
                {"staging": str(tmp_path / "open")},
            ]
        ):
            node = rig.node(f"n{number}", **settings)
            report = node.pull(url)
            assert_same(rig.tree, node.directory)
            assert report.swarm.packs == 0
            assert node.remarks


def test_a_port_that_is_taken_is_no_trouble(rig: Rig):
    session = LOOPBACK.__class__(**{**vars(LOOPBACK), "ports": (21_000, 21_000)})
    with rig.server() as url, closing(__import__("socket").create_server(("127.0.0.1", 21_000))):
        node = rig.node("node", session=session)
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.packs == 0
    assert any("no port from 21000" in remark for remark in node.remarks)


def test_no_server_and_no_swarm_is_an_error_at_last(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)
    found = rig.largest()
    node = rig.node("node")
    with rig.server(seeds=False) as url:
        server, reader = node.reads(url)
        reader.foresee(whole(found))
    with closing(server), closing(reader), pytest.raises(TransferError):
        reader.get(layout.pack(found.pack), 0, 1000)


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


def test_who_waits_can_be_let_go(rig: Rig):
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node")
    with rig.server(seeds=False) as url, Peer(found, b"", lambda *_: None) as peer:
        peer.announce(f"{url}/announce")
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            ended: list[BaseException] = []

            def wait() -> None:
                try:
                    reader.get(name, 0, found.size)
                except TransferError as error:
                    ended.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            reader.abandon()
            thread.join(20)
            assert not thread.is_alive()


# Giving


def test_a_node_goes_on_giving_until_it_is_told(rig: Rig):
    with rig.server(limit=4_000_000) as url:
        paths: list[str] = []
        stopping = threading.Event()
        ready = threading.Event()
        results: list[giving.Given] = []
        threads: list[threading.Thread] = []

        def give(path: str, _is_wanted: bool) -> None:
            def run() -> None:
                results.append(
                    giving.give(
                        *(path, LOOPBACK, giving.Terms()),
                        stopping=stopping,
                        on_ready=lambda *_: ready.set(),
                    )
                )

            paths.append(path)
            threads.append(threading.Thread(target=run))
            threads[0].start()
            assert ready.wait(20)

        first = rig.node("first", give=give)
        first.pull(url)
        try:
            assert paths == [str(first.directory / ".imgstore/swarm")]
            report = rig.node("second").pull(url)
            assert report.swarm.from_peers > 0
        finally:
            stopping.set()
            threads[0].join()
        assert results[0].sent > 0
        assert results[0].reason == "stopped"
        assert cached(first.directory)


def test_giving_ends_by_its_terms(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(giving, "SERVED_SECONDS", 1.0)
    with rig.server(limit=4_000_000) as url:
        node = rig.node("node", give=lambda *_: None)
        node.pull(url)
        path = str(node.directory / ".imgstore/swarm")

        def give(**terms: Any) -> giving.Given:
            return giving.give(path, LOOPBACK, giving.Terms(**terms), stopping=threading.Event())

        taker = rig.node("taker")
        given, _ = together([lambda: give(ratio=0.0001, seconds=60), lambda: taker.pull(url)])
        assert given.reason == "it had given enough"
        assert give(seconds=0.2).reason == "its time was over"
        assert cached(node.directory)
        given = give(served=True, discard=True)
        assert (given.packs, given.reason) == (1, "nobody wanted any more")
        assert not cached(node.directory)


def test_one_gives_at_a_time_and_the_next_can_make_it_end(rig: Rig):
    with rig.server() as url:
        node = rig.node("node", give=lambda *_: None)
        node.pull(url)
        path = str(node.directory / ".imgstore/swarm")
        assert not giving.stop(path)
        code = (
            "import sys, threading, signal\n"
            "from chunkstore.swarm import giving, settings\n"
            "stopping = threading.Event()\n"
            "signal.signal(signal.SIGTERM, lambda *_: stopping.set())\n"
            "session = settings.SessionSettings(('127.0.0.1',), (20000, 29999))\n"
            "giving.give(sys.argv[1], session, giving.Terms(), stopping=stopping,\n"
            "    on_ready=lambda *_: print('ready', flush=True))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdout=subprocess.PIPE, cwd=stores.PROJECT
        ) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == b"ready\n"
                with pytest.raises(Conflict):
                    giving.give(path, LOOPBACK, giving.Terms(), stopping=threading.Event())
                with pytest.raises(Conflict):
                    Cache(path)
                # A pull takes over from it.
                (rig.tree / "more").write_bytes(random.Random(5).randbytes(8_000_000))
                stores.settle()
                stores.record(rig.store, rig.tree)
                node.pull(url)
                assert other.wait(20) == 0
                assert_same(rig.tree, node.directory)
            finally:
                with suppress(OSError):
                    other.kill()


def test_there_has_to_be_something_to_give(tmp_path: Path):
    with pytest.raises(NotFound):
        giving.give(str(tmp_path / "no"), LOOPBACK, giving.Terms(), stopping=threading.Event())


# Patience


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

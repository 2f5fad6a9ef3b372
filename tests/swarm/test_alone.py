"""A node that is alone, and how it stops being so."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.crowd import LOOPBACK, Rig, together
from support.peers import Peer
from support.trees import assert_same

from chunkstore.errors import LocalError, TransferError
from chunkstore.objects import torrent as torrents
from chunkstore.storage import layout
from chunkstore.swarm import alone, part
from chunkstore.swarm.announce import Peer as Known
from chunkstore.swarm.announce import Reply
from chunkstore.swarm.choice import Wish
from chunkstore.swarm.fetch import Fetch, Way
from chunkstore.swarm.ports import hold
from chunkstore.swarm.session import Session
from chunkstore.swarm.settings import SessionSettings

SOON = 30.0


def whole(found: torrents.Torrent) -> dict[str, list[tuple[int, int]]]:
    return {layout.pack(found.pack): [(0, found.size)]}


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def no_session(_settings: SessionSettings) -> Session:
    raise AssertionError("libtorrent was loaded for one node")


def way_of(reader: object, name: str) -> Way:
    return reader._fetches[name].way  # type: ignore[attr-defined,no-any-return]


# From end to end


@pytest.mark.parametrize("seeds", [True, False], ids=["with the server's seed", "without"])
def test_a_lone_node_takes_everything_over_http(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seeds: bool
):
    monkeypatch.setattr(part, "Session", no_session)
    size = rig.largest().size
    given: list[str] = []
    node = rig.node("node", transport="auto", give=lambda path, _: given.append(path))
    with rig.server(seeds=seeds) as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm == (0, 0, 0, 0, ())
    assert size <= report.received < size + 200_000
    assert given == []
    assert node.remarks == []
    assert os.listdir(node.directory / ".imgstore/swarm") == ["lock"]


def test_without_a_tracker_that_answers_nobody_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part, "Session", no_session)
    node = rig.node("node", transport="auto", trackers=("http://127.0.0.1:9/announce",))
    with rig.server() as url:
        node.pull(url)
    assert_same(rig.tree, node.directory)
    assert any("127.0.0.1:9" in remark for remark in node.remarks)


def test_nodes_that_begin_together_are_a_swarm(rig: Rig):
    """The first was alone for a moment. Nothing but the torrent comes over HTTP to anybody."""
    found = rig.largest()
    name = layout.pack(found.pack)
    with rig.server(limit=4_000_000) as url:
        nodes = [rig.node(f"n{number}", transport="auto").reads(url) for number in range(3)]
        for _, reader in nodes:
            reader.foresee(whole(found))
            wait_for(lambda reader=reader: way_of(reader, name) is not Way.ASKING)
        assert way_of(nodes[0][1], name) is Way.ALONE
        for _, reader in nodes:
            wait_for(lambda reader=reader: way_of(reader, name) is Way.SWARM)
        data = rig.data(found)
        for got in together([lambda r=r: r.get(name, 0, found.size) for _, r in nodes]):
            assert got == data
        for server, reader in nodes:
            assert server.traffic.received < 100_000
            assert reader.figures.packs == 1
            reader.close()
            server.close()


def test_what_one_had_alone_is_for_all_and_is_not_fetched_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    """Half of it came over HTTP before the second node. The seed's line is narrow."""
    monkeypatch.setattr(alone, "KEPT_RATE", 1 << 40)
    found = rig.largest()
    name, data = layout.pack(found.pack), rig.data(found)
    half = found.size // 2
    with rig.server(limit=1_000_000) as url:
        server, first = rig.node("first", transport="auto").reads(url)
        other, second = rig.node("second", transport="auto").reads(url)
        with closing(server), closing(first), closing(other), closing(second):
            first.foresee(whole(found))
            assert first.get(name, 0, half) == data[:half]
            assert server.traffic.received >= half
            second.foresee(whole(found))
            for reader in (first, second):
                wait_for(lambda reader=reader: way_of(reader, name) is Way.SWARM)
            got = together(
                [lambda: first.get(name, half, found.size), lambda: second.get(name, 0, found.size)]
            )
            assert got == [data[half:], data]
            came = first.figures.from_peers + first.figures.from_seed
            assert came <= found.size - half + found.piece
            assert server.traffic.received < half + 200_000
            assert first.figures.given > half / 4
            assert second.figures.from_peers > half / 4
            assert other.traffic.received < 100_000


def test_what_an_interrupted_pull_left_is_not_fetched_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    found = rig.largest()
    name, data = layout.pack(found.pack), rig.data(found)
    half = found.size // 2
    with rig.server() as url:
        server, reader = rig.node("node").reads(url)
        with closing(server), closing(reader):
            reader.foresee({name: [(0, half)]})
            reader.get(name, 0, half)
        path = rig.place / "node/cache" / found.name
        with path.open("r+b") as file:
            file.write(b"damage")
        monkeypatch.setattr(part, "Session", no_session)
        server, reader = rig.node("node", transport="auto").reads(url)
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            assert reader.get(name, 0, found.size) == data
            assert server.traffic.received <= found.size - half + 2 * found.piece + 100_000


def test_the_port_that_was_announced_is_the_one_in_use(rig: Rig):
    """Somebody who heard of a node when it was alone finds it there later."""
    found = rig.largest()
    name = layout.pack(found.pack)
    with rig.server(limit=2_000_000) as url:
        server, reader = rig.node("node", transport="auto").reads(url)
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            wait_for(lambda: way_of(reader, name) is Way.ALONE)
            port = reader._part.port
            with Peer(found, rig.data(found)) as peer:
                peer.announce(f"{url}/announce")
                wait_for(lambda: way_of(reader, name) is Way.SWARM)
            assert reader._part._session.port == port


def test_a_wrong_byte_of_the_server_is_not_the_torrents_fault(rig: Rig):
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node", transport="auto")
    with rig.server() as url:
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            reader.get(name, 0, 1000)
            assert not reader.doubt(name, 0, 1000)
    assert node.remarks == []


def test_who_is_done_is_missed_only_while_others_take(rig: Rig):
    """A pull that nobody misses does not wait until somebody goes on giving."""
    found = rig.largest()
    name = layout.pack(found.pack)
    slow = LOOPBACK._replace(limit_download=200_000)
    with rig.server() as url:
        server, reader = rig.node("node").reads(url)
        other, taker = rig.node("taker", session=slow).reads(url)
        with closing(server), closing(reader), closing(other), closing(taker):
            assert not reader.is_wanted
            reader.foresee(whole(found))
            reader.get(name, 0, found.size)
            assert not reader.is_wanted
            taker.foresee(whole(found))
            wait_for(lambda: reader.is_wanted)
            taker.close()
            wait_for(lambda: not reader.is_wanted)


# One fetch, at made-up times


class Slow:
    """A server that answers when it is told to."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked: list[tuple[int, int]] = []
        self.may_answer = threading.Semaphore(0)

    def get(self, _name: str, start: int, stop: int) -> bytes:
        self.asked.append((start, stop))
        assert self.may_answer.acquire(timeout=SOON)
        return self._data[start:stop]

    def size(self, _name: str) -> int:
        return len(self._data)


@pytest.fixture
def directory(tmp_path: Path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


SIZE = 20 * torrents.LEAST_PIECE - 5
DATA = bytes(number % 251 for number in range(SIZE))
MADE = torrents.make(bytes(32), SIZE, [DATA])


def test_what_was_under_way_when_the_crowd_came(tmp_path: Path, directory: int):
    """The rest waits for the swarm; what the server was asked for is handed to it, not written."""
    server = Slow(DATA)
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory, Way.ALONE)
    late: dict[int, bytes] = {}
    fetch.late = late.__setitem__
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(fetch.read(5, SIZE, server)))
    thread.start()
    wait_for(lambda: len(server.asked) == 1)
    start, stop = server.asked[0]
    assert (start, stop) == (5, alone.SLICE)
    wanted = fetch.join()
    # Of piece 0 some bytes were not asked for: whoever has half of a piece can give nothing of it.
    assert wanted == [0, *range(alone.SLICE // MADE.piece, MADE.pieces)]
    server.may_answer.release()
    wait_for(lambda: late == {1: DATA[MADE.piece : 2 * MADE.piece]})
    assert not (tmp_path / MADE.name).exists()
    (tmp_path / MADE.name).write_bytes(DATA)
    for piece in wanted:
        fetch.note(piece)
    thread.join(SOON)
    assert got == [DATA[5:]]
    assert server.asked == [(5, alone.SLICE)]
    fetch.close()


def test_a_server_that_dies_while_the_crowd_comes(tmp_path: Path, directory: int):
    """What it was asked for comes from the others, as all the rest does."""
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory, Way.ALONE)
    (tmp_path / MADE.name).write_bytes(DATA)
    asked: list[int] = []

    class Dying(Slow):
        def get(self, name: str, start: int, stop: int) -> bytes:
            asked.append(start)
            if len(asked) == 1:
                fetch.join()
            raise TransferError("gone")

    def come() -> None:
        for piece in fetch.missing:
            fetch.note(piece)

    fetch.wants_more = come
    assert fetch.missing == list(range(MADE.pieces))
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(fetch.read(5, SIZE, Dying(DATA))))
    thread.start()
    thread.join(SOON)
    assert got == [DATA[5:]]
    assert asked == [5]
    fetch.give_up()
    with pytest.raises(TransferError):
        Fetch("pack", Wish(MADE, ()), directory, Way.ALONE).read(0, 9, Dying(DATA))
    fetch.close()


def test_two_reads_of_one_piece_from_a_server_that_dies(tmp_path: Path, directory: int):
    """Both wait for the others, the second too, after the first has asked for that piece."""
    middle = MADE.piece // 2
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory, Way.ALONE)
    (tmp_path / MADE.name).write_bytes(DATA)
    both = threading.Barrier(2, timeout=SOON)

    class Dying(Slow):
        def get(self, name: str, start: int, stop: int) -> bytes:
            if both.wait() == 0:
                fetch.join()
            both.wait()
            raise TransferError("gone")

    server = Dying(DATA)
    spans = [(0, middle), (middle, MADE.piece)]
    got: dict[int, bytes] = {}

    def read(start: int, stop: int) -> None:
        got[start] = fetch.read(start, stop, server)

    threads = [threading.Thread(target=read, args=span) for span in spans]
    for thread in threads:
        thread.start()
    wait_for(lambda: 0 in fetch.wanted and fetch.has_joined)
    time.sleep(0.1)
    fetch.note(0)
    for thread in threads:
        thread.join(SOON)
    assert got == {start: DATA[start:stop] for start, stop in spans}
    fetch.close()


def test_what_is_in_a_file_that_was_cut_does_not_turn_back_for_ever(directory: int):
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory)
    for piece in range(MADE.pieces):
        fetch.note(piece)

    class Gone(Slow):
        def get(self, _name: str, _start: int, _stop: int) -> bytes:
            raise TransferError("gone")

    with pytest.raises(TransferError):
        fetch.read(0, 9, Gone(DATA))
    fetch.close()


def test_bytes_that_do_not_fit_the_torrent_are_not_handed_on(directory: int):
    wrong = bytes(SIZE)
    server = Slow(wrong)
    server.may_answer.release(10)
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory, Way.ALONE)
    fetch.late = lambda *_: pytest.fail("bad bytes were given")
    get = server.get

    def joined(name: str, start: int, stop: int) -> bytes:
        fetch.join()
        fetch.give_up()
        return get(name, start, stop)

    server.get = joined  # type: ignore[method-assign]
    assert fetch.read(0, SIZE, server) == wrong
    fetch.close()


def test_slices_are_as_long_as_the_line_is_quick(directory: int):
    lone = alone.Alone(MADE, directory)
    piece = MADE.piece
    assert lone.ask(0, SIZE) == alone.SLICE
    assert lone.ask(piece - 1, SIZE) == alone.SLICE  # at a border of pieces
    assert lone.is_settled(0, piece)
    assert lone.is_settled(1, piece)
    assert not lone.is_settled(2, 1)
    assert lone.ask(SIZE - 1, SIZE) == SIZE
    for _ in range(2):
        lone.came(0, DATA[:9], alone.QUICK_SECONDS / 2)
    assert lone.ask(0, SIZE) == 4 * alone.SLICE
    for _ in range(5):
        lone.came(0, DATA[:9], alone.SLOW_SECONDS * 2)
    assert lone.ask(0, SIZE) == alone.SLICE
    lone.close()


def test_pieces_with_a_small_gap_come_once_more(directory: int):
    lone = alone.Alone(MADE, directory)
    piece = MADE.piece
    few = piece // 20
    assert lone.ask(few, piece) == piece  # such as the head of a pack, which nobody wants
    assert lone.ask(piece + piece // 2, 2 * piece) == 2 * piece
    assert not lone.is_settled(0, piece - few)
    assert lone.is_settled(1, piece // 2)
    assert not lone.is_settled(1, piece // 2 + 1)  # more of it will be asked for
    lone.close()


def test_what_comes_slowly_is_kept_and_what_comes_quickly_is_not(tmp_path: Path, directory: int):
    lone = alone.Alone(MADE, directory)
    lone.came(0, DATA[:1000], 1000 / alone.KEPT_RATE / 2)
    assert not (tmp_path / MADE.name).exists()
    lone.came(500, DATA[500:1000], 1.0)
    lone.close()
    assert (tmp_path / MADE.name).read_bytes()[500:] == DATA[500:1000]


def test_company_is_anybody_but_the_servers_own_seed(directory: int):
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory, Way.ASKING)
    first, other = Known(bytes([10, 0, 0, 1]), 6881), Known(bytes([10, 0, 0, 2]), 6881)

    def has_company(*peers: Known, first: Known | None = first) -> bool:
        fetch.first = None
        fetch.heard(Reply(20, peers, 1, 1, 0, first), lambda address: address != bytes(4))
        return fetch.has_company

    assert not has_company()
    assert not has_company(first)
    assert has_company(first, other)
    assert has_company(other, first=None)
    assert not has_company(first, Known(bytes(4), 1))  # not to be talked to
    fetch.close()


def test_who_hears_nothing_of_a_tracker_reads_from_the_server(directory: int):
    fetch = Fetch("pack", Wish(MADE, ((0, SIZE),)), directory, Way.ASKING)
    begun = fetch.last
    assert fetch.judge(None, begun + 0.1) is Way.ASKING
    assert fetch.judge(None, begun + SOON) is Way.ALONE
    assert fetch.judge(None, begun + 10 * SOON) is Way.ALONE
    fetch.close()


# Ports


def test_a_held_port_is_nobody_elses():
    pytest.importorskip("libtorrent", reason="needs libtorrent: pip install imgstore[swarm]")
    addresses = LOOPBACK.addresses
    one = hold(addresses, (22_000, 22_099))
    two = hold(addresses, (22_000, 22_099))
    assert one.port < two.port
    with closing(Session(SessionSettings(addresses, (one.port, 22_099)))) as session:
        assert session.port not in {one.port, two.port}
    assert not one.was_called()
    socket = sys.modules["socket"]
    with socket.create_connection((addresses[0], one.port), timeout=SOON):
        wait_for(one.was_called)
    assert not one.was_called()
    with pytest.raises(LocalError, match="no port from"):
        hold(addresses, (two.port, two.port))
    port = two.port
    two.release()
    with closing(Session(SessionSettings(addresses, (port, port)))) as session:
        assert session.port == port
    one.release()

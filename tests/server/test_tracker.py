"""The tracker over HTTP: torrents, announces, figures, and what it keeps out."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from chunkstore.objects import bencode, torrent
from chunkstore.server import tracker
from chunkstore.server.tracker import SERVICE
from chunkstore.swarm.announce import Announce, parse_reply

if TYPE_CHECKING:
    from tests.server.conftest import Client

SMALL = "a" * 64
LARGE = "b" * 64
EMPTY = "c" * 64


def made(root: Path, name: str) -> torrent.Torrent:
    data = (root / f"packs/{name}.pack").read_bytes()
    return torrent.make(bytes.fromhex(name), len(data), [data])


def announce(client: Client, info_hash: bytes, **said):
    fields = {"peer_id": b"x" * 20, "port": 7000, "left": 1, **said}
    answer = client.ask("/announce?" + Announce(info_hash, **fields).query)
    assert answer.status == 200
    return answer.body


def hears(client: Client, info_hash: bytes, **said):
    return parse_reply(announce(client, info_hash, **said), "here")


def refusal(body: bytes) -> str:
    return bencode.decode(body, "here")[b"failure reason"].decode()


def test_a_torrent_names_the_tracker_as_it_was_reached(own: Client):
    for name in (SMALL, LARGE):
        answer = own.ask(f"/packs/{name}.torrent", Host="head:8730")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/x-bittorrent"
        assert answer.headers["Cache-Control"] == "no-cache"
        found = torrent.parse(answer.body, bytes.fromhex(name), "here")
        assert found.info == made(own.root, name).info
        assert found.trackers == ("http://head:8730/announce",)
        # Nobody seeds here, so clients of others can read from the server itself.
        assert found.web_seeds == (f"http://head:8730/packs/{name}.pack",)


def test_a_stored_torrent_is_used_and_a_wrong_one_is_not(own: Client):
    right = made(own.root, SMALL)
    path = own.root / f"packs/{SMALL}.torrent"
    for stored in (right.encode(), b"damaged", made(own.root, LARGE).encode()):
        path.write_bytes(stored)
        answer = own.ask(f"/packs/{SMALL}.torrent")
        assert torrent.parse(answer.body, right.pack, "here").info == right.info


def test_no_pack_no_torrent(own: Client):
    for name in ("d" * 64, EMPTY):
        assert own.ask(f"/packs/{name}.torrent").status == 404
    assert own.ask(f"/packs/{SMALL}.torrent?x=1").status == 404


def test_nodes_hear_of_each_other_and_of_their_ranks(own: Client):
    swarm = made(own.root, SMALL)
    assert own.ask(f"/packs/{SMALL}.torrent").status == 200
    first = hears(own, swarm.info_hash, port=7001, event="started")
    assert (first.peers, first.rank, first.leechers, first.seeds) == ((), 0, 1, 0)
    second = hears(own, swarm.info_hash, port=7002, event="started")
    assert [str(peer) for peer in second.peers] == ["127.0.0.1:7001"]
    assert (second.rank, second.leechers) == (1, 2)
    hears(own, swarm.info_hash, port=7001, event="stopped")
    assert hears(own, swarm.info_hash, port=7002).rank == 0


def test_stored_torrents_are_known_without_being_asked_for(own: Client):
    swarm = made(own.root, LARGE)
    (own.root / f"packs/{LARGE}.torrent").write_bytes(swarm.encode())
    assert hears(own, swarm.info_hash).rank == 0


def test_only_swarms_of_packs_that_are_here(own: Client):
    swarm = made(own.root, LARGE)
    foreign = swarm._replace(pack=bytes(32)).info_hash
    (own.root / f"packs/{LARGE}.torrent").write_bytes(swarm.encode())
    for info_hash in (bytes(20), foreign):
        assert "no pack of this store" in refusal(announce(own, info_hash))
    assert json.loads(own.ask("/swarm").body) == {"packs": [], "peers": 0}


def test_strange_words(own: Client):
    for query in ("", "?", "?info_hash=abc", "?info_hash=" + "%ff" * 20):
        answer = own.ask(f"/announce{query}")
        assert answer.status == 200
        assert refusal(answer.body)
    assert "name one to 64" in refusal(own.ask("/scrape").body)
    assert own.ask("/announce", "POST").status == 405


def test_figures(own: Client):
    swarm = made(own.root, SMALL)
    own.ask(f"/packs/{SMALL}.torrent")
    hears(own, swarm.info_hash, port=1)
    hears(own, swarm.info_hash, port=2)
    hears(own, swarm.info_hash, port=2, left=0, event="completed")
    query = "".join(f"%{byte:02x}" for byte in swarm.info_hash)
    answer = own.ask(f"/scrape?info_hash={query}&info_hash={'%00' * 20}")
    assert bencode.decode(answer.body, "here") == {
        b"files": {swarm.info_hash: {b"complete": 1, b"downloaded": 1, b"incomplete": 1}}
    }
    (row,) = json.loads(own.ask("/swarm").body)["packs"]
    assert (row["pack"], row["seeds"], row["leechers"], row["finished"]) == (SMALL, 1, 1, 1)


class StillSeed:
    """A seed that only notes what it is asked to offer."""

    port = 6999
    addresses = ("127.0.0.1",)

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.is_closed = False

    def offer(self, wanted: torrent.Torrent, folder: str) -> None:
        assert folder == "packs"
        self.offered.append(wanted.pack.hex())

    def rates(self) -> dict[bytes, tuple[int, int]]:
        return {bytes.fromhex(SMALL): (1000, 2000)}

    def close(self) -> None:
        self.is_closed = True


def test_the_first_seed_is_told_of_where_the_client_reached_us(serve: Callable[..., Client]):
    seed = StillSeed()

    def extend(app: web.Application) -> None:
        app[SERVICE].seed = lambda: seed

    client = serve(extend=extend)
    found = torrent.parse(client.ask(f"/packs/{SMALL}.torrent").body, bytes.fromhex(SMALL), "here")
    assert found.web_seeds == ()
    reply = hears(client, found.info_hash)
    assert [str(peer) for peer in reply.peers] == ["127.0.0.1:6999"]
    assert (reply.seeds, seed.offered) == (1, [SMALL])
    assert hears(client, found.info_hash, left=0).peers == ()
    (row,) = json.loads(client.ask("/swarm").body)["packs"]
    assert (row["server_rate"], row["server_sent"], row["seeds"]) == (1000, 2000, 2)


def test_trackers_of_others_stand_instead_of_ours(serve: Callable[..., Client]):
    seed = StillSeed()
    urls = ("http://one/announce", "http://two/announce")

    def extend(app: web.Application) -> None:
        app[SERVICE].trackers = urls
        app[SERVICE].seed = lambda: seed

    client = serve(extend=extend)
    found = torrent.parse(client.ask(f"/packs/{SMALL}.torrent").body, bytes.fromhex(SMALL), "here")
    assert found.trackers == urls
    assert seed.offered == [SMALL]


def test_nodes_of_a_swarm_wait_for_one_of_few_places(
    serve: Callable[..., Client], store: Path, monkeypatch: pytest.MonkeyPatch
):
    """Fill the places by clients that do not read; who is in no swarm is served all the same."""
    monkeypatch.setattr(tracker, "FALLBACKS", 2)
    monkeypatch.setattr(tracker, "TURN_SECONDS", 0.2)
    huge = "e" * 64
    data = random.Random(1).randbytes(1 << 20) * 24
    (store / f"packs/{huge}.pack").write_bytes(data)
    client = serve()
    path = f"/packs/{huge}.pack"
    found = made(store, huge)
    assert client.ask(f"/packs/{huge}.torrent").status == 200
    hears(client, found.info_hash)
    hears(client, found.info_hash, port=6882)
    stuck = []
    for _ in range(2):
        sock = client.dial()
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(9).startswith(b"HTTP/1.1")
        stuck.append(sock)
    # One node alone has no crowd to give way to.
    hears(client, found.info_hash, event="stopped", port=6882)
    assert client.ask(path, Range="bytes=0-999999").status == 206
    hears(client, found.info_hash, port=6882)
    answer = client.ask(path, Range="bytes=0-999999")
    assert (answer.status, answer.headers["Retry-After"]) == (503, tracker.COME_AGAIN)
    # Another pack, an index: not held up.
    assert client.ask(f"/packs/{LARGE}.pack").status == 200
    assert client.ask(f"/packs/{SMALL}.idx").status == 200
    # A place that falls free is given on.
    monkeypatch.setattr(tracker, "TURN_SECONDS", 30.0)
    waiting: list[int] = []
    thread = threading.Thread(
        target=lambda: waiting.append(client.ask(path, Range="bytes=0-999999").status)
    )
    thread.start()
    stuck.pop().close()
    thread.join(30)
    assert waiting == [206]
    hears(client, found.info_hash, event="stopped")
    assert client.ask(path, Range="bytes=0-999999").status == 206
    for sock in stuck:
        sock.close()


def test_places_come_back_after_every_kind_of_answer(
    serve: Callable[..., Client], store: Path, monkeypatch
):
    monkeypatch.setattr(tracker, "FALLBACKS", 1)
    monkeypatch.setattr(tracker, "TURN_SECONDS", 0.5)
    client = serve()
    found = made(store, LARGE)
    client.ask(f"/packs/{LARGE}.torrent")
    hears(client, found.info_hash)
    hears(client, found.info_hash, port=6882)
    path = f"/packs/{LARGE}.pack"
    data = (store / path[1:]).read_bytes()
    for _ in range(3):
        assert client.ask(path, Range="bytes=0-9").body == data[:10]
        assert client.ask(path, "HEAD").status == 200
        assert client.ask(path, Range="bytes=99999999-").status == 416
        assert client.ask(path, If_None_Match=f'"{LARGE}.pack"').status == 304
        answer = client.ask(path)
        assert hashlib.sha1(answer.body).digest() == hashlib.sha1(data).digest()
    (store / path[1:]).unlink()
    for _ in range(3):
        assert client.ask(path).status == 404

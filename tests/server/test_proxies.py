"""A proxy before the server: whom it is believed about, and what it can't pretend."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from support.servers import proxied

from chunkstore.errors import Corrupt
from chunkstore.objects import torrent
from chunkstore.server import SERVICE, Access, Entry, Proxies
from chunkstore.swarm.announce import Announce, Peer, Reply, parse_reply

if TYPE_CHECKING:
    from tests.server.conftest import Client

SMALL = "a" * 64
HERE = Proxies((ip_network("127.0.0.1"),))


def peer(name: str, port: int = 7000) -> Peer:
    return Peer(bytes(map(int, name.split("."))), port)


def hears(client: Client, source: str = "", port: int = 7000, **headers: str) -> Reply:
    """Announce from this address, with these headers."""
    found = torrent.parse(client.ask(f"/packs/{SMALL}.torrent").body, bytes.fromhex(SMALL), "here")
    said = Announce(found.info_hash, b"x" * 20, port, 1)
    origin = (source, 0) if source else None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(
        http.client.HTTPConnection(*client.address, timeout=30, source_address=origin)
    ) as connection:
        connection.request("GET", f"/announce?{said.query}", headers=named)
        return parse_reply(connection.getresponse().read(), "here")


@pytest.fixture
def behind(serve: Callable[..., Client]) -> Client:
    """A server that believes a proxy on this machine."""
    return serve(entry=Entry(proxies=HERE))


def knows(client: Client) -> set[Peer]:
    """Whom the tracker tells somebody of who asks from elsewhere."""
    return set(hears(client, source="127.0.0.77").peers)


def test_a_peer_is_where_the_proxy_says(behind: Client):
    hears(behind, X_Forwarded_For="10.1.0.1")
    hears(behind, X_Forwarded_For="10.1.0.2")
    assert knows(behind) == {peer("10.1.0.1"), peer("10.1.0.2")}


def test_what_a_client_says_of_itself_is_passed_over(behind: Client):
    """Only the last address was added by the proxy; what stands before is the client's own word."""
    hears(behind, X_Forwarded_For="10.9.9.9, 10.1.0.1")
    assert knows(behind) == {peer("10.1.0.1")}


def test_a_proxy_behind_a_proxy(behind: Client):
    hears(behind, X_Forwarded_For="10.9.9.9, 10.1.0.1, 127.0.0.1")
    assert knows(behind) == {peer("10.1.0.1")}


def test_who_is_no_proxy_is_not_believed(behind: Client, own: Client):
    hears(behind, source="127.0.0.2", X_Forwarded_For="10.1.0.1")
    assert knows(behind) == {peer("127.0.0.2")}
    hears(own, X_Forwarded_For="10.1.0.1")
    assert knows(own) == {peer("127.0.0.1")}


def test_who_comes_without_the_proxy_is_where_it_is(behind: Client):
    hears(behind)
    assert knows(behind) == {peer("127.0.0.1")}


@pytest.mark.parametrize("said", ["unknown", "", "10.1.0.1:77", "::g", "%00"])
def test_nonsense_is_nobody(behind: Client, said: str):
    with pytest.raises(Corrupt, match="the client has no address"):
        hears(behind, X_Forwarded_For=said)
    assert knows(behind) == set()
    # It can still read.
    assert behind.ask(f"/packs/{SMALL}.pack", X_Forwarded_For=said).status == 200


def test_addresses_of_the_other_kind(behind: Client):
    hears(behind, X_Forwarded_For="fd00::7")
    assert {str(peer) for peer in knows(behind)} == {"[fd00::7]:7000"}


def test_torrents_name_what_the_client_used(behind: Client, own: Client):
    path = f"/packs/{SMALL}.torrent"
    for client, said, scheme in (
        (behind, "https", "https"),
        (behind, "gopher", "http"),
        (own, "https", "http"),
    ):
        body = client.ask(path, Host="head", X_Forwarded_Proto=said).body
        found = torrent.parse(body, bytes.fromhex(SMALL), "here")
        assert found.trackers == (f"{scheme}://head/announce",)


def test_the_log_names_clients(serve: Callable[..., Client]):
    seen: Queue[Access] = Queue()
    client = serve(entry=Entry(proxies=HERE), on_request=seen.put)
    client.ask("/", X_Forwarded_For="10.1.0.1")
    assert seen.get(timeout=30).peer == "10.1.0.1"
    client.ask("/")
    assert seen.get(timeout=30).peer == "127.0.0.1"


class StillSeed:
    """A seed that listens somewhere, and does nothing."""

    port = 6999

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    def offer(self, wanted: torrent.Torrent, folder: str) -> None: ...

    def rates(self) -> dict[bytes, tuple[int, int]]:
        return {}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("addresses", "said", "told"),
    [
        (("0.0.0.0", "::"), "127.0.0.9", "127.0.0.1"),
        (("127.0.0.1",), "::1", None),
        (("0.0.0.0",), "::1", None),
        (("10.5.5.5", "fd00::5"), "127.0.0.9", "10.5.5.5"),
        (("10.5.5.5", "fd00::5"), "::1", "fd00::5"),
        (("0.0.0.0", "::"), "", "127.0.0.1"),
        (("127.0.0.1", "10.5.5.5"), "", "127.0.0.1"),
        (("10.5.5.5",), "", "10.5.5.5"),
        (("fd00::5",), "127.0.0.9", None),
    ],
)
def test_where_the_first_seed_is(
    serve: Callable[..., Client], addresses: tuple[str, ...], said: str, told: str | None
):
    """Where a client would reach this machine without the proxy, if the seed listens there."""

    def extend(app: web.Application) -> None:
        app[SERVICE].seed = lambda: StillSeed(*addresses)

    client = serve(entry=Entry(proxies=HERE), extend=extend)
    reply = hears(client, **({"X_Forwarded_For": said} if said else {}))
    found = reply.first and str(reply.first).rpartition(":")[0].strip("[]")
    assert found == told


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx: Debian's nginx-light")
def test_nginx(behind: Client, place: Path):
    """From several addresses, one of which pretends to be somebody else."""
    with proxied(behind.url, place) as url:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        through: Any = type(behind)(url, behind.root)
        hears(through, source="127.0.0.2")
        hears(through, source="127.0.0.3", X_Forwarded_For="10.9.9.9")
        assert knows(through) == {peer("127.0.0.2"), peer("127.0.0.3")}
        body = through.ask(f"/packs/{SMALL}.torrent").body
        assert torrent.parse(body, bytes.fromhex(SMALL), "x").trackers == (f"{url}/announce",)
        data = (behind.root / f"packs/{SMALL}.pack").read_bytes()
        answer = through.ask(f"/packs/{SMALL}.pack", Range="bytes=10-19")
        assert (answer.status, answer.body) == (206, data[10:20])

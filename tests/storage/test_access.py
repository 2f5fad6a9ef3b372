"""Reaching a store that does not let everybody in, and what is shown to whom on the way."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.certificates import Authority
from support.servers import BadServer, Step

from chunkstore.errors import LocalError, TransferError, Usage
from chunkstore.server import Entry, Limits, running
from chunkstore.storage.backends import open_reader
from chunkstore.storage.backends.http import HttpReader
from chunkstore.storage.backends.http_access import Access
from chunkstore.storage.backends.http_url import Origin

NAME = "versions/" + "0" * 64
TOKEN = "s3cret-token"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a server opens as a store: one object, larger than a piece."""
    place = tmp_path / "store"
    (place / "versions").mkdir(parents=True)
    (place / NAME).write_bytes(bytes(range(256)) * 12_000)
    return place


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def read(url: str, access: Access | None = None, size: int = 10) -> bytes:
    with closing(HttpReader(url, access=access, attempts=1, timeout=5)) as reader:
        return reader.get(NAME, 0, size)


def found(body: bytes = b"x" * 10) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def redirect(url: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_token_lets_in(root: Path) -> None:
    with running(root, entry=Entry(token=TOKEN)) as url:
        assert read(url, Access(token=TOKEN)) == bytes(range(10))
        for access in (None, Access(token="other"), Access(token=TOKEN + "x")):
            with pytest.raises(TransferError, match="401") as caught:
                read(url, access)
            assert TOKEN not in str(caught.value)


def test_a_token_is_asked_for_everything(root: Path) -> None:
    (root / "store.json").write_text("{}")
    with running(root, entry=Entry(token=TOKEN)) as url:
        host, port = url.removeprefix("http://").split(":")
        for path in ("/", "/store.json", "/images/", "/nothing"):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert client.recv(100).startswith(b"HTTP/1.1 401")


@pytest.fixture
def servers() -> Iterator[list[BadServer]]:
    made: list[BadServer] = []
    yield made
    for server in made:
        server.close()


def test_a_token_goes_home_only(servers: list[BadServer]) -> None:
    servers.append(away := BadServer([found(), redirect("")]))
    servers.append(home := BadServer([redirect(f"{away.url}/{NAME}"), found()]))
    access = Access(token=TOKEN)
    with closing(HttpReader(home.url, access=access, attempts=1)) as reader:
        assert reader.get(NAME, 0, 10) == b"x" * 10
        assert reader.get(NAME, 0, 10) == b"x" * 10
    assert [request.headers.get("authorization") for request in home.requests] == [
        f"Bearer {TOKEN}"
    ] * 2
    assert [request.headers.get("authorization") for request in away.requests] == [None]


def test_a_mirror_is_not_told_who_we_are(servers: list[BadServer]) -> None:
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    servers.append(home := BadServer([missing]))
    servers.append(mirror := BadServer([found()]))
    with closing(open_reader(home.url, access=Access(token=TOKEN), mirrors=[mirror.url])) as reader:
        assert reader.get(NAME, 0, 10) == b"x" * 10
    assert home.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert "authorization" not in mirror.requests[0].headers


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "//", "http://", "javascript:1"],
)
def test_a_redirect_leads_to_http_only(servers: list[BadServer], target: str) -> None:
    servers.append(server := BadServer([redirect(target)] * 9))
    with pytest.raises(TransferError):
        read(server.url)


def test_three_redirects_are_followed(servers: list[BadServer]) -> None:
    servers.append(server := BadServer([]))
    server.steps = [Step(redirect(f"{server.url}/again"))] * 3 + [Step(found())]
    assert read(server.url) == b"x" * 10
    server.steps = [Step(redirect(f"{server.url}/again"))] * 4 + [Step(found())]
    with pytest.raises(TransferError, match="too many redirects"):
        read(server.url)


# TLS


def test_an_authority_of_our_own(root: Path, authority: Authority) -> None:
    entry = Entry(certificate=str(authority.issue("server")))
    with running(root, entry=entry) as url:
        assert url.startswith("https://")
        access = Access(authority=str(authority.file))
        assert read(url, access, 3_000_000) == (root / NAME).read_bytes()[:3_000_000]
        with pytest.raises(TransferError, match="bad certificate"):
            read(url)
        other = Authority(root.parent, "other")
        with pytest.raises(TransferError, match="bad certificate"):
            read(url, Access(authority=str(other.file)))


def test_a_certificate_lets_in(root: Path, authority: Authority) -> None:
    entry = Entry(certificate=str(authority.issue("server")), authority=str(authority.file))
    trusted = str(authority.file)
    stranger = Authority(root.parent, "other").issue("stranger")
    with running(root, entry=entry) as url:
        client = Access(authority=trusted, certificate=str(authority.issue("client")))
        assert read(url, client) == bytes(range(10))
        for access in (
            Access(authority=trusted),
            Access(authority=trusted, certificate=str(stranger)),
        ):
            with pytest.raises(TransferError):
                read(url, access)


def test_a_certificate_is_shown_at_home_only(
    servers: list[BadServer], authority: Authority
) -> None:
    """Both servers ask; the second, where a redirect leads, gets none."""
    shown: list[bool] = []

    class Asking(BadServer):
        def _serve(self, connection: socket.socket, number: int) -> None:
            assert self._tls is not None
            with suppress(OSError):
                connection = self._tls.wrap_socket(connection, server_side=True)
                shown.append(bool(connection.getpeercert(binary_form=True)))  # type: ignore[attr-defined]
                tls, self._tls = self._tls, None
                super()._serve(connection, number)
                self._tls = tls

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("server"))
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    servers.append(away := Asking([found()], context))
    servers.append(home := Asking([redirect(f"https://{away.authority}/x")], context))
    access = Access(authority=str(authority.file), certificate=str(authority.issue("client")))
    assert read(f"https://{home.authority}/store", access) == b"x" * 10
    assert shown == [True, False]


def test_a_slow_handshake_keeps_nobody_waiting(root: Path, authority: Authority) -> None:
    entry = Entry(certificate=str(authority.issue("server")))
    limits = Limits(head_seconds=60)
    with running(root, entry=entry, limits=limits) as url:
        host, port = url.removeprefix("https://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(20)]
        time.sleep(0.2)
        try:
            assert read(url, Access(authority=str(authority.file))) == bytes(range(10))
        finally:
            for client in silent:
                client.close()


def test_a_handshake_that_never_ends_is_ended(root: Path, authority: Authority) -> None:
    entry = Entry(certificate=str(authority.issue("server")))
    limits = Limits(max_connections=1, head_seconds=0.5)
    with running(root, entry=entry, limits=limits) as url:
        host, port = url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port))):
            # The only place is taken until then.
            assert read(url, Access(authority=str(authority.file))) == bytes(range(10))


@pytest.mark.parametrize("what", ["authority", "certificate"])
def test_files_that_are_no_certificates(tmp_path: Path, authority: Authority, what: str) -> None:
    (tmp_path / "bad").write_text("nothing")
    for path in (tmp_path / "bad", tmp_path / "missing"):
        with pytest.raises(LocalError, match="can't use the certificates"):
            Access(**{what: str(path)}).context(is_home=True)
        with pytest.raises(LocalError, match="can't use the certificates"):
            Entry(**{"certificate": str(authority.issue("x")), what: str(path)}).context()
    with pytest.raises(Usage, match="need TLS"):
        Entry(authority=str(authority.file)).context()


# Proxies


class Tunnel:
    """A proxy that opens tunnels to one place, wherever they were to lead."""

    def __init__(self, port: int) -> None:
        self.heads: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:pass@127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(1000)
                self.heads.append(head)
                server = socket.create_connection(("127.0.0.1", self._port))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for one, other in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._pass, args=(one, other)))
                    self._threads[-1].start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._sockets.append(each)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()


def test_a_proxy(servers: list[BadServer]) -> None:
    servers.append(proxy := BadServer([found(), found()]))
    access = Access(http_proxy=f"http://user:pass@{proxy.authority}", token=TOKEN)
    assert read("http://store.invalid/store", access) == b"x" * 10
    request = proxy.requests[0]
    assert request.path == f"http://store.invalid/store/{NAME}"
    assert request.headers["host"] == "store.invalid"
    assert request.headers["proxy-authorization"].startswith("Basic ")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


def test_a_proxy_for_https_is_a_tunnel(root: Path, authority: Authority) -> None:
    """It sees where we want to go, and nothing else: no token, no path."""
    entry = Entry(certificate=str(authority.issue("server")), token=TOKEN)
    with running(root, entry=entry) as url, closing(Tunnel(int(url.rpartition(":")[2]))) as proxy:
        access = Access(https_proxy=proxy.url, authority=str(authority.file), token=TOKEN)
        assert read("https://store.invalid/", access) == bytes(range(10))
    [head] = proxy.heads
    assert head.startswith(b"CONNECT store.invalid:443 ")
    assert b"Proxy-Authorization: Basic " in head
    assert TOKEN.encode() not in head
    assert b"versions" not in head


@pytest.mark.parametrize(
    ("names", "host", "is_direct"),
    [
        ((), "store.invalid", False),
        (("store.invalid",), "store.invalid", True),
        (("invalid",), "store.invalid", True),
        ((".invalid",), "store.invalid", True),
        (("tore.invalid",), "store.invalid", False),
        (("*",), "store.invalid", True),
        ((), "127.0.0.1", True),
        ((), "localhost", True),
    ],
)
def test_hosts_without_a_proxy(names: tuple[str, ...], host: str, is_direct: bool) -> None:
    access = Access(http_proxy="http://proxy.invalid:3128", no_proxy=names)
    assert (access.proxy(Origin("http", host, 80)) is None) == is_direct
    assert access.proxy(Origin("https", host, 443)) is None


def test_nothing_secret_is_shown() -> None:
    secrets = Access(token=TOKEN, http_proxy="http://user:pass@proxy")
    assert TOKEN not in repr(secrets)
    assert "pass" not in repr(secrets)
    assert TOKEN not in repr(Entry(token=TOKEN))
    for proxy in ("ftp://user:pass@proxy", "http://user:pass@proxy:99999", "http://"):
        with pytest.raises(Usage) as caught:
            Access(http_proxy=proxy).proxy(Origin("http", "store.invalid", 80))
        assert "pass" not in str(caught.value)
    with pytest.raises(Usage) as caught:
        _ = Access(token="two words").authorization
    assert "two" not in str(caught.value)

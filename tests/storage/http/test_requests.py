"""The HTTP client: what it asks for, and over which connections."""

import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.replies import DATA, NAME, Connect, Serve, chunked, fails, part
from support.servers import SOON, Step, reply

from chunkstore.errors import NotFound, TransferError, Usage

# Requests


def test_a_request_is_polite_and_for_a_single_range(serve: Serve, connect: Connect) -> None:
    server = serve(part(10, 20))
    assert connect(server).reader.get(NAME, 10, 20) == DATA[10:20]
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/store/packs/a.pack")
    assert request.range == "bytes=10-19"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("imgstore")
    assert request.headers["host"] == server.authority
    assert "authorization" not in request.headers


def test_a_connection_is_used_again(serve: Serve, connect: Connect) -> None:
    server = serve(
        part(0, 10),
        chunked(DATA[:3], DATA[3:9]),
        reply(404, b"no such file"),
        reply(416, b"", "Content-Range: bytes */10240"),
        reply(200, b"", length=77),
        reply(200, DATA[:10]),
        part(5, 10),
    )
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 10) == DATA[:10]
    assert reader.get(NAME, 0, 9) == DATA[:9]
    with pytest.raises(NotFound):
        reader.get(NAME, 0, 10)
    assert reader.get(NAME, 20_000, 20_001) == b""
    assert reader.size(NAME) == 77
    assert reader.get(NAME, 0, 10) == DATA[:10]
    assert reader.get(NAME, 5, 10) == DATA[5:10]
    assert server.connections == 1
    assert sleeps == []
    assert reader.traffic == (7, server.sent, 0)


def test_an_empty_range_needs_no_request(serve: Serve, connect: Connect) -> None:
    server = serve()
    assert connect(server).reader.get(NAME, 5, 5) == b""
    assert server.requests == []


def test_no_more_connections_than_allowed(serve: Serve, connect: Connect) -> None:
    server = serve(*[part(0, 1000)] * 60)
    reader = connect(server, connections=2).reader
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: reader.get(NAME, 0, 1000), range(60))) == {DATA[:1000]}
    assert server.connections <= 2
    assert reader.traffic.requests == 60


# Connections that idled


def test_a_connection_closed_while_idle_is_replaced_silently(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Step(part(0, 9), "close"), part(0, 9))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    time.sleep(0.05)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert server.connections == 2
    assert sleeps == []
    assert reader.traffic.retries == 0


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_connection_closed_as_the_request_arrives_is_replaced_silently(
    then: str, serve: Serve, connect: Connect
) -> None:
    server = serve(part(0, 9), Step(b"", then), part(9, 18))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.get(NAME, 9, 18) == DATA[9:18]
    assert sleeps == []
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_a_connection_reset_inside_a_reply_is_a_failure(serve: Serve, connect: Connect) -> None:
    def begun() -> Iterator[bytes]:
        yield b"HTTP/1.1 2"
        time.sleep(0.2)

    server = serve(part(0, 9), Step(begun, "reset"), part(9, 18))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.get(NAME, 9, 18) == DATA[9:18]
    assert reader.traffic.retries == len(sleeps) == 1


def test_bytes_after_a_reply_are_not_taken_for_the_next(serve: Serve, connect: Connect) -> None:
    junk = reply(206, b"123456789", f"Content-Range: bytes 0-8/{len(DATA)}")
    read = threading.Event()

    def late() -> Iterator[bytes]:
        yield part(0, 9)
        read.wait(SOON)
        yield junk

    server = serve(Step(late), part(0, 9))
    reader = connect(server).reader
    assert reader.get(NAME, 0, 9) == DATA[:9]
    before = server.sent
    read.set()
    while server.sent == before:
        time.sleep(0.01)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert server.connections == 2


# Sizes


def test_size_by_head_and_without(serve: Serve, connect: Connect) -> None:
    server = serve(
        reply(200, b"", length=2**40),
        reply(200, b"", length=None),
        part(0, 1),
        reply(405),
        reply(416, b"", "Content-Range: bytes */0"),
        reply(501),
        reply(200, DATA),
    )
    reader = connect(server).reader
    assert [reader.size(NAME) for _ in range(4)] == [2**40, len(DATA), 0, len(DATA)]
    methods = ["HEAD", "HEAD", "GET", "HEAD", "GET", "HEAD", "GET"]
    assert [request.method for request in server.requests] == methods


def test_a_size_nobody_tells(serve: Serve, connect: Connect) -> None:
    for last in (
        part(0, 1, total="*"),
        reply(206, b"x"),
        Step(reply(200, b"x", length=None), "close"),
    ):
        reader = connect(serve(reply(405), last)).reader
        with pytest.raises(TransferError) as caught:
            reader.size(NAME)
        assert not caught.value.retryable


# The end, and TLS


def test_a_closed_reader_is_not_used_by_accident(serve: Serve, connect: Connect) -> None:
    server = serve(part(0, 9))
    reader = connect(server).reader
    reader.get(NAME, 0, 9)
    reader.close()
    with pytest.raises(Usage, match="closed"):
        reader.get(NAME, 0, 9)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tls")
    path = os.path.join(folder, "both.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext"
    try:
        subprocess.run(
            [
                *command.split(),
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                path,
                "-out",
                path + ".crt",
            ],
            check=True,
            capture_output=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    with open(path, "a") as both:
        both.write(Path(path + ".crt").read_text())
    return path


def test_tls(certificate: str, serve: Serve, connect: Connect) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    plain = serve()
    server = serve(
        Step(part(0, 10_000)[:-4000], "close"),
        part(6000, 10_000),
        reply(302, b"", f"Location: {plain.url}"),
        tls=ours,
    )
    trusting = connect(server, tls=ssl.create_default_context(cafile=certificate)).reader
    assert trusting.get(NAME, 0, 10_000) == DATA[:10_000]
    assert server.ranges == ["0-9999", "6000-9999"]
    assert "from https to http" in str(fails(trusting))
    assert plain.requests == []
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "bad certificate" in str(error)
    # Plain HTTP to a TLS port and the other way round end in one line as well.
    assert fails(connect(f"http://{server.authority}/", attempts=1).reader)
    assert fails(connect(f"https://{plain.authority}/", attempts=1, timeout=0.5).reader)

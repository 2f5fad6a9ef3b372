"""The HTTP client: redirects, and what goes along with them."""

import pytest
from support.replies import DATA, NAME, Connect, Serve, fails, part
from support.servers import Step, reply

from chunkstore.errors import ChunkstoreError, Usage
from chunkstore.storage.backends.http import HttpReader


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, serve: Serve, connect: Connect) -> None:
    other = serve(part(0, 9), reply(200, DATA[:9]))
    server = serve(
        reply(status, b"moved", "Location: ../elsewhere?a=b#c"),
        reply(status, b"moved", f"Location: http://{other.authority}/there"),
        reply(status, b"", f"Location: //{other.authority}/there"),
    )
    reader = connect(server).reader
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert [request.path for request in server.requests] == [
        f"/store/{NAME}",
        "/store/elsewhere?a=b",
    ]
    assert other.requests[0].path == "/there"
    assert other.requests[0].range == "bytes=0-8"
    assert other.requests[0].headers["host"] == other.authority
    assert reader.size(NAME) == 9
    assert [request.method for request in other.requests] == ["GET", "HEAD"]


def test_redirects_end_somewhere(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(302, b"", f"Location: /store/{NAME}")] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "too many redirects" in str(error)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "javascript:alert(1)",
        "http://:80/",
        "http://[::1/x",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:port/x",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\x7f",
        "http://127.0.0.1/\xe4",
    ],
)
def test_redirects_elsewhere_than_http_are_refused(
    location: str, serve: Serve, connect: Connect
) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    server = serve(*[Step(head.encode("latin-1"))] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "redirected" in str(error)
    assert len(server.requests) == 1


def test_credentials_stay_with_their_host(serve: Serve, connect: Connect) -> None:
    other = serve(part(0, 9))
    server = serve(
        reply(302, b"", "Location: /here"),
        reply(302, b"", f"Location: http://evil:evil@{other.authority}/there"),
    )
    url = f"http://me:s%40cret@{server.authority}/store"
    assert connect(url).reader.get(NAME, 0, 9) == DATA[:9]
    for request in server.requests:
        assert request.headers["authorization"] == "Basic bWU6c0BjcmV0"
    assert len(server.requests) == 2
    assert "authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    "step",
    [
        Step(b"", "close"),
        Step(b"SSH\r\n", "close"),
        Step(reply(401)),
        Step(reply(404)),
        Step(reply(503)),
        Step(reply(206)),
        Step(reply(206, b"", "Content-Range: bytes 5-5/9")),
        Step(reply(302, b"", "Location: file://me:s3cret@x/y")),
        Step(reply(302, b"", "Location: http://me:s3cret@[x/")),
        Step(b"", "stall"),
    ],
)
def test_credentials_are_never_shown(step: Step, serve: Serve, connect: Connect) -> None:
    server = serve(*[step] * 2)
    reader = connect(f"http://me:s3cret@{server.authority}/", attempts=2, timeout=0.2).reader
    with pytest.raises(ChunkstoreError) as caught:
        reader.get(NAME, 0, 1000)
    error: BaseException | None = caught.value
    assert server.authority in str(error)
    while error is not None:
        assert "s3cret" not in repr(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80/",
        "ftp://me:s3cret@host/",
        "http://me:s3cret@host:port/",
        "http://me:s3/cret@host/",
        "http://me:s3cret@host/a b",
        "http://me:s3cret@host/\n",
        "http://me:s3cret@host/?token=s3cret",
        "http://me:s3cret@host/#x",
        "http://h\xf6st/",
        "host",
        "",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Usage) as caught:
        HttpReader(url)
    assert "s3" not in str(caught.value)

"""The HTTP client: ranges and lengths that are lies."""

import re
from collections.abc import Iterator

import pytest
from support.replies import DATA, NAME, Connect, Serve, endless, fails, part
from support.servers import Step, reply

from chunkstore.storage.backends import http_range


@pytest.mark.parametrize(
    "line",
    [
        "Content-Range: bytes 101-999/10240",
        "Content-Range: bytes 99-999/10240",
        "Content-Range: bytes 0-899/10240",
        "Content-Range: bytes 100-1000/10240",
        "Content-Range: bytes 100-99/10240",
        "Content-Range: bytes 100-999/500",
        "Content-Range: bytes 100-/10240",
        "Content-Range: bytes */10240",
        "Content-Range: bytes 100-999/99999999999999999999",
        "Content-Range: lines 100-999/10240",
        "Content-Range: bytes 100-999",
        "Content-Type: multipart/byteranges; boundary=x",
    ],
)
def test_a_part_that_was_not_asked_for_is_refused(
    line: str, serve: Serve, connect: Connect
) -> None:
    match = re.search(r"(\d+)-(\d+)/", line)
    length = max(int(match[2]) - int(match[1]) + 1, 0) if match else 900
    server = serve(*[reply(206, b"?" * length, line)] * 9)
    reader = connect(server).reader
    error = fails(reader, start=100)
    assert not error.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "length", ["899", "901", "-900", "+900", "9_00", "900, 900", "x", "9" * 5000]
)
def test_lengths_that_make_no_sense_are_refused(
    length: str, serve: Serve, connect: Connect
) -> None:
    lines = ("Content-Range: bytes 100-999/10240", f"Content-Length: {length}")
    server = serve(*[reply(206, DATA[100:1000], *lines, length=None)] * 9)
    assert not fails(connect(server).reader, start=100).retryable


def test_two_lengths_are_refused(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(200, DATA[:1000], "Content-Length: 500")] * 9)
    assert not fails(connect(server).reader, stop=100).retryable


@pytest.mark.parametrize(
    "line",
    ["Content-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: gzip"],
)
def test_encoded_objects_are_refused(line: str, serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(200, DATA, line)] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "encoded" in str(error)


def test_a_server_that_ignores_ranges(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(200, DATA)] * 3, reply(200, DATA[:50]))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 100, 200) == DATA[100:200]
    assert reader.get(NAME, 0, 99_999) == DATA
    assert reader.get(NAME, 99_999, 100_000) == b""
    assert reader.get(NAME, 40, 100) == DATA[40:50]
    assert sleeps == []


def test_a_server_that_ignores_ranges_and_breaks_off(serve: Serve, connect: Connect) -> None:
    server = serve(Step(reply(200, DATA)[:-500], "close"), reply(200, DATA))
    reader = connect(server).reader
    assert reader.get(NAME, 9000, 10_000) == DATA[9000:10_000]
    assert server.ranges == ["9000-9999", f"{len(DATA) - 500}-9999"]


@pytest.mark.parametrize("line", ["Connection: close", "Transfer-Encoding: chunked"])
def test_a_whole_object_of_unknown_length(line: str, serve: Serve, connect: Connect) -> None:
    body = DATA if "close" in line else b"%x\r\n%b\r\n0\r\n\r\n" % (len(DATA), DATA)
    server = serve(*[Step(reply(200, body, line, length=None), "close")] * 3)
    reader = connect(server).reader
    assert reader.get(NAME, 100, 200) == DATA[100:200]
    assert reader.get(NAME, 100, 99_999) == DATA[100:]
    assert reader.get(NAME, 99_998, 99_999) == b""


def test_a_rest_nobody_wants_is_not_read(serve: Serve, connect: Connect) -> None:
    def whole() -> Iterator[bytes]:
        yield reply(200, DATA, length=2**40)
        while True:
            yield DATA

    server = serve(Step(whole), part(0, 9))
    reader = connect(server).reader
    assert reader.get(NAME, 100, 200) == DATA[100:200]
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert server.connections == 2
    assert reader.traffic.received < 1_000_000


def test_too_far_into_a_whole_object(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_range, "MAX_SKIP", 5000)
    server = serve(reply(200, DATA), part(0, 9), part(6000, 6009))
    reader = connect(server).reader
    assert reader.get(NAME, 5000, 5001) == DATA[5000:5001]
    for _ in range(2):
        error = fails(reader, start=5001, stop=5002)
        assert not error.retryable
        assert "whole objects only" in str(error)
    # Told once, it is not asked again, until it shows that it has learnt.
    assert len(server.requests) == 1
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.get(NAME, 6000, 6009) == DATA[6000:6009]


def test_too_far_at_the_first_request(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_range, "MAX_SKIP", 5000)
    server = serve(*[Step(endless(reply(200, length=2**40), bytes(4096)))] * 9)
    reader = connect(server).reader
    assert "whole objects only" in str(fails(reader, start=2**30, stop=2**30 + 1))
    assert len(server.requests) == 1
    assert reader.traffic.received < 500_000


@pytest.mark.parametrize("line", ["Content-Range: bytes */10240", "X: y"])
def test_behind_the_end(line: str, serve: Serve, connect: Connect) -> None:
    server = serve(reply(416, b"sorry", line))
    assert connect(server).reader.get(NAME, 20_000, 30_000) == b""


def test_a_part_that_is_there_may_not_be_refused(serve: Serve, connect: Connect) -> None:
    server = serve(reply(416, b"", "Content-Range: bytes */10240"))
    assert not fails(connect(server).reader).retryable
    server = serve(Step(part(0, 1000)[:-1], "close"), reply(416))
    assert not fails(connect(server).reader).retryable

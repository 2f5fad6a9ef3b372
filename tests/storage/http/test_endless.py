"""The HTTP client: replies that are endless, slow, or no HTTP at all."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.replies import DATA, NAME, Connect, Serve, chunked, endless, fails, part
from support.servers import SOON, BadServer, Step, reply

from chunkstore.errors import ChunkstoreError, TransferError
from chunkstore.storage.backends import http_pace
from chunkstore.storage.backends.http import HttpReader


def _endless_part(*lines: str) -> bytes:
    return reply(206, b"", "Content-Range: bytes 0-999/10240", *lines, length=None)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (_endless_part(), bytes(4096)),
        (_endless_part("Connection: close"), bytes(4096)),
        (_endless_part("Content-Length: 1000"), bytes(4096)),
        (_endless_part("Transfer-Encoding: chunked"), b"1000\r\n" + bytes(4096) + b"\r\n"),
        (_endless_part("Transfer-Encoding: chunked"), b"1\r\n\0\r\n"),
        (reply(200, length=None), bytes(4096)),
    ],
)
def test_endless_data_is_read_as_far_as_asked(
    head: bytes, piece: bytes, serve: Serve, connect: Connect
) -> None:
    server = serve(Step(endless(head, piece)))
    reader = connect(server).reader
    assert reader.get(NAME, 0, 1000) == bytes(1000)
    assert reader.traffic.received < 500_000


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"\0" * 4096),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (_endless_part("Transfer-Encoding: chunked"), b"0" * 4096),
        (_endless_part("Transfer-Encoding: chunked") + b"0\r\n", b"X: y\r\n" * 100),
        (b"", b"SSH-2.0-OpenSSH_9.2\r\n"),
        (b"", b"\x16\x03\x01" * 1000),
    ],
)
def test_endless_heads_are_given_up(
    head: bytes, piece: bytes, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pace, "FLOOR_RATE", 200_000)
    server = serve(*[Step(endless(head, piece))] * 2)
    reader = connect(server, timeout=0.5, attempts=2).reader
    fails(reader)


def test_memory_is_taken_for_what_comes(serve: Serve, connect: Connect) -> None:
    end = 2**50
    where = f"Content-Range: bytes 0-{end - 1}/{end}"
    server = serve(Step(reply(206, DATA, where, length=end), "close"))
    error = fails(connect(server, attempts=1).reader, stop=2**60)
    assert "broke off" in str(error)


def _drip(whole: bytes, fast: int) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield whole[:fast]
        for number in range(fast, len(whole)):
            time.sleep(0.02)
            yield whole[number : number + 1]

    return send


@pytest.mark.parametrize(
    ("whole", "fast"),
    [
        (part(0, 1000), 0),
        (part(0, 1000), 40),
        (part(0, 1000), len(part(0, 1000)) - 1000),
        (chunked(DATA[:1000]), len(chunked(DATA[:1000])) - 1010),
        (_endless_part("Transfer-Encoding: chunked") + b"0" * 1000, 110),
    ],
)
def test_a_dripping_server_is_dropped(
    whole: bytes, fast: int, serve: Serve, connect: Connect
) -> None:
    server = serve(Step(_drip(whole, fast)))
    error = fails(connect(server, timeout=0.4, attempts=1).reader)
    assert error.retryable
    assert "too slow" in str(error)


@pytest.mark.parametrize("sent", [0, 10, 60, 500])
def test_a_stalled_server_is_dropped(sent: int, serve: Serve, connect: Connect) -> None:
    server = serve(Step(part(0, 1000)[:sent], "stall"))
    error = fails(connect(server, timeout=0.2, attempts=1).reader)
    assert error.retryable
    assert "too slow" in str(error)


def test_a_slow_server_that_keeps_pace_is_borne_with(serve: Serve, connect: Connect) -> None:
    def slow() -> Iterator[bytes]:
        whole = part(0, 6000)
        for start in range(0, len(whole), 600):
            yield whole[start : start + 600]
            time.sleep(0.1)

    server = serve(Step(slow))
    reader, sleeps = connect(server, timeout=0.6)
    assert reader.get(NAME, 0, 6000) == DATA[:6000]
    assert sleeps == []


@pytest.mark.parametrize("status", [200, 206])
def test_a_long_reply_earns_the_time_it_takes(
    status: int, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pace, "FLOOR_RATE", 200_000)

    def slow() -> Iterator[bytes]:
        yield reply(status, b"", "Content-Range: bytes 0-599999/600000", length=600_000)
        for _ in range(12):
            yield bytes(50_000)
            time.sleep(0.1)

    reader, sleeps = connect(serve(Step(slow)), timeout=0.5)
    assert reader.get(NAME, 0, 600_000) == bytes(600_000)
    assert sleeps == []


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"<html>\r\n",
        b"\xff" * 100 + b"\r\n",
        b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_not_http_is_refused(sent: bytes, serve: Serve, connect: Connect) -> None:
    server = serve(*[Step(sent, "close")] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert len(str(error)) < 200
    assert len(server.requests) == 1


@pytest.mark.parametrize("kept", [9, 40, 60, 80])
def test_a_cut_head_is_tried_again(kept: int, serve: Serve, connect: Connect) -> None:
    whole = reply(206, DATA[:1000], "Content-Range: bytes 0-999/10240")
    server = serve(Step(reply(200)[:-10], "close"), Step(whole[:kept], "close"), whole)
    reader = connect(server).reader
    if kept == 9:
        assert not fails(reader).retryable  # not even a status
    else:
        assert reader.get(NAME, 0, 1000) == DATA[:1000]


@pytest.mark.parametrize("size", [b"-5", b"zz", b"", b"fffffffffffffffffffff", b"0x10"])
def test_chunks_that_make_no_sense(size: bytes, serve: Serve, connect: Connect) -> None:
    body = size + b"\r\n" + DATA[:3000] + b"\r\n0\r\n\r\n"
    server = serve(*[Step(_endless_part("Transfer-Encoding: chunked") + body, "close")] * 9)
    reader = connect(server).reader
    with suppress(TransferError):
        assert len(reader.get(NAME, 0, 1000)) <= 1000


_HONEST = [part(0, 1000), chunked(DATA[:600], DATA[600:1000]), reply(200, DATA), reply(416)]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    whole=st.sampled_from(_HONEST),
    place=st.integers(0, 300),
    removed=st.integers(0, 40),
    junk=st.binary(max_size=20)
    | st.sampled_from([b"\r\n", b"0", b"-", b"9" * 30, b":", b"\r\n\r\n"]),
)
def test_damaged_replies_end_in_bytes_or_a_declared_error(
    whole: bytes, place: int, removed: int, junk: bytes
) -> None:
    damaged = whole[:place] + junk + whole[place + removed :]
    server = BadServer([Step(damaged, "close")])
    reader = HttpReader(server.url, attempts=1, timeout=SOON)
    try:
        assert len(reader.get(NAME, 0, 1000)) <= 1000
    except ChunkstoreError:
        pass
    finally:
        reader.close()
        server.close()

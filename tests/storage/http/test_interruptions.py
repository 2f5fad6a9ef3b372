"""The HTTP client: interruptions, busy servers, and when it gives up."""

import email.utils
import socket
import threading
import time

import pytest
from support.replies import DATA, NAME, Connect, Serve, chunked, endless, fails, part
from support.servers import Step, reply

from chunkstore.errors import NotFound, Unreachable
from chunkstore.storage.backends import http, http_pool


@pytest.mark.parametrize("then", ["close", "stall", "reset"])
def test_an_interrupted_body_is_resumed(then: str, serve: Serve, connect: Connect) -> None:
    first = Step(part(100, 1100)[:-400], then)
    second = Step(part(700, 1100)[:-1], then)
    server = serve(first, second, part(1099, 1100))
    reader, sleeps = connect(server, timeout=0.5)
    assert reader.get(NAME, 100, 1100) == DATA[100:1100]
    if then == "reset":
        # A reset may overtake the data before it, but what came is not asked for again.
        starts = [int(text.split("-")[0]) for text in server.ranges]
        assert starts == sorted(starts)
    else:
        assert server.ranges == ["100-1099", "700-1099", "1099-1099"]
        assert reader.traffic.retries == len(sleeps) == 2


def test_an_interruption_is_told(serve: Serve, connect: Connect) -> None:
    for step in (Step(part(0, 1000)[:-1], "close"), Step(b"", "close")):
        error = fails(connect(serve(step), attempts=1).reader)
        assert error.retryable
        assert "broke off" in str(error)


def test_an_interrupted_chunked_body_is_resumed(serve: Serve, connect: Connect) -> None:
    server = serve(Step(chunked(DATA[:600], DATA[600:1000])[:-207], "close"), part(800, 1000))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert server.ranges == ["0-999", "800-999"]


def test_less_than_asked_for_is_continued(serve: Serve, connect: Connect) -> None:
    server = serve(part(0, 400), part(400, 1000))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert server.ranges == ["0-999", "400-999"]


def test_an_object_of_unknown_length(serve: Serve, connect: Connect) -> None:
    server = serve(part(0, 400, total="*"), reply(416, b"", "Content-Range: bytes */*"))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:400]


def test_an_object_that_changes_is_read_anew(serve: Serve, connect: Connect) -> None:
    server = serve(Step(part(0, 1000)[:-400], "close"), part(600, 1000, total=5000), part(0, 1000))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert server.ranges == ["0-999", "600-999", "0-999"]


def test_giving_up(serve: Serve, connect: Connect) -> None:
    server = serve(*[Step(b"", "close")] * 9)
    reader, sleeps = connect(server, attempts=4)
    error = fails(reader)
    assert error.retryable
    assert "gave up after 4 attempts" in str(error)
    assert len(server.requests) == 4
    assert reader.traffic.retries == len(sleeps) == 3
    assert all(0 <= wait <= 2.0**number for number, wait in enumerate(sleeps))


def test_where_nobody_listens_it_is_tried_twice(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authority = f"127.0.0.1:{listener.getsockname()[1]}"
    reader, sleeps = connect(f"http://{authority}/store")
    error = fails(reader)
    assert error.retryable
    assert isinstance(error, Unreachable)
    assert f"{authority}/store/{NAME}: nothing listens at {authority} " in str(error)
    assert "gave up after 2 attempts" in str(error)
    assert len(sleeps) == 1


@pytest.mark.parametrize(("answer", "tries"), [(socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 5)])
def test_a_host_that_does_not_exist_is_tried_twice(
    answer: int, tries: int, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **_named: object) -> object:
        raise socket.gaierror(answer, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    reader, sleeps = connect("http://no-such-host.invalid/store")
    assert "as the resolver says" in str(fails(reader))
    assert len(sleeps) == tries - 1


def test_a_server_that_has_answered_is_waited_for(serve: Serve, connect: Connect) -> None:
    """It may be starting again: a node in the middle of a pull does not give up at once."""
    server = serve(Step(reply(404), "close"))
    reader, sleeps = connect(server, attempts=4)
    with pytest.raises(NotFound):
        reader.get(NAME, 0, 10)
    server.close()
    assert "gave up after 4 attempts" in str(fails(reader))
    assert len(sleeps) == 3


def test_waits_grow_and_differ(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(503)] * 40)
    waits = []
    for _ in range(5):
        reader, sleeps = connect(server, attempts=8)
        fails(reader)
        waits.append(sleeps)
    assert len({tuple(sleeps) for sleeps in waits}) == 5
    assert max(max(sleeps) for sleeps in waits) > 2
    assert max(max(sleeps) for sleeps in waits) <= http.MAX_WAIT


def _in_an_hour() -> str:
    return email.utils.formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize(
    ("asks", "least", "most"),
    [
        ("7", 7, 8),
        ("100000", 30, 31),
        ("99999999999999999999", 0, 1),
        (_in_an_hour(), 30, 31),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0, 1),
        ("Mon, 99 Foo 99999999999999 00:00:00 GMT", 0, 1),
        ("-5", 0, 1),
        ("soon", 0, 1),
    ],
)
def test_a_busy_server_is_left_alone(
    asks: str, least: float, most: float, serve: Serve, connect: Connect
) -> None:
    server = serve(reply(503, b"busy", f"Retry-After: {asks}"), part(0, 1000))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 1000) == DATA[:1000]
    assert least <= sleeps[0] <= most
    assert reader.traffic.retries == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 504, 520])
def test_what_may_pass_is_tried_again(status: int, serve: Serve, connect: Connect) -> None:
    server = serve(reply(status), reply(status), part(0, 9), reply(status), reply(200, b"x" * 9))
    reader = connect(server).reader
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.size(NAME) == 9


@pytest.mark.parametrize(
    "status", [101, 103, 204, 300, 304, 400, 401, 403, 405, 451, 501, 505, 999]
)
def test_what_will_not_pass_is_not_tried_again(status: int, serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(status)] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable or status == 999
    assert str(status) in str(error)
    assert server.url in str(error)
    assert "Because" not in str(error)
    assert len(server.requests) == (5 if status == 999 else 1)


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_not_found(status: int, serve: Serve, connect: Connect) -> None:
    reader = connect(serve(*[reply(status)] * 9)).reader
    for action in (lambda: reader.get(NAME, 0, 9), lambda: reader.size(NAME)):
        with pytest.raises(NotFound, match=f"{NAME}.*{status}") as caught:
            action()
        assert caught.value.name == NAME
    assert reader.traffic.retries == 0


def test_long_explanations_are_not_waited_for(serve: Serve, connect: Connect) -> None:
    chunks = reply(404, b"", "Transfer-Encoding: chunked", length=None)
    server = serve(
        Step(reply(404, b"not", length=100_000), "stall"),
        Step(endless(chunks, b"1000\r\n" + bytes(4096) + b"\r\n")),
        part(0, 9),
    )
    reader = connect(server).reader
    for _ in range(2):
        with pytest.raises(NotFound):
            reader.get(NAME, 0, 9)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.traffic.received < 500_000


@pytest.mark.parametrize("status", [204, 304])
def test_bodies_that_can_not_be_are_not_waited_for(
    status: int, serve: Serve, connect: Connect
) -> None:
    server = serve(Step(reply(status, b"", length=100), "stall"))
    assert str(status) in str(fails(connect(server).reader))


def test_attempts_that_bring_a_good_part_do_not_count(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd on a narrow line is cut for slowness again and again, and comes to the end."""
    monkeypatch.setattr(http, "_GOOD_PART", 100)
    steps = [Step(part(start, 1000)[: start - 900], "close") for start in range(0, 900, 100)]
    server = serve(*steps, part(900, 1000))
    assert connect(server, attempts=2).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert len(server.ranges) == 10


def test_attempts_that_bring_next_to_nothing_count(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_GOOD_PART", 101)
    steps = [Step(part(start, 1000)[: start - 900], "close") for start in range(0, 900, 100)]
    assert "gave up after 2 attempts" in str(fails(connect(serve(*steps), attempts=2).reader))


def test_a_line_that_is_too_narrow_gets_fewer_connections(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One less for each that was too slow, never none; and back when all is well."""
    monkeypatch.setattr(http, "_SLOW_SECONDS", 0.0)
    monkeypatch.setattr(http_pool, "WELL", 2)
    server = serve(*[Step(b"", "close")] * 5, *[part(0, 1000)] * 4)
    reader, _ = connect(server, attempts=6, connections=3)
    turns = reader._pool._turns
    assert reader.get(NAME, 0, 1000) == DATA[:1000]
    assert free(turns) == 1
    for count in (2, 2, 3):
        reader.get(NAME, 0, 1000)
        assert free(turns) == count


def test_a_connection_that_is_lent_is_not_lent_again(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pool, "WELL", 3)
    reader, _ = connect(serve(*[part(0, 1000)] * 3), connections=2)
    pool = reader._pool
    for _ in range(2):
        pool._turns.acquire()
    pool.narrow()
    assert free(pool._turns) == 0
    pool._end_turn()
    assert free(pool._turns) == 0
    pool._end_turn()
    assert free(pool._turns) == 1
    pool.narrow()
    for _ in range(3):
        assert free(pool._turns) == 1
        reader.get(NAME, 0, 1000)
    assert free(pool._turns) == 2


def free(turns: threading.Semaphore) -> int:
    """How many turns could be had."""
    count = 0
    while turns.acquire(blocking=False):
        count += 1
    for _ in range(count):
        turns.release()
    return count

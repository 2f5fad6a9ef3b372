"""The limit on how fast is read. Time is made up: it passes by sleeping only."""

from __future__ import annotations

import heapq
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.servers import BadServer, reply

from chunkstore.errors import Usage
from chunkstore.server import running
from chunkstore.storage import conformance
from chunkstore.storage.backends import http, http_pace, open_reader
from chunkstore.storage.backends.http import HttpReader
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.throttle import CREDIT, Throttle, ThrottledReader

PACK = f"packs/{'a' * 64}.pack"


class Clock:
    """Stands still but for sleeping, which takes `late` seconds longer than it should."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 1000.0
        self.slept = 0.0
        self._late = late

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds + self._late

    def throttle(self, rate: float) -> Throttle:
        return Throttle(rate, clock=self, sleep=self.sleep)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# The arithmetic


def test_each_byte_is_paid_for(clock: Clock) -> None:
    throttle = clock.throttle(1000)
    waits = [throttle.pay(count) for count in (100, 1, 0, 899)]
    assert waits == pytest.approx([0.1, 0.001, 0, 0.899])
    assert clock.slept == pytest.approx(1.0)


def test_idling_earns_a_moment_at_most(clock: Clock) -> None:
    throttle = clock.throttle(1000)
    clock.now += 3600
    throttle.pay(1000)
    assert clock.slept == pytest.approx(1 - CREDIT)


def test_sleeping_too_long_is_caught_up_on() -> None:
    clock = Clock(late=0.002)
    throttle = clock.throttle(1_000_000)
    for _ in range(500):
        throttle.pay(throttle.portion)
    assert clock.now - 1000 == pytest.approx(500 * throttle.portion / 1_000_000, abs=CREDIT)


@pytest.mark.parametrize("rate", [1, 20, 16_384, 500_000, 2_000_000, 1e9, 1e12])
def test_portions(rate: float) -> None:
    portion = Throttle(rate).portion
    assert 1024 <= portion <= 64 * 1024
    assert portion <= max(rate / 20, 1024)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_no_rate(rate: float, tmp_path: Path) -> None:
    with pytest.raises(Usage, match="bytes per second"):
        Throttle(rate)
    with pytest.raises(Usage):
        open_reader(str(tmp_path), limit_rate=rate)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([30_000, 500_000, 1_200_000]),
    readers=st.integers(1, 6),
    parts=st.lists(st.floats(0.2, 1), min_size=1, max_size=20),
)
def test_readers_share_the_rate(rate: int, readers: int, parts: list[float]) -> None:
    """Each reads a portion or less, pays, waits, and reads again; for ten seconds."""
    clock = Clock()
    throttle = Throttle(rate, clock=clock, sleep=lambda _: None)
    sizes = (max(int(part * throttle.portion), 1) for part in itertools.cycle(parts))
    awake = [(clock.now, number) for number in range(readers)]
    reads: list[tuple[float, int]] = []
    while awake[0][0] < 1010:
        clock.now, number = heapq.heappop(awake)
        size = next(sizes)
        reads.append((clock.now, size))
        heapq.heappush(awake, (clock.now + throttle.pay(size), number))
    ahead = readers * throttle.portion + CREDIT * rate
    for first in range(0, len(reads), max(len(reads) // 20, 1)):
        total = 0
        for when, size in reads[first:]:
            total += size
            assert total <= rate * (when - reads[first][0]) + ahead + 1
    assert sum(size for _, size in reads) == pytest.approx(10 * rate, rel=0.03, abs=ahead)


# Over HTTP


@pytest.fixture
def pack(tmp_path: Path) -> bytes:
    data = os.urandom(400_000)
    LocalBackend(str(tmp_path)).put(PACK, data)
    return data


def test_a_download_takes_its_time(pack: bytes, tmp_path: Path, clock: Clock) -> None:
    throttle = clock.throttle(50_000)
    with running(tmp_path) as url, closing(HttpReader(url, throttle=throttle)) as reader:
        assert reader.get(PACK, 0, len(pack)) == pack
        assert reader.size(PACK) == len(pack)
        assert clock.slept == pytest.approx(reader.traffic.received / 50_000)
        assert clock.slept > 8


@pytest.mark.parametrize("line", ["", "Transfer-Encoding: chunked", "Connection: close"])
def test_no_gulps(line: str, clock: Clock) -> None:
    data = os.urandom(200_000)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if "chunked" in line else data
    lines = [line] if line else [f"Content-Length: {len(data)}"]
    server = BadServer([reply(200, body, *lines, length=None)])
    throttle = clock.throttle(50_000)
    waits: list[float] = []
    pay = throttle.pay
    throttle.pay = lambda count: waits.append(count) or pay(count)  # type: ignore[method-assign]
    try:
        with closing(HttpReader(server.url, throttle=throttle)) as reader:
            assert reader.get("packs/a", 0, len(data)) == data
            assert sum(waits) == reader.traffic.received
    finally:
        server.close()
    assert max(waits) <= throttle.portion == 2500


def test_a_server_is_not_dropped_for_our_slowness(
    pack: bytes, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An eighth of the pace that servers have to keep: 1000 seconds for this, with 30 of patience.
    class Time:
        monotonic = clock

    monkeypatch.setattr(http_pace, "time", Time)
    throttle = clock.throttle(400)
    with (
        running(tmp_path) as url,
        closing(HttpReader(url, attempts=1, throttle=throttle)) as reader,
    ):
        assert reader.get(PACK, 0, len(pack)) == pack
    assert clock.slept > 900


@pytest.mark.parametrize(("rate", "expected"), [(1, 1), (2.5, 2), (7, 4)])
def test_few_connections_for_a_low_rate(rate: float, expected: int, clock: Clock) -> None:
    server = BadServer([reply(200, b"x" * 1000)] * 60)
    throttle = clock.throttle(rate * http.LEAST_RATE)
    try:
        with (
            closing(HttpReader(server.url, connections=4, throttle=throttle)) as reader,
            ThreadPoolExecutor(8) as threads,
        ):
            list(threads.map(lambda _: reader.get("packs/a", 0, 1000), range(60)))
    finally:
        server.close()
    assert server.connections <= expected


def test_nobody_waits_once_released() -> None:
    throttle = Throttle(1)
    with ThreadPoolExecutor(3) as threads:
        waits = [threads.submit(throttle.pay, 100_000) for _ in range(3)]
        throttle.release()
        for wait in waits:
            wait.result(timeout=60)
    throttle.pay(10**9)


# From a path


@pytest.mark.parametrize("check", conformance.READER_CHECKS, ids=lambda check: check.__name__)
def test_throttled_reader_conforms(check: conformance.ReaderCheck, tmp_path: Path) -> None:
    place = str(tmp_path)
    check(lambda: ThrottledReader(LocalBackend(place), Throttle(1e12)), LocalBackend(place).put)


def test_a_path_is_read_at_the_rate(pack: bytes, tmp_path: Path, clock: Clock) -> None:
    reader = ThrottledReader(LocalBackend(str(tmp_path)), clock.throttle(100_000))
    assert reader.get(PACK, 0, 10**9) == pack
    assert clock.slept == pytest.approx(4.0)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    asked: list[float] = []
    pay = Throttle.pay

    def noted(self: Throttle, count: int) -> float:
        self._sleep = asked.append  # type: ignore[assignment]
        return pay(self, count)

    monkeypatch.setattr(Throttle, "pay", noted)
    return asked


@pytest.mark.parametrize("kind", ["path", "file", "http"])
def test_open_reader_takes_the_limit(
    kind: str, pack: bytes, tmp_path: Path, sleeps: list[float]
) -> None:
    with running(tmp_path) as url:
        where = {"path": str(tmp_path), "file": tmp_path.as_uri(), "http": url}[kind]
        for limit, is_limited in ((None, False), (1000.0, True)):
            with closing(open_reader(where, limit_rate=limit)) as reader:
                assert reader.get(PACK, 0, 5000) == pack[:5000]
            assert bool(sleeps) is is_limited

"""Watching refs: when is applied, how long is waited, what ends it. Time is made up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support import stores
from support.trees import facts

from chunkstore.errors import Corrupt, LocalError, NotFound, TransferError, Untrusted
from chunkstore.objects.names import parse_spec
from chunkstore.server import Access, running
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.storage.backends.http import HttpReader
from chunkstore.storage.backends.memory import FailingBackend, MemoryBackend
from chunkstore.tags import tag
from chunkstore.watch import FIRST_RETRY, INTERVAL, LAST_RETRY, RECHECK, watch

WEB, RACK = layout.ref("web"), layout.ref("rack7")


class _Enough(Exception):
    """The test has seen what it wanted to."""


class Days:
    """Time that passes by sleeping only; `plan` says what happens during each sleep."""

    def __init__(self, *plan: Callable[[], object]) -> None:
        self.plan = list(plan)
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if not self.plan:
            raise _Enough
        self.plan.pop(0)()


def nothing() -> None:
    """A quiet interval."""


class Applied:
    """Counts, and fails as it is told."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


@pytest.fixture
def remote() -> MemoryBackend:
    backend = MemoryBackend()
    backend.put(WEB, b"one")
    backend.put(RACK, b"one")
    return backend


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def follow(remote: object, days: Days, apply: Applied, **options: object) -> list[object]:
    """Watch until the days are over; what was told meanwhile."""
    told: list[object] = []
    settings = {"tell": told.append, "sleep": days.sleep, "chance": middle} | options
    with pytest.raises(_Enough):
        watch(remote, ["web", "rack7"], apply, **settings)
    return told


def test_applied_at_the_start_and_when_a_ref_moves(remote: MemoryBackend) -> None:
    apply = Applied()
    counts = []

    def move(name: str, data: bytes) -> Callable[[], None]:
        def happen() -> None:
            counts.append(apply.calls)
            remote.put(name, data)

        return happen

    days = Days(move(WEB, b"two"), move(WEB, b"two"), move(RACK, b"two"), move(WEB, b"one"))
    assert follow(remote, days, apply) == []
    assert [*counts, apply.calls] == [1, 2, 2, 3, 4]
    assert days.sleeps == [INTERVAL] * 5


def test_a_failed_apply_is_repeated_without_another_move(remote: MemoryBackend) -> None:
    first, second = TransferError("cut"), TransferError("cut again")
    apply = Applied(None, first, second)
    days = Days(lambda: remote.put(WEB, b"two"), *[nothing] * 4)
    assert follow(remote, days, apply) == [first, None]
    assert apply.calls == 4
    assert days.sleeps == [INTERVAL, FIRST_RETRY, 2 * FIRST_RETRY, *[INTERVAL] * 3]


def test_what_is_not_believed_is_waited_for(remote: MemoryBackend) -> None:
    """The next ref may be good: a node that gave up would have to be started again by hand."""
    refused = Untrusted("has expired")
    apply = Applied(None, refused, refused)
    days = Days(lambda: remote.put(WEB, b"two"), *[nothing] * 4)
    assert follow(remote, days, apply) == [refused, None]
    assert days.sleeps == [INTERVAL, FIRST_RETRY, 2 * FIRST_RETRY, *[INTERVAL] * 3]


def test_applied_now_and_then_though_nothing_moves(remote: MemoryBackend) -> None:
    """That a ref has expired is seen by nothing that moves."""
    refused = Untrusted("has expired")
    apply = Applied(None, refused, refused)
    told = follow(remote, Days(*[nothing] * 12), apply, interval=RECHECK / 4)
    assert told == [refused, None]
    assert apply.calls == 5


def test_a_failed_first_apply_is_repeated(remote: MemoryBackend) -> None:
    apply = Applied(TransferError("cut"))
    follow(remote, Days(nothing, nothing), apply)
    assert apply.calls == 2


def test_a_move_is_not_forgotten_when_the_next_poll_fails(remote: MemoryBackend) -> None:
    failing = FailingBackend(remote)
    apply = Applied()

    def move_and_cut() -> None:
        remote.put(WEB, b"two")
        failing.after = failing.calls + 1

    days = Days(move_and_cut, lambda: setattr(failing, "after", None), nothing)
    told = follow(failing, days, apply)
    assert [type(item) for item in told] == [TransferError, type(None)]
    assert apply.calls == 2


def test_an_outage_is_told_once_and_waits_grow_up_to_a_bound(remote: MemoryBackend) -> None:
    failing = FailingBackend(remote, after=0)
    apply = Applied()
    days = Days(*[nothing] * 11, lambda: setattr(failing, "after", None), nothing)
    told = follow(failing, days, apply)
    assert [type(item) for item in told] == [TransferError, type(None)]
    assert days.sleeps == [10, 20, 40, 80, 160, 320, 640, *[LAST_RETRY] * 5, INTERVAL, INTERVAL]
    assert apply.calls == 1


def test_each_outage_is_told(remote: MemoryBackend) -> None:
    failing = FailingBackend(remote, after=0)

    def cut() -> None:
        failing.after = 0

    def mend() -> None:
        failing.after = None

    told = follow(failing, Days(mend, cut, mend, nothing), Applied())
    assert [item is None for item in told] == [False, True, False, True]


def test_an_interval_longer_than_the_bound_is_the_bound(remote: MemoryBackend) -> None:
    days = Days(*[nothing] * 2000)
    follow(FailingBackend(remote, after=0), days, Applied(), interval=7200.0)
    assert days.sleeps[-1] == max(days.sleeps) == 7200


def test_waits_differ_by_chance(remote: MemoryBackend) -> None:
    waits = []
    for seed in range(5):
        days = Days(*[nothing] * 200)
        follow(remote, days, Applied(), chance=random.Random(seed).uniform)
        waits.append(days.sleeps)
    assert len({tuple(sleeps) for sleeps in waits}) == 5
    flat = [wait for sleeps in waits for wait in sleeps]
    assert 0.5 * INTERVAL <= min(flat) < 0.6 * INTERVAL
    assert 1.4 * INTERVAL < max(flat) <= 1.5 * INTERVAL
    assert 0.9 * INTERVAL < sum(flat) / len(flat) < 1.1 * INTERVAL


@pytest.mark.parametrize("error", [Corrupt("bad"), LocalError("full"), NotFound("gone"), OSError()])
def test_other_failures_end_it(error: Exception, remote: MemoryBackend) -> None:
    days = Days(lambda: remote.put(WEB, b"two"), nothing)
    with pytest.raises(type(error)) as caught:
        watch(remote, ["web"], Applied(None, error), sleep=days.sleep)
    assert caught.value is error


def test_an_image_that_is_gone_is_for_apply_to_tell(remote: MemoryBackend) -> None:
    days = Days(lambda: remote.delete(WEB), nothing)
    with pytest.raises(NotFound, match="said well"):
        watch(remote, ["web", "rack7"], Applied(None, NotFound("said well")), sleep=days.sleep)


def test_an_image_that_was_gone_for_a_moment(remote: MemoryBackend) -> None:
    # Back with what it held before: whether that is installed only `apply` can know.
    apply = Applied()
    days = Days(lambda: remote.delete(WEB), lambda: remote.put(WEB, b"one"), nothing, nothing)
    follow(remote, days, apply)
    assert apply.calls == 3


# In earnest: a store, our server, and pulls


@pytest.fixture
def fleet(place: Path) -> Iterator[tuple[stores.Store, Path]]:
    tree = place / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/motd").write_text("one\n")
    store = stores.make_store(place / "store")
    stores.record(store, tree)
    yield store, tree
    store.backend.close()


def test_a_node_follows_its_image_over_http(place: Path, fleet: tuple[stores.Store, Path]) -> None:
    store, tree = fleet
    node = place / "node"
    accesses: list[Access] = []
    states: list[bool] = []

    def look(act: Callable[[], object] = nothing) -> Callable[[], None]:
        def happen() -> None:
            states.append(facts(node) == facts(tree))
            act()

        return happen

    def edit() -> None:
        (tree / "etc/motd").write_text("two, longer\n")
        stores.record(store, tree)

    def go_back() -> None:
        tag(store, parse_spec("web~1"), "latest", now=time.time_ns())

    days = Days(look(), look(edit), look(), look(go_back), look())
    with (
        running(Path(store.root), on_request=accesses.append) as url,
        closing(open_reader(url)) as reader,
        pytest.raises(_Enough),
    ):
        watch(reader, ["web"], lambda: stores.bring(reader, "web", node), sleep=days.sleep)
    deadline = time.monotonic() + 20
    polls: list[int] = []
    while len(polls) < 9 and time.monotonic() < deadline:
        polls = [access.status for access in accesses if access.path == f"/{WEB}"]
    # One poll an interval; after each that brings something, the pull asks for itself.
    assert [status for status in polls if status == 304] == [304] * 3
    assert len(polls) == 9
    assert states == [True, True, True, True, False]


def test_a_node_waits_for_its_server_to_come_back(
    place: Path, fleet: tuple[stores.Store, Path]
) -> None:
    store, tree = fleet
    node = place / "node"
    told: list[TransferError | None] = []
    with running(Path(store.root)) as url:
        pass
    port = int(url.rpartition(":")[2])

    servers = ExitStack()

    def come_back() -> None:
        servers.enter_context(running(Path(store.root), port=port))
        days.plan = [servers.close]

    days = Days(nothing, come_back)
    with servers, closing(HttpReader(url, attempts=1)) as reader, pytest.raises(_Enough):
        watch(
            reader,
            ["web"],
            lambda: stores.bring(reader, "web", node),
            tell=told.append,
            sleep=days.sleep,
        )
    assert [isinstance(item, TransferError) for item in told] == [True, False, True]
    assert facts(node) == facts(tree)

"""A file system mounted inside the tree: it has its own journal, and its own full disk.

Nothing can be renamed into it, and making the tree's own file system durable says nothing of it.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support import disks, strace
from support.disks import WITHOUT_DATA, WITHOUT_LOG, needs_disks
from support.rigs import Rig, side_by_side
from support.strace import BEFORE, Fault, needs_strace
from support.updates import JOURNALLED

pytestmark = needs_disks

INNER = "usr"
"""What of the tree is a file system of its own."""


class Pair:
    """Two disks of a rig: the node's, and one with a part of the node that is mounted there."""

    def __init__(self, rig: Rig, place: Path) -> None:
        self.rig = rig
        self._place = place
        self._outer = rig.fresh_disk().rename(place / "outer")
        self._inner = disks.copy_disk(rig.empty, place / "inner")
        aside = place / "aside"
        with rig.mounted(self._outer) as node, self._mounted(self._inner, aside) as inner:
            if (inner / "lost+found").exists():
                (inner / "lost+found").rmdir()
            subprocess.run(["cp", "-a", f"{node / INNER}/.", str(inner)], check=True)
            subprocess.run(["rm", "-r", *map(str, (node / INNER).iterdir())], check=True)

    def _mounted(self, disk: Path, at: Path) -> AbstractContextManager[Path]:
        return self.rig.mounts.mounted(disk, at, self.rig.kind)

    def fresh(self) -> tuple[Path, Path]:
        """Copies of both."""
        return (
            disks.copy_disk(self._outer, self._place / "outer trial"),
            disks.copy_disk(self._inner, self._place / "inner trial"),
        )

    @contextmanager
    def mounted(self, pair: tuple[Path, Path]) -> Iterator[Path]:
        outer, inner = pair
        with self.rig.mounted(outer) as node, self._mounted(inner, self.rig.node / INNER):
            yield node


@pytest.fixture
def pairs(rigs: list[Rig], quick: Path) -> list[Pair]:
    made = []
    for rig in rigs:
        place = quick / rig.kind
        place.mkdir()
        made.append(Pair(rig, place))
    return made


def test_an_update_across_file_systems(pairs: list[Pair]) -> None:
    for pair in pairs:
        with pair.mounted(pair.fresh()) as node:
            assert pair.rig.program.run(*pair.rig.pull).code == 0
            assert pair.rig.update.is_new(node) == []


def kill_across(pairs: list[Pair], *, step: int) -> None:
    """Kill the update before each of its changing calls, or before some."""
    by_kind = {pair.rig.kind: pair for pair in pairs}

    def tasks(number: int, pair: Pair) -> list[Fault]:
        with pair.mounted(pair.fresh()) as node:
            ended, lines = strace.record(pair.rig.program, *pair.rig.pull)
            assert ended.code == 0, ended.err
            assert pair.rig.update.is_new(node) == []
        calls = strace.changing_calls(lines, pair.rig.node)
        return [Fault(BEFORE, call) for call in calls][number * step // len(pairs) :: step]

    def work(rig: Rig, fault: Fault) -> list[str]:
        pair = by_kind[rig.kind]
        with pair.mounted(pair.fresh()) as node:
            outcome = strace.trial(rig.program, fault, *rig.pull)
            return rig.judged(outcome.ended, node, points=[INNER])

    side_by_side(
        [pair.rig for pair in pairs], list(itertools.starmap(tasks, enumerate(pairs))), work
    )


@needs_strace
@pytest.mark.skipif(not JOURNALLED, reason="what was to be renamed on the other one is left there")
def test_an_update_across_file_systems_killed_at_some_calls(pairs: list[Pair]) -> None:
    kill_across(pairs, step=16)


@needs_strace
@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.skipif(not JOURNALLED, reason="what was to be renamed on the other one is left there")
def test_an_update_across_file_systems_killed_at_every_call(pairs: list[Pair]) -> None:
    kill_across(pairs, step=1)


@needs_strace
def test_killed_before_a_mount_point_has_its_time_again(pairs: list[Pair]) -> None:
    """The state is old and says nothing, so it is what is swept next that mends it."""
    for pair in pairs:
        rig = pair.rig
        with pair.mounted(pair.fresh()) as node:
            _, lines = strace.record(rig.program, *rig.pull)
            inside = str(rig.node / INNER)
            [made] = [n for n, line in enumerate(lines) if "mkdirat" in line and inside in line]
            calls = strace.changing_calls(lines[: made + 2], rig.node)
            fault = Fault(BEFORE, calls[-1])
        with pair.mounted(pair.fresh()) as node:
            before = (node / INNER).stat().st_mtime_ns
            outcome = strace.trial(rig.program, fault, *rig.pull)
            assert outcome.ended.killed
            assert "utimensat" in outcome.struck
            assert (node / INNER).stat().st_mtime_ns != before, "a time is all that tells"
            assert rig.update.is_lawful(node, rig.node, rig.program, points=[INNER]) == []

            assert rig.program.run("recover", rig.node).code == 0

            assert (node / INNER).stat().st_mtime_ns == before
            assert rig.update.is_lawful(node, rig.node, rig.program) == []
            assert not list((node / INNER).glob(".imgstore*"))


def cut_both(pairs: list[Pair], number: int, seed: int) -> None:
    """Cut the power of both disks, half of the time when the pull said that it was done."""
    whole = {}
    for pair in pairs:
        with pair.mounted(pair.fresh()):
            start = time.monotonic()
            assert pair.rig.program.run(*pair.rig.pull).code == 0
            whole[pair.rig.kind] = time.monotonic() - start
    by_kind = {pair.rig.kind: pair for pair in pairs}

    def work(rig: Rig, count: int) -> list[str]:
        chance = random.Random(repr((seed, rig.kind, count)))
        pair = by_kind[rig.kind]
        both = pair.fresh()
        with pair.mounted(both) as node:
            rig.program.start(*rig.pull)
            if count % 2:
                ended = rig.program.ended()
            else:
                time.sleep(chance.uniform(0, 1.1 * whole[rig.kind]))
            points = [node, node / INNER]
            for point in chance.sample(points, 2):
                disks.cut_power(point, chance.choice([WITHOUT_LOG, WITHOUT_DATA]))
            if not count % 2:
                ended = rig.program.ended()
        with pair.mounted(both) as node:
            wrong = rig.judged(ended, node, points=[INNER])
            for point in points:
                disks.cut_power(point, WITHOUT_LOG)
        if wrong:
            return wrong
        with pair.mounted(both) as node:
            lost = rig.update.is_new(node)
        return ["after a cut when it was done:", *lost] if lost else []

    rigs = [pair.rig for pair in pairs]
    side_by_side(rigs, [range(number) for _ in rigs], work)


@pytest.mark.skipif(not JOURNALLED, reason="what is mounted inside is not made durable yet")
def test_an_update_across_file_systems_without_power(pairs: list[Pair]) -> None:
    cut_both(pairs, 10, 1)


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.skipif(not JOURNALLED, reason="what is mounted inside is not made durable yet")
def test_an_update_across_file_systems_without_power_for_long(pairs: list[Pair]) -> None:
    cut_both(pairs, 500, 2)

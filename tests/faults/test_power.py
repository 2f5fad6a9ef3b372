"""Power cuts: the disk stops in the middle of a pull or a commit, and forgets what was not durable.

Real file systems are shut down as they run, and mounted again. Then the tree is old, new or
marked as in between, and running the pull again, or recovering, gives the new one; and what a
command said was done is there after the next cut.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import disks, strace, trees, updates
from support.disks import WITHOUT_DATA, WITHOUT_LOG, needs_disks
from support.program import Ended
from support.rigs import Rig, side_by_side
from support.strace import AFTER, Fault, needs_strace
from support.updates import JOURNALLED

pytestmark = needs_disks

CUTS = 60
"""Cuts on each file system in the everyday run."""
LONG = int(os.environ.get("IMGSTORE_TEST_CUTS", "1000"))
"""The same in a campaign."""


@dataclass(frozen=True)
class Cut:
    """When the power goes and what is lost; in parts of the time that a whole pull takes.

    A `neighbour` that waits for the disk just before takes the journal along with it, though not
    the data. Without a `moment` the power goes when the command has said that it is done.
    """

    moment: float | None
    how: int
    neighbour: float | None = None


def cuts(number: int, seed: object) -> Iterator[Cut]:
    """Cuts at random, every tenth when all is done."""
    chance = random.Random(repr(seed))
    for count in range(number):
        moment = None if count % 10 == 9 else chance.uniform(0, 1.1)
        how = WITHOUT_DATA if count % 3 == 0 else WITHOUT_LOG
        neighbour = chance.uniform(0, moment) if moment is not None and count % 3 == 1 else None
        yield Cut(moment, how, neighbour)


def cut_off(rig: Rig, whole: float, cut: Cut, *arguments: object) -> Ended:
    """Run a command on the mounted disk until the power goes; how it ended."""
    top = rig.mounts.seen(rig.top)
    start = time.monotonic()
    rig.program.start(*arguments)
    if cut.neighbour is not None:
        _sleep_until(start + cut.neighbour * whole)
        _wait_for_disk(top / "neighbour")
    if cut.moment is not None:
        _sleep_until(start + cut.moment * whole)
        disks.cut_power(top, cut.how)
        return rig.program.ended()
    ended = rig.program.ended()
    disks.cut_power(top, cut.how)
    return ended


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _wait_for_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b"!")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Updates


def duration(rig: Rig) -> float:
    """Seconds that a whole update takes."""
    with rig.trial():
        start = time.monotonic()
        assert rig.program.run(*rig.pull).code == 0
        return time.monotonic() - start


def after_the_cut(rig: Rig, disk: Path, ended: Ended) -> list[str]:
    """Switch the disk on again: judge what is there, finish it, and cut the power once more."""
    with rig.mounted(disk) as seen:
        wrong = rig.judged(ended, seen)
        disks.cut_power(seen, WITHOUT_LOG)
    if wrong:
        return wrong
    with rig.mounted(disk) as seen:
        lost = rig.update.is_new(seen)
        if JOURNALLED and not lost and updates.is_pending(rig.node, rig.program):
            lost = ["it is pending"]
    return ["after a cut when it was done:", *lost] if lost else []


def cut_updates(rigs: list[Rig], number: int, seed: int) -> None:
    whole = {rig.kind: duration(rig) for rig in rigs}
    done: list[int] = []

    def work(rig: Rig, cut: Cut) -> list[str]:
        disk = rig.fresh_disk()
        with rig.mounted(disk):
            ended = cut_off(rig, whole[rig.kind], cut, *rig.pull)
        done.append(ended.code)
        return after_the_cut(rig, disk, ended)

    tasks = [cuts(number, (seed, rig.kind)) for rig in rigs]
    side_by_side(rigs, tasks, work)
    # Most must have come in the middle, else the test shows little.
    assert sum(code != 0 for code in done) > len(done) / 3


def test_an_update_without_power(rigs: list[Rig]) -> None:
    cut_updates(rigs, CUTS, 1)


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_an_update_without_power_for_long(rigs: list[Rig]) -> None:
    cut_updates(rigs, LONG, 2)


def cut_at_calls(rigs: list[Rig], *, step: int) -> None:
    """Stop the disk right after each changing call, or after some."""

    def tasks(rig: Rig, first: int) -> list[tuple[Fault, int]]:
        with rig.trial():
            _, lines = strace.record(rig.program, *rig.pull)
        faults = [Fault(AFTER, call) for call in strace.changing_calls(lines, rig.node)]
        return list(itertools.product(faults, (WITHOUT_LOG, WITHOUT_DATA)))[first::step]

    def work(rig: Rig, task: tuple[Fault, int]) -> list[str]:
        fault, how = task
        disk = rig.fresh_disk()
        with rig.mounted(disk) as seen:
            strike = lambda: disks.cut_power(seen, how)  # noqa: E731
            outcome = strace.trial(rig.program, fault, *rig.pull, strike=strike)
        return after_the_cut(rig, disk, outcome.ended)

    starts = [number * step // len(rigs) for number in range(len(rigs))]
    side_by_side(rigs, list(map(tasks, rigs, starts)), work)


@needs_strace
def test_an_update_without_power_after_some_calls(rigs: list[Rig]) -> None:
    cut_at_calls(rigs, step=19)


@needs_strace
@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_an_update_without_power_after_every_call(rigs: list[Rig]) -> None:
    cut_at_calls(rigs, step=1)


# First installations


def cut_installations(rigs: list[Rig], number: int, seed: int) -> None:
    def install(rig: Rig) -> tuple[str, ...]:
        return rig.update.first_pull(rig.node)

    def on_empty_disk(rig: Rig) -> Path:
        return disks.copy_disk(rig.empty, rig.empty.with_name("trial"))

    def duration(rig: Rig) -> float:
        with rig.mounted(on_empty_disk(rig)):
            start = time.monotonic()
            assert rig.program.run(*install(rig)).code == 0
            return time.monotonic() - start

    whole = {rig.kind: duration(rig) for rig in rigs}

    def work(rig: Rig, cut: Cut) -> list[str]:
        disk = on_empty_disk(rig)
        with rig.mounted(disk):
            ended = cut_off(rig, whole[rig.kind], cut, *install(rig))
        with rig.mounted(disk) as seen:
            wrong = _left_by_installation(rig, seen, ended)
            again = rig.program.run(*install(rig))
            if not wrong and again.code:
                wrong = [f"run again: exit code {again.code}: {again.err}"]
            wrong = wrong or rig.update.is_whole(seen)
            disks.cut_power(seen.parent, WITHOUT_LOG)
        if wrong:
            return wrong
        with rig.mounted(disk) as seen:
            return rig.update.is_whole(seen)

    side_by_side(rigs, [cuts(number, (seed, rig.kind)) for rig in rigs], work)


def _left_by_installation(rig: Rig, seen: Path, ended: Ended) -> list[str]:
    if ended.code == 0:
        return rig.update.is_whole(seen)
    is_empty = not seen.exists() or not [name for name in os.listdir(seen) if name != ".imgstore"]
    if is_empty or updates.is_pending(rig.node, rig.program):
        return []
    return rig.update.is_whole(seen)


def test_a_first_installation_without_power(rigs: list[Rig]) -> None:
    cut_installations(rigs, CUTS // 4, 3)


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_a_first_installation_without_power_for_long(rigs: list[Rig]) -> None:
    cut_installations(rigs, LONG // 4, 4)


# Commits


class Committing:
    """A store on a disk whose power is cut, again and again, while a tree is committed to it."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self._chance = random.Random(repr((seed, rig.kind)))
        self._place = rig.empty.with_name("commits")
        self._place.mkdir()
        self.tree = self._place / "tree"
        self.tree.mkdir()
        self.disk = disks.copy_disk(rig.empty, self._place / "disk")
        self.store = rig.top / "store"
        self.acknowledged: list[str] = []
        """Versions in the order they were recorded, those included that came through unseen."""
        self._trees: dict[str, dict[bytes, trees.Facts]] = {}
        self._whole = 0.1

    def edit(self) -> None:
        for _ in range(5):
            path = self.tree / f"{self._chance.randrange(12)}"
            path.write_bytes(self._chance.randbytes(self._chance.randrange(60_000)))
        (self.tree / f"link {self._chance.randrange(1_000_000)}").symlink_to("nowhere")

    def run(self, *arguments: object) -> Ended:
        return self.rig.program.run("--store", self.store, "--json", *arguments)

    @property
    def commit(self) -> tuple[object, ...]:
        return ("--store", self.store, "--json", "commit", "web", self.tree)

    def round(self, cut: Cut) -> list[str]:
        """Cut one commit off, look, commit again, cut the power when that is done, look."""
        self.edit()
        with self.rig.mounted(self.disk):
            start = time.monotonic()
            ended = cut_off(self.rig, self._whole, cut, *self.commit)
            if cut.moment is None:
                self._whole = time.monotonic() - start
        wrong = self._look(ended)
        if wrong:
            return wrong
        self.edit()
        with self.rig.mounted(self.disk):
            again = cut_off(self.rig, self._whole, Cut(None, WITHOUT_LOG), *self.commit)
        if again.code:
            return [f"run again: exit code {again.code}: {again.err}"]
        return self._look(again)

    def _look(self, ended: Ended) -> list[str]:
        if ended.code == 0:
            self._acknowledge(ended.document["version"])
        with self.rig.mounted(self.disk):
            wrong = self._versions(ended)
            if wrong or not self.acknowledged:
                return wrong
            verified = self.run("verify")
            if verified.code:
                return [f"verify: exit code {verified.code}: {verified.out}{verified.err}"]
            return self._checked_out()

    def _acknowledge(self, version: str) -> None:
        self.acknowledged.append(version)
        self._trees[version] = trees.facts(self.tree)

    def _versions(self, ended: Ended) -> list[str]:
        logged = self.run("log", "web")
        if logged.code == 3 and not self.acknowledged:
            return []
        if logged.code:
            return [f"log: exit code {logged.code}: {logged.err}"]
        there = [version["version"] for version in reversed(logged.document["versions"])]
        if ended.code and there[:-1] == self.acknowledged:
            # Durable, though the power went before that could be said.
            self._acknowledge(there[-1])
        if there != self.acknowledged:
            return [f"there are {there}, recorded were {self.acknowledged}"]
        return []

    def _checked_out(self) -> list[str]:
        copy = self._place / "copy"
        trees.remove_tree(copy)
        done = self.run("checkout", "web", copy)
        if done.code:
            return [f"checkout: exit code {done.code}: {done.err}"]
        return trees.differences(trees.facts(copy), self._trees[self.acknowledged[-1]])

    def close(self) -> None:
        shutil.rmtree(self._place)


def cut_commits(rigs: list[Rig], number: int, seed: int) -> None:
    def work(rig: Rig, _: None) -> list[str]:
        committing = Committing(rig, seed)
        try:
            for cut in cuts(number, (seed, rig.kind)):
                wrong = committing.round(cut)
                if wrong:
                    return [f"{cut}:", *wrong]
        finally:
            committing.close()
        assert len(committing.acknowledged) >= number
        return []

    side_by_side(rigs, [[None] for _ in rigs], work)


def test_commits_without_power(rigs: list[Rig]) -> None:
    cut_commits(rigs, CUTS // 3, 5)


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_commits_without_power_for_long(rigs: list[Rig]) -> None:
    cut_commits(rigs, LONG // 2, 6)

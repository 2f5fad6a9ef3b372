"""A fault at every system call of an update that changes something, injected from outside.

Kills before and after the call, and errors instead of it. Afterwards the tree is old, new or
marked as in between, and running the pull again gives the new tree; a pull that said it was done
was. Whether strace strikes where it should is checked as well.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest
from support import strace, updates
from support.disks import needs_disks
from support.rigs import Rig, side_by_side
from support.strace import AFTER, BEFORE, Call, Fault, needs_strace

pytestmark = [needs_disks, needs_strace]

ERRORS = ("EIO", "ENOSPC")
ERROR_CODES = (7,)
KINDS = {"renameat", "unlinkat", "mkdirat", "linkat", "symlinkat", "mknodat", "fchmod", "fchown"}
KINDS |= {"utimensat", "fsetxattr", "fremovexattr", "ioctl", "ftruncate", "write", "openat"}


def calls_of(rig: Rig) -> list[Call]:
    """All calls of the update that change something."""
    with rig.trial() as seen:
        ended, lines = strace.record(rig.program, *rig.pull)
        assert ended.code == 0, ended.err
        assert rig.update.is_new(seen) == []
    return strace.changing_calls(lines, rig.node)


def some_of(calls: Iterable[Call], each: int) -> list[Call]:
    """Of each name the first, the last and some in the middle: at most `each`."""
    named: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        named[call.name].append(call)
    chosen = []
    for same in named.values():
        steps = min(each, len(same)) - 1
        places = {round(step * (len(same) - 1) / max(1, steps)) for step in range(steps + 1)}
        chosen += [same[place] for place in sorted(places)]
    return chosen


def dealt(faults: Sequence[list[Fault]]) -> list[list[Fault]]:
    """About half of the faults for each file system."""
    for own in faults:
        random.Random(1).shuffle(own)
    return [own[number :: len(faults)] for number, own in enumerate(faults)]


class Strikes:
    """Counts how many faults struck a call that changes something."""

    def __init__(self) -> None:
        self.all = self.struck = 0

    def note(self, struck: str, rig: Rig) -> None:
        self.all += 1
        self.struck += strace.is_change(struck, rig.node)

    def check(self) -> None:
        # Threads may share their work in another way than when the calls were recorded.
        assert self.struck >= 0.95 * self.all, f"{self.struck} of {self.all} faults struck"


def kill_at(rigs: list[Rig], faults: list[list[Fault]]) -> None:
    strikes = Strikes()

    def work(rig: Rig, fault: Fault) -> list[str]:
        with rig.trial() as seen:
            outcome = strace.trial(rig.program, fault, *rig.pull)
            strikes.note(outcome.struck, rig)
            if not outcome.ended.killed and outcome.ended.code:
                return [f"exit code {outcome.ended.code}: {outcome.ended.err}"]
            return rig.judged(outcome.ended, seen)

    side_by_side(rigs, faults, work)
    strikes.check()


def fail_at(rigs: list[Rig], faults: list[list[Fault]]) -> None:
    strikes = Strikes()

    def work(rig: Rig, fault: Fault) -> list[str]:
        with rig.trial() as seen:
            outcome = strace.trial(rig.program, fault, *rig.pull)
            strikes.note(outcome.struck, rig)
            ended = outcome.ended
            wrong = []
            if ended.code not in (0, *ERROR_CODES):
                wrong.append(f"exit code {ended.code}")
            if ended.code and (not updates.is_one_line(ended.err) or "fault in" in ended.err):
                wrong.append(f"stderr: {ended.err}")
            return [*wrong, *rig.judged(ended, seen)]

    side_by_side(rigs, faults, work)
    strikes.check()


def test_the_update_has_a_call_of_every_kind(rigs: list[Rig]) -> None:
    for rig in rigs:
        calls = calls_of(rig)
        assert {call.name for call in calls} >= KINDS, rig.kind
        assert len(calls) > 150


def test_the_update_is_right_by_the_word_of_rsync(rigs: list[Rig]) -> None:
    for rig in rigs:
        with rig.trial():
            assert rig.program.run(*rig.pull).code == 0
            assert updates.is_like(rig.node, rig.update.wanted, rig.program) == []


def test_killed_at_some_calls(rigs: list[Rig]) -> None:
    faults = [
        [Fault(what, call) for call in some_of(calls_of(rig), 4) for what in (BEFORE, AFTER)]
        for rig in rigs
    ]
    kill_at(rigs, dealt(faults))


def test_errors_at_some_calls(rigs: list[Rig]) -> None:
    faults = [
        [Fault(what, call) for call in some_of(calls_of(rig), 3) for what in ERRORS] for rig in rigs
    ]
    fail_at(rigs, dealt(faults))


def test_killed_when_started_by_a_shell(rigs: list[Rig]) -> None:
    """The same without the means that make it quick: a whole interpreter for each."""

    def work(rig: Rig, call: Call) -> list[str]:
        with rig.trial() as seen:
            outcome = strace.killed_from_start(rig.program, call, *rig.pull)
            if not outcome.ended.killed:
                return [f"was not killed: {outcome.ended}"]
            return rig.judged(outcome.ended, seen)

    def tasks(rig: Rig) -> list[Call]:
        calls = calls_of(rig)
        names = ("renameat", "unlinkat", "mkdirat", "fchown", "utimensat", "fdatasync", "syncfs")
        return [call for call in some_of(calls, 3)[1::2] if call.name in names and not call.file]

    side_by_side(rigs, list(map(tasks, rigs)), work)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", [BEFORE, AFTER])
def test_killed_at_every_call(rigs: list[Rig], what: str) -> None:
    kill_at(rigs, [[Fault(what, call) for call in calls_of(rig)] for rig in rigs])


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("what", ERRORS)
def test_errors_at_every_call(rigs: list[Rig], what: str, lasting: bool) -> None:
    def faults(rig: Rig) -> list[Fault]:
        # A lasting error of `write` would keep the program from saying anything.
        calls = [call for call in calls_of(rig) if not lasting or call.name != "write"]
        return [Fault(what, call, lasting) for call in calls]

    fail_at(rigs, list(map(faults, rigs)))

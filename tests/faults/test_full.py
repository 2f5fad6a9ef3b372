"""Full disks: a pull runs out of room at every point it can, and says so.

Afterwards the tree is old, or marked as in between, and when there is room again the pull is
finished as if nothing had happened. Checks that look for room beforehand stop the worst; what is
tried here is the rest as well, where the room was only just not enough.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import disks, trees, updates
from support.disks import needs_disks
from support.program import Ended
from support.rigs import Rig, side_by_side
from support.updates import JOURNALLED

pytestmark = needs_disks

FILLER = "filler"


def fill(top: Path, room: int) -> None:
    """Leave about so many bytes free on a file system."""
    status = os.statvfs(top)
    size = status.f_bavail * status.f_frsize - room
    descriptor = os.open(top / FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while size > 0:
            try:
                os.posix_fallocate(descriptor, 0, size)
                break
            except OSError:
                # It needs room for its own list of extents as well.
                os.ftruncate(descriptor, 0)
                size -= 64 << 10
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def room_of(rig: Rig, *arguments: str, disk: Path) -> int:
    """How many bytes are surely enough for a pull."""
    with rig.mounted(disk) as seen:
        before = os.statvfs(seen.parent)
        assert rig.program.run(*arguments).code == 0
        os.sync()
        after = os.statvfs(seen.parent)
    # What was needed in between was not more than twice that.
    return 2 * (before.f_bavail - after.f_bavail) * before.f_frsize + (1 << 20)


def complaints(ended: Ended) -> list[str]:
    """What is wrong with how a pull ended that may have had too little room."""
    if ended.code == 0 or (ended.code == 7 and updates.is_one_line(ended.err)):
        return []
    return [f"exit code {ended.code}: {ended.err}"]


def steps(room: int, number: int) -> list[int]:
    """Amounts of room from nothing to enough, closer to each other where there is little."""
    return [round(room * (count / number) ** 2) for count in range(number + 1)]


def full_updates(rigs: list[Rig], number: int) -> None:
    codes: list[int] = []

    def work(rig: Rig, room: int) -> list[str]:
        with rig.trial() as seen:
            fill(seen.parent, room)
            ended = rig.program.run(*rig.pull)
            codes.append(ended.code)
            (seen.parent / FILLER).unlink()
            return complaints(ended) or rig.judged(ended, seen)

    tasks = [steps(room_of(rig, *rig.pull, disk=rig.fresh_disk()), number) for rig in rigs]
    side_by_side(rigs, tasks, work)
    assert set(codes) == {0, 7}


def test_an_update_of_a_full_disk(rigs: list[Rig]) -> None:
    full_updates(rigs, 15)


@pytest.mark.skipif(
    not JOURNALLED, reason="a signal ends a pull that finds no room for shared memory"
)
def test_an_update_of_a_full_disk_with_small_blocks(quick: Path) -> None:
    """Where a page is more than a block, a page that was written to once may still have holes."""
    with Rig(quick / "rig", "ext4", "-b", "1024") as rig:
        full_updates([rig], 15)


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_an_update_of_a_full_disk_in_small_steps(rigs: list[Rig]) -> None:
    full_updates(rigs, 500)


def full_installations(rigs: list[Rig], number: int) -> None:
    codes: list[int] = []

    def work(rig: Rig, room: int) -> list[str]:
        install = rig.update.first_pull(rig.node)
        with rig.mounted(on_empty_disk(rig)) as seen:
            fill(seen.parent, room)
            ended = rig.program.run(*install)
            codes.append(ended.code)
            wrong = complaints(ended)
            if ended.code == 0:
                wrong = wrong or rig.update.is_whole(seen)
            (seen.parent / FILLER).unlink()
            again = rig.program.run(*install)
            if again.code and not wrong:
                wrong = [f"run again: exit code {again.code}: {again.err}"]
            return wrong or rig.update.is_whole(seen)

    def enough(rig: Rig) -> int:
        install = rig.update.first_pull(rig.node)
        return room_of(rig, *install, disk=on_empty_disk(rig))

    side_by_side(rigs, [steps(enough(rig), number) for rig in rigs], work)
    assert set(codes) == {0, 7}


def on_empty_disk(rig: Rig) -> Path:
    return disks.copy_disk(rig.empty, rig.empty.with_name("trial"))


def test_a_first_installation_on_a_full_disk(rigs: list[Rig]) -> None:
    full_installations(rigs, 10)


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_a_first_installation_on_a_full_disk_in_small_steps(rigs: list[Rig]) -> None:
    full_installations(rigs, 500)


# In memory, where bytes and inodes are counted one by one


def short_of(rig: Rig, seen: Path, *, pages: int | None = None, inodes: int | None = None) -> None:
    """Let the tmpfs that holds the node have only so much left."""
    status = os.statvfs(seen)
    size = (status.f_blocks - status.f_bavail + pages) * status.f_frsize if pages else 32 << 20
    paths = status.f_files - status.f_ffree + inodes if inodes is not None else 100_000
    rig.mounts.mount_memory(rig.top, f"size={size},nr_inodes={paths}")


def short_updates(rigs: list[Rig], tasks: Sequence[dict[str, int]]) -> None:
    codes: list[int] = []

    def work(rig: Rig, shortage: dict[str, int]) -> list[str]:
        with rig.in_memory("size=32m,nr_inodes=100000") as seen:
            if trees.differences(trees.facts(seen), rig.update.old):
                pytest.skip("a tmpfs that can't hold all of the node")
            short_of(rig, seen, **shortage)
            ended = rig.program.run(*rig.pull)
            codes.append(ended.code)
            wrong = complaints(ended)
            rig.mounts.mount_memory(rig.top, "size=32m,nr_inodes=100000")
            return wrong or rig.judged(ended, seen)

    side_by_side(rigs, [tasks[number :: len(rigs)] for number in range(len(rigs))], work)
    assert set(codes) == {0, 7}


@pytest.mark.parametrize("thing", ["pages", "inodes"])
def test_an_update_with_few_of(rigs: list[Rig], thing: str) -> None:
    most = {"pages": 300, "inodes": 60}[thing]
    short_updates(rigs, [{thing: count} for count in range(1, most, most // 30)])


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("thing", ["pages", "inodes"])
def test_an_update_with_any_number_of(rigs: list[Rig], thing: str) -> None:
    most = {"pages": 300, "inodes": 60}[thing]
    short_updates(rigs, [{thing: count} for count in range(1, most)])

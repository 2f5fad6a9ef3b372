"""Power cuts of publish and export: what stood there is whole, or what takes its place.

The disk that is published to is shut down right after a call that changes something, and mounted
again. Then every archive is the old one or the new one, and no two that don't belong together pass
for a pair; the next run ends well, and what it said was done is there after one more cut.
"""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from support import disks, strace, trees
from support.disks import WITHOUT_DATA, WITHOUT_LOG, needs_disks
from support.rigs import Rig, side_by_side
from support.strace import AFTER, Fault, needs_strace

pytestmark = [needs_disks, needs_strace]

IMAGE, DIFF, DELETIONS = "image.tar.gz", "image-diff.tar.gz", "image-diff.deletions"
SUMS = "SHA256SUMS"

Files = dict[str, bytes]


def read(folder: Path) -> Files:
    """Every file below, but for those of a run that was cut off."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".export-")
    }


class Stores:
    """One image at three times: before an edit, after it, and with that as its base."""

    def __init__(self, rig: Rig, place: Path) -> None:
        self.rig = rig
        self.place = place
        place.mkdir()
        tree = place / "tree"
        (tree / "etc").mkdir(parents=True)
        (tree / "data").write_bytes(trees.pseudo_random("data", 200_000))
        for edit in ("first", "second", "third"):
            (tree / "etc/edit").write_text(edit)
            (tree / edit).write_bytes(trees.pseudo_random(edit, 20_000))
            self.run("store", "commit", "web", tree)
            if edit != "first":
                # What was new the last time goes: the list of deletions changes as well.
                self._keep({"second": "before", "third": "after"}[edit])
            (tree / edit).unlink()
        self.run("store", "rebase", "web")
        self._keep("rebased")

    def run(self, store: str, *arguments: object) -> None:
        ended = self.rig.program.run("-q", "--store", self.place / store, *arguments)
        assert ended.code == 0, ended.err

    def _keep(self, name: str) -> None:
        subprocess.run(["cp", "-a", self.place / "store", self.place / name], check=True)


@dataclass(frozen=True)
class Case:
    """What is run on what: `old` made the files that stand there, None for nothing."""

    name: str
    verb: tuple[str, ...]
    """Its last word is where to, below the disk."""
    old: str | None
    new: str
    judge: Callable[[Files, Files, Files], list[str]]


def is_matched(files: Files) -> bool:
    """What `sha256sum -c` says."""
    lines = files.get(SUMS, b"").decode().splitlines()
    named = [line.split("  ") for line in lines]
    return bool(named) and all(
        sha256(files.get(name, b"?")).hexdigest() == digest for digest, name in named
    )


def is_empty(archive: bytes) -> bool:
    return not gzip.decompress(archive).strip(b"\0")


def of_publish(there: Files, old: Files, new: Files) -> list[str]:
    """What is wrong with a directory of published files."""
    archives = (IMAGE, DIFF, DELETIONS)
    wrong = [f"{name} is lost" for name in archives if name in old and name not in there]
    for name in archives:
        found = there.get(name)
        is_known = found in (old.get(name), new[name])
        # In front of a new base come an empty diff and an empty list, which are right with both.
        is_known = is_known or (name == DIFF and is_empty(found or b"")) or found == b""
        if not is_known:
            wrong.append(f"{name} is neither old nor new")
    if wrong:
        return wrong
    image, diff, deletions = (there.get(name) for name in archives)
    if is_matched(there) and {name: there[name] for name in archives} not in (
        {name: made[name] for name in archives} for made in (old, new) if made
    ):
        wrong.append("a mixture passes for whole")
    is_moved = old.get(IMAGE) != new[IMAGE]
    others = new if image == old.get(IMAGE) else old
    if is_moved and diff is not None and diff == others.get(DIFF) and not is_empty(diff):
        wrong.append("the diff is one over another base")
    if diff == new[DIFF] != old.get(DIFF) and deletions == old.get(DELETIONS) != new[DELETIONS]:
        wrong.append("a new diff stands beside an old list")
    return wrong


def of_export(there: Files, old: Files, new: Files) -> list[str]:
    """What is wrong with an archive and the list beside it."""
    wrong = [
        f"{name} is neither old nor new"
        for name in (DIFF, DELETIONS)
        if there.get(name) not in (old[name], new[name])
    ]
    if there.get(DIFF) == new[DIFF] and there.get(DELETIONS) != new[DELETIONS]:
        wrong.append("a new archive stands beside an old list")
    return wrong


def of_image(there: Files, old: Files, new: Files) -> list[str]:
    """What is wrong with an image for container tools, in one file or in many."""
    return [] if there in (old, new) else [f"neither old nor new: {sorted(there)}"]


DIFFERENCE = ("export", "web", "--base", "web:base")
CASES = [
    Case("first publish", ("publish", "web", "."), None, "after", of_publish),
    Case("publish", ("publish", "web", "."), "before", "after", of_publish),
    Case("publish over a new base", ("publish", "web", "."), "after", "rebased", of_publish),
    Case("export", (*DIFFERENCE, "-o", DIFF), "before", "after", of_export),
    Case("image", (*DIFFERENCE, "--format", "oci", "-o", "i.tar"), "before", "after", of_image),
    Case("layout", (*DIFFERENCE, "--format", "oci", "-o", "layout"), None, "after", of_image),
]


class Site:
    """A disk that a case is run on, as often as one likes, and what it holds before and after."""

    def __init__(self, stores: Stores, case: Case) -> None:
        self.rig = stores.rig
        self.case = case
        self.www = self.rig.top / "www"
        self._stores = stores
        self._prepared = disks.copy_disk(self.rig.empty, stores.place / "prepared")
        with self._mounted(self._prepared) as seen:
            (seen / "www").mkdir()
            os.sync()
            self.old = self._make(seen, case.old)
        complete = disks.copy_disk(self._prepared, stores.place / "complete")
        with self._mounted(complete) as seen:
            self.new = self._make(seen, case.new)
        assert self.old != self.new

    def _mounted(self, disk: Path) -> AbstractContextManager[Path]:
        return self.rig.mounts.mounted(disk, self.rig.top, self.rig.kind)

    def _make(self, seen: Path, store: str | None) -> Files:
        if store is not None:
            self._stores.run(*self.command(store))
        return read(seen / "www")

    def command(self, store: str) -> tuple[str, ...]:
        *words, place = self.case.verb
        return (store, *words, str(self.www / place))

    @property
    def _arguments(self) -> tuple[str, ...]:
        store, *words = self.command(self.case.new)
        return ("-q", "--store", str(self._stores.place / store), *words)

    def calls(self) -> list[Fault]:
        disk = disks.copy_disk(self._prepared, self._stores.place / "trial")
        with self._mounted(disk):
            ended, lines = strace.record(self.rig.program, *self._arguments)
            assert ended.code == 0, ended.err
        return [Fault(AFTER, call) for call in strace.changing_calls(lines, self.www)]

    def trial(self, fault: Fault, how: int) -> list[str]:
        disk = disks.copy_disk(self._prepared, self._stores.place / "trial")
        with self._mounted(disk) as seen:
            strike = lambda: disks.cut_power(seen, how)  # noqa: E731
            ended = strace.trial(self.rig.program, fault, *self._arguments, strike=strike).ended
            if ended.code == 0:
                strike()
        with self._mounted(disk) as seen:
            there = read(seen / "www")
            wrong = self.case.judge(there, self.old, self.new)
            if ended.code == 0 and there != self.new:
                wrong.append("it was said to be done")
            wrong = wrong or self._run_again(seen, there)
            disks.cut_power(seen, WITHOUT_LOG)
        if wrong:
            return wrong
        with self._mounted(disk) as seen:
            return [] if read(seen / "www") == self.new else ["a cut when it was done"]

    def _run_again(self, seen: Path, there: Files) -> list[str]:
        again = self.rig.program.run(*self._arguments)
        # A layout is never written over; one that is there is whole.
        is_there = self.case.name == "layout" and there == self.new
        if again.code != (2 if is_there else 0):
            return [f"run again: exit code {again.code}: {again.err}"]
        # Only a layout that is whole has no next run to take them away.
        if not is_there and any(name.startswith(".") for name in os.listdir(seen / "www")):
            return ["run again: leftovers"]
        return [] if read(seen / "www") == self.new else ["run again: other files"]


@pytest.fixture
def stores(rigs: list[Rig]) -> Iterator[list[Stores]]:
    made = [Stores(rig, rig.empty.with_name("published")) for rig in rigs]
    yield made
    for each in made:
        trees.remove_tree(each.place)


def cut_after_calls(stores: list[Stores], case: Case, *, most: int) -> None:
    sites = {each.rig: Site(each, case) for each in stores}

    def tasks(number: int, site: Site) -> Iterator[tuple[Fault, int]]:
        found = list(itertools.product(site.calls(), (WITHOUT_LOG, WITHOUT_DATA)))
        step = max(1, len(found) // most)
        # The file systems take turns, so that together they see twice as many.
        yield from found[number * step // len(stores) :: step]

    def work(rig: Rig, task: tuple[Fault, int]) -> list[str]:
        return sites[rig].trial(*task)

    dealt = [list(tasks(number, site)) for number, site in enumerate(sites.values())]
    side_by_side(list(sites), dealt, work)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_power_after_some_calls(stores: list[Stores], case: Case) -> None:
    cut_after_calls(stores, case, most=12)


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_power_after_every_call(stores: list[Stores], case: Case) -> None:
    cut_after_calls(stores, case, most=1_000_000)

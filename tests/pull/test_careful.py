"""Any sequence of edits and pulls, against what a careful administrator expects of each.

- Where the image changed something it is the image's now, and where it did not nothing changed.
- What was written on the node is in the tree or in `saved`, unless it was removed or overwritten on
  the node, or a mirror was asked for and the image does not know it.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import trees
from support.live import Live, imgstore, remove

from .test_recover import Fuse

PATHS = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a")
LOCAL = b"local"

Files = dict[str, bytes]


def files(tree: Path, *, state: bool = False) -> Files:
    """The content of all files of a tree, or of what it has saved."""
    top = tree / ".imgstore/saved" if state else tree
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and (state or ".imgstore" not in path.parts)
    }


def write(tree: Path, name: str, data: bytes) -> None:
    """Write a file, whatever is in its way."""
    above = tree
    for part in name.split("/")[:-1]:
        above = above / part
        if not above.is_dir():
            above.unlink(missing_ok=True)
            above.mkdir()
    remove(tree / name)
    (tree / name).write_bytes(data)


def own(*of: Files) -> set[bytes]:
    return {data for found in of for data in found.values() if data.startswith(LOCAL)}


def is_below(path: str, other: str) -> bool:
    return path.startswith(other + "/")


class Careful(RuleBasedStateMachine):
    """`versions` has the files of each version, `installed` and `before` are two of them."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.place = Path(tempfile.mkdtemp(prefix="imgstore-test-", dir=memory))
        self.live = Live(self.place)
        self.number = 0
        self.versions: dict[str, Files] = {}
        for name in PATHS:
            if name not in ("d", "d/e"):
                write(self.live.tree, name, b"image " + name.encode())
        self.latest = self.commit()
        self.live.pull()
        self.installed, self.before = self.latest, ""
        self.beside: tuple[str, Files] | None = None

    def teardown(self) -> None:
        trees.remove_tree(self.place)

    def commit(self) -> str:
        version = self.live.commit()
        self.versions[version] = files(self.live.tree)
        return version

    def fresh(self, word: bytes) -> bytes:
        self.number += 1
        return word + b" %d" % self.number

    # What people do

    @rule(name=st.sampled_from(PATHS), removes=st.booleans())
    def edit_image(self, name: str, removes: bool) -> None:
        if removes:
            with suppress(FileNotFoundError, NotADirectoryError):
                remove(self.live.tree / name)
        else:
            write(self.live.tree, name, self.fresh(b"image"))
        self.latest = self.commit()

    @rule(name=st.sampled_from((*PATHS, "mine", "d/mine", "d/e/mine")), removes=st.booleans())
    def edit_node(self, name: str, removes: bool) -> None:
        if removes:
            with suppress(FileNotFoundError, NotADirectoryError):
                remove(self.live.node / name)
        else:
            write(self.live.node, name, self.fresh(LOCAL))

    @rule()
    def tag_an_older_one(self) -> None:
        """Take the fleet back: the latest version is one that was."""
        oldest = next(iter(self.versions))
        store = self.place / "store"
        self.live.run("tag", f"web:{oldest}", "latest", "--store", store)
        trees.remove_tree(self.live.tree)
        self.live.run("checkout", "web", self.live.tree, "--store", store)
        self.latest = oldest

    # What is run

    @rule()
    def pull(self) -> None:
        with self.changing(self.latest):
            self.live.pull()

    @rule()
    def pull_atomic(self) -> None:
        here = files(self.live.node)
        is_news = self.latest != self.installed
        version = self.installed
        with self.changing(self.latest):
            self.live.pull("--atomic")
        if is_news:
            self.beside = (version, here)

    @rule()
    def mirror(self) -> None:
        known = self.versions[self.installed].keys() | self.versions[self.latest].keys()
        here, saved = files(self.live.node), files(self.live.node, state=True)
        kept = own({path: data for path, data in here.items() if path in known})
        self.live.pull("--mirror")
        self.moved_to(self.latest)
        self.live.is_image()
        now = files(self.live.node, state=True)
        assert own(saved) | kept <= own(now)

    @rule(limit=st.integers(0, 40), verb=st.sampled_from(("recover", "pull")))
    def interrupted(self, limit: int, verb: str) -> None:
        with self.changing(self.latest):
            with pytest.MonkeyPatch.context() as patch:
                Fuse(patch, limit)
                ended = imgstore("pull", self.live.node)
            assert ended.code == 0 or "Cut" in ended.err
            if ended.code:
                self.live.run(verb, self.live.node)

    @rule()
    def repair(self) -> None:
        here, saved = files(self.live.node), files(self.live.node, state=True)
        self.live.run("verify", "--repair", self.live.node)
        now, wanted = files(self.live.node), self.versions[self.installed]
        assert {path: now[path] for path in wanted} == wanted
        assert own(here, saved) <= own(now, files(self.live.node, state=True))

    @precondition(lambda self: self.before)
    @rule()
    def rollback(self) -> None:
        target = self.before
        if self.beside is None or self.beside[0] != target:
            with self.changing(target):
                self.live.run("rollback", self.live.node)
            return
        here, version = files(self.live.node), self.installed
        report = self.live.run("rollback", self.live.node, "--json").document
        assert report["exchanged"] is True
        assert files(self.live.node) == self.beside[1]
        self.moved_to(target)
        self.beside = (version, here)

    # What is expected

    def moved_to(self, target: str) -> None:
        if target != self.installed:
            self.before, self.installed = self.installed, target

    def changing(self, target: str) -> Changing:
        return Changing(self, target)

    @invariant()
    def is_told(self) -> None:
        """The node knows what it is."""
        report = self.live.run("recover", self.live.node, "--json").document
        assert report["version"] == self.installed


class Changing:
    """Holds the node against what it was, and what the image changed, when the block ends."""

    def __init__(self, machine: Careful, target: str) -> None:
        self.machine = machine
        self.target = target
        self.old = machine.versions[machine.installed]
        self.new = machine.versions[target]

    def __enter__(self) -> None:
        node = self.machine.live.node
        self.here, self.saved = files(node), files(node, state=True)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        node = self.machine.live.node
        now, saved = files(node), files(node, state=True)
        assert own(self.here, self.saved) <= own(now, saved), "something was lost"
        changed = {
            path
            for path in self.old.keys() | self.new.keys()
            if self.old.get(path) != self.new.get(path)
        }
        for path in self.old.keys() | self.new.keys() | self.here.keys() | now.keys():
            if path in changed:
                assert now.get(path) == self.new.get(path), path
            elif now.get(path) != self.here.get(path):
                assert any(self.in_the_way(path, other) for other in changed), path
                assert path not in now
        self.machine.moved_to(self.target)

    def in_the_way(self, path: str, other: str) -> bool:
        """Whether a path had to give way to one that the image has changed."""
        return other in self.new and (is_below(path, other) or is_below(other, path))


def machine(examples: int, steps: int) -> type:
    case = type("Case", (Careful,), {}).TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=examples < 100,
        # Each step is a pull: to make a failure smaller takes minutes, which only a campaign has.
        phases=[Phase.generate] if examples < 100 else list(Phase),
    )
    return case


TestCareful = machine(20, 15)
TestCarefulForLong = pytest.mark.campaign(pytest.mark.timeout(3000)(machine(500, 30)))

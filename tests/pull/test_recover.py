"""`imgstore recover`: what an interrupted update still has to do, without the network."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Ended, Live, imgstore, remove

from chunkstore.worktree import journal, node

CALLS = ("rename", "unlink", "rmdir", "mkdir", "link", "utime", "chmod", "fchmod", "fsync")


class Cut(BaseException):
    """The power goes off."""


class Fuse:
    """Stands in for `os` where trees are changed, and cuts the power at the n-th change.

    Not before the journal is written: from there on the tree is in between.
    """

    def __init__(self, patch: pytest.MonkeyPatch, limit: int | None) -> None:
        from chunkstore.worktree import apply, aside, finish, powers, replaced, saved

        self.calls = 0
        self.limit = limit
        self.is_armed = False
        for module in (apply, finish, replaced, powers, saved, aside):
            patch.setattr(module, "os", self._module())
        patch.setattr(node.NodeState, "complete", self._counted(node.NodeState.complete))
        patch.setattr(node.NodeState, "clear", self._counted(node.NodeState.clear))
        real = node.NodeState.begin

        def begin(*arguments: object, **options: object) -> None:
            real(*arguments, **options)  # type: ignore[arg-type]
            self.is_armed = True

        patch.setattr(node.NodeState, "begin", begin)

    def _module(self) -> object:
        fuse = self

        class Module:
            def __getattr__(self, name: str) -> object:
                value = getattr(os, name)
                return fuse._counted(value) if name in CALLS else value

        return Module()

    def _counted(self, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if self.is_armed:
                if self.limit is not None and self.calls >= self.limit:
                    raise Cut
                self.calls += 1
            return function(*arguments, **options)

        return call


def build(tree: Path) -> None:
    for folder in ("a/deep", "gone/deep", "retyped"):
        (tree / folder).mkdir(parents=True)
    for name in ("a/f", "a/deep/f", "gone/deep/f", "retyped/f", "changed", "own", "dressed"):
        (tree / name).write_bytes(trees.pseudo_random(name, 5000))
    os.link(tree / "changed", tree / "linked")


def edit(tree: Path) -> None:
    (tree / "changed").write_bytes(trees.pseudo_random("new", 6000))
    (tree / "own").write_bytes(trees.pseudo_random("new own", 6000))
    (tree / "a/new").write_bytes(trees.pseudo_random("new a", 6000))
    (tree / "dressed").chmod(0o600)
    remove(tree / "gone")
    remove(tree / "retyped")
    os.symlink("a", tree / "retyped")


def interrupted(live: Live, limit: int, *arguments: object) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        Fuse(patch, limit)
        ended = imgstore("pull", live.node, *arguments)
    if ended.code == 0:
        return False
    assert "Cut" in ended.err, ended
    return True


def count(live: Live) -> int:
    """How many changes there are to be cut off at."""
    copy = live.place / "counted"
    subprocess.run(["cp", "-a", live.node, copy], check=True)
    with pytest.MonkeyPatch.context() as patch:
        fuse = Fuse(patch, None)
        assert imgstore("pull", copy).code == 0
    trees.remove_tree(copy)
    return fuse.calls


def start(live: Live) -> None:
    """A node one version behind, with something of its own in the way."""
    build(live.tree)
    live.install()
    edit(live.tree)
    live.commit()
    (live.node / "own").write_bytes(b"the node's own")
    (live.node / "retyped/mine").write_bytes(b"mine")


@pytest.fixture
def nodes(quick: Path) -> Live:
    return Live(quick)


def test_nothing_pulled_and_nothing_to_do(nodes: Live) -> None:
    nodes.run("recover", nodes.tree, code=3)
    nodes.run("recover", nodes.place / "nowhere", code=3)
    build(nodes.tree)
    nodes.install()
    before = trees.facts(nodes.node)
    os.rename(nodes.place / "store", nodes.place / "moved")
    report = nodes.run("recover", nodes.node, "--json").document
    assert (report["recovered"], report["changed"], report["requests"]) == (False, False, 0)
    assert report["version"]
    assert "already" in nodes.run("recover", nodes.node).lines[-1]
    assert trees.facts(nodes.node) == before


def finished(live: Live, ended: Ended) -> None:
    """The tree is the new version; what was here and in its way is saved, and was named."""
    live.is_image()
    assert live.saved() == {"own": b"the node's own", "retyped/mine": b"mine"}
    named = {item["path"]: item["place"] for item in ended.document["saved"]}
    assert set(named) == {"own", "retyped"}
    assert (live.node / named["own"]).read_bytes() == b"the node's own"
    assert (live.node / named["retyped"] / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("verb", ["recover", "pull", "verify --repair"])
def test_cut_off_at_every_change(nodes: Live, verb: str) -> None:
    live = nodes
    start(live)
    pristine = live.place / "pristine"
    subprocess.run(["cp", "-a", live.node, pristine], check=True)
    total = count(live)
    assert total > 15
    moved = live.place / "moved"
    for limit in range(0, total, 1 if verb == "recover" else 3):
        trees.remove_tree(live.node)
        subprocess.run(["cp", "-a", pristine, live.node], check=True)
        assert interrupted(live, limit)
        ended = live.run("verify", live.node, "--json", code=None)
        verified = ended.document
        assert ended.code == int(verified["pending"])
        if verb == "recover":
            os.rename(live.place / "store", moved)
        command = ["verify", "--repair", live.node] if "repair" in verb else [verb, live.node]
        if verified["pending"]:
            finished(live, live.run(*command, "--json"))
        else:
            # It was cut off when all was done but for sweeping up.
            live.run(*command)
            live.is_image()
        assert live.run("verify", live.node).code == 0
        assert not (live.node / ".imgstore/new").exists()
        assert not (live.node / ".imgstore/journal").exists()
        if verb == "recover":
            os.rename(moved, live.place / "store")


def test_cut_off_and_then_another_version(nodes: Live) -> None:
    """The first is finished, then the next applied; what either saved is named."""
    live = nodes
    start(live)
    assert interrupted(live, 4)
    (live.node / "a/f").write_bytes(b"own too")
    (live.tree / "a/f").write_bytes(b"the third version")
    live.commit()
    ended = live.pull("--json")
    live.is_image()
    assert {item["path"] for item in ended.document["saved"]} == {"own", "retyped", "a/f"}
    assert ended.document["recovered"] is True


@pytest.mark.parametrize("what", ["journal lost", "journal damaged", "journal cut", "aside lost"])
@pytest.mark.parametrize("limit", [0, 3, 8])
def test_what_only_a_pull_can_finish(nodes: Live, what: str, limit: int) -> None:
    live = nodes
    start(live)
    assert interrupted(live, limit)
    state = live.node / ".imgstore"
    if what == "journal lost":
        (state / "journal").unlink()
    elif what == "aside lost":
        shutil.rmtree(state / "new")
    else:
        data = (state / "journal").read_bytes()
        damaged = data[:30] + b"?" + data[31:] if what == "journal damaged" else data[:-40]
        (state / "journal").write_bytes(damaged)
    before = trees.facts(live.node)
    ended = live.run("recover", live.node, code=7)
    assert f"only 'imgstore pull {live.node}' can finish it" in ended.err
    assert trees.facts(live.node) == before
    assert live.run("verify", live.node, "--json", code=1).document["pending"] is True
    live.pull()
    live.is_image()
    assert live.saved() == {"own": b"the node's own", "retyped/mine": b"mine"}
    live.run("verify", live.node)
    live.run("recover", live.node)


def test_a_first_installation_is_for_a_pull_to_finish(nodes: Live) -> None:
    live = nodes
    build(live.tree)
    live.commit()
    calls = 0

    def written(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.pull.first.WrittenBefore.written", written)
        assert "Cut" in live.run("pull", live.remote, live.node, code=7).err
    ended = live.run("recover", live.node, code=7)
    assert "first installation" in ended.err
    ended = live.run("rollback", live.node, code=3)
    live.run("verify", "--repair", live.node, code=3)
    live.pull()
    live.is_image()


def test_the_same_again_by_sigkill(nodes: Live) -> None:
    """From outside, at random moments, whatever the program was doing."""
    live = nodes
    chance = random.Random(3)
    start(live)
    pristine = live.place / "pristine"
    subprocess.run(["cp", "-a", live.node, pristine], check=True)
    killed = begun = 0
    whole = 0.05
    script = """
from chunkstore.objects.names import parse_spec
from chunkstore.pull import PullOptions, Trust, pull
from chunkstore.storage.backends.local import LocalBackend

OPTIONS = PullOptions(trust=Trust.FIRST)

def work(store, node):
    pull(LocalBackend(store), [parse_spec("web")], node, location=store, options=OPTIONS)
"""
    with stores.Workers(script) as workers:
        for _ in range(25):
            trees.remove_tree(live.node)
            subprocess.run(["cp", "-a", pristine, live.node], check=True)
            before = trees.facts(live.node)
            if not workers.run(live.store.root, live.node, kill_after=chance.uniform(0, whole)):
                whole *= 0.8
                continue
            killed += 1
            whole *= 1.1
            report = live.run("recover", live.node, "--json").document
            if report["recovered"]:
                begun += 1
                live.is_image()
            else:
                now = trees.facts(live.node)
                assert now == before or not trees.differences(trees.facts(live.tree), now)
            live.pull()
            live.is_image()
            assert live.saved() == {"own": b"the node's own", "retyped/mine": b"mine"}
    assert killed > 5


def test_recovery_keeps_what_was_changed_since(nodes: Live) -> None:
    """Between the crash and the boot somebody wrote to a file that is still to be replaced."""
    live = nodes
    start(live)
    assert interrupted(live, 1)
    (live.node / "linked").write_bytes(b"written after the crash")
    live.run("recover", live.node)
    live.is_image()
    contents = live.saved().values()
    assert b"written after the crash" in contents
    assert b"the node's own" in contents


def test_a_journal_of_an_update_long_past_means_nothing(nodes: Live) -> None:
    live = nodes
    start(live)
    assert interrupted(live, 2)
    old = (live.node / ".imgstore/journal").read_bytes()
    live.run("recover", live.node)
    (live.node / ".imgstore/journal").write_bytes(old)
    before = trees.facts(live.node)
    assert live.run("recover", live.node, "--json").document["recovered"] is False
    assert trees.facts(live.node) == before
    assert journal.read(str(live.node / ".imgstore/journal"), b"another token") is None

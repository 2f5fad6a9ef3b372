"""Commit: whatever is done to a tree, the next commit records all of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import stores, trees
from support.stores import record, settle
from support.variety import make_variety

from chunkstore.storage.backends.local import LocalBackend

SHAPES = st.sampled_from(["file", "directory", "symlink", "fifo"])


class Editing(RuleBasedStateMachine):
    """Random edits; each commit is compared with the commit of a store that knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        folder = memory if os.access(memory, os.W_OK) else None
        self.place = Path(tempfile.mkdtemp(prefix="imgstore-test-", dir=folder))
        self.tree = self.place / "tree"
        self.tree.mkdir()
        self.store = stores.make_store(self.place / "store")
        self.descriptors = trees.open_descriptors()
        self.is_committed = False

    @initialize()
    def start(self) -> None:
        for folder in ("a", "b/c"):
            (self.tree / folder).mkdir(parents=True)
        for name in ("a/1", "b/2", "b/c/3", "4"):
            (self.tree / name).write_bytes(name.encode())

    def paths(self, *, directories: bool = True, top: bool = False) -> list[Path]:
        found = [Path(above) / name for above, _, names in os.walk(self.tree) for name in names]
        if directories:
            found += [Path(top) / name for top, names, _ in os.walk(self.tree) for name in names]
        return sorted({*found, *([self.tree] if top else [])})

    def folders(self) -> list[Path]:
        return sorted(Path(above) for above, _, _ in os.walk(self.tree))

    def new_path(self, data: st.DataObject) -> Path:
        folder = data.draw(st.sampled_from(self.folders()), "folder")
        names = ["1", "2", "a", "a.b", "b", "c-", "d\n", "\udcff"]
        return folder / data.draw(st.sampled_from(names), "name")

    @rule(data=st.data(), shape=SHAPES, size=st.sampled_from([0, 1, 1024, 3000, 40_000]))
    def create(self, data: st.DataObject, shape: str, size: int) -> None:
        path = self.new_path(data)
        if os.path.lexists(path):
            return
        match shape:
            case "file":
                path.write_bytes(trees.pseudo_random(size % 7, size))
            case "directory":
                path.mkdir()
            case "symlink":
                os.symlink(f"target {size}", path)
            case _:
                os.mkfifo(path)
        self.is_committed = False

    @rule(data=st.data(), seed=st.integers(0, 3), size=st.sampled_from([1, 5, 3000]))
    def modify(self, data: st.DataObject, seed: int, size: int) -> None:
        files = [path for path in self.paths(directories=False) if path.is_file()]
        if files:
            path = data.draw(st.sampled_from(files), "path")
            if not path.is_symlink():
                path.write_bytes(trees.pseudo_random(seed, size))
                self.is_committed = False

    @rule(data=st.data(), mode=st.sampled_from([0o000, 0o644, 0o4755, 0o1777]))
    def change_mode(self, data: st.DataObject, mode: int) -> None:
        path = data.draw(st.sampled_from(self.paths(top=True)), "path")
        if not path.is_symlink():
            path.chmod(mode)
            self.is_committed = False

    @rule(data=st.data(), mtime=st.integers(-(10**18), 10**18))
    def change_time(self, data: st.DataObject, mtime: int) -> None:
        path = data.draw(st.sampled_from(self.paths(top=True)), "path")
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        self.is_committed = False

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        others = [path for path in self.paths() if path.is_symlink() or not path.is_dir()]
        path = self.new_path(data)
        if others and not os.path.lexists(path):
            source = data.draw(st.sampled_from(others), "source")
            os.link(source, path, follow_symlinks=False)
            self.is_committed = False

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        paths = self.paths()
        path = self.new_path(data)
        if not paths:
            return
        source = data.draw(st.sampled_from(paths), "source")
        try:
            os.rename(source, path)
        except OSError:
            return
        self.is_committed = False

    @rule(data=st.data())
    def exchange(self, data: st.DataObject) -> None:
        paths = self.paths()
        if len(paths) < 2:
            return
        one = data.draw(st.sampled_from(paths), "one")
        other = data.draw(st.sampled_from(paths), "other")
        if one != other and one not in other.parents and other not in one.parents:
            spare = self.place / "spare"
            os.rename(one, spare)
            os.rename(other, one)
            os.rename(spare, other)
            self.is_committed = False

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        paths = self.paths()
        if paths:
            path = data.draw(st.sampled_from(paths), "path")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            self.is_committed = False

    @rule()
    def wait(self) -> None:
        settle()

    @precondition(lambda self: not self.is_committed)
    @rule(settled=st.booleans())
    def commit(self, settled: bool) -> None:
        if settled:
            settle()
        report = record(self.store, self.tree)
        assert report.version.version.root == stores.fresh_root(self.place, self.tree)
        self.is_committed = True

    @precondition(lambda self: self.is_committed)
    @rule()
    def pull(self) -> None:
        stores.bring(LocalBackend(self.store.root), "web", self.place / "node")
        node = trees.facts(self.place / "node")
        assert trees.differences(trees.facts(self.tree), node) == []

    @precondition(lambda self: self.is_committed)
    @rule()
    def check_out(self) -> None:
        out = self.place / "out"
        stores.restore(self.store, "web", out)
        assert trees.differences(trees.facts(self.tree), trees.facts(out)) == []
        trees.remove_tree(out)

    @invariant()
    def nothing_is_left_open(self) -> None:
        assert len(os.listdir("/proc/self/fd")) < self.descriptors + 60

    def teardown(self) -> None:
        self.store.backend.close()
        trees.remove_tree(self.place)


if os.geteuid() == 0:  # modes of 000 keep others from reading
    TestEditing = Editing.TestCase
    TestEditing.settings = settings(
        max_examples=20,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.campaign
@trees.needs_root
def test_editing_for_long() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Editing,
        settings=settings(
            max_examples=400,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_incremental_commits_of_the_whole_variety(place: Path) -> None:
    """Every file type, edited in every way, compared with rsync."""
    tree = place / "tree"
    make_variety(tree)
    store = stores.make_store(place / "store")
    record(store, tree)
    settle()
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(tree)], check=False)
    shutil.rmtree(tree / "plain/many")
    os.rename(tree / "links/one", tree / "links/three")
    os.rename(tree / "order/a", tree / "order/b")
    (tree / "plain/large").unlink()
    (tree / "plain/text").write_bytes(b"changed")
    (tree / "links/linked fifo").unlink()
    report = record(store, tree)
    assert report.version.version.root == stores.fresh_root(place, tree)
    stores.restore(store, "web", place / "out")
    trees.assert_same(tree, place / "out")

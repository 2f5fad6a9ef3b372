"""`pull --atomic` and `rollback`: one tree or the other, never a mixture, never nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support import mounted, stores, trees
from support.live import Live, imgstore, remove
from support.trees import needs_root

from chunkstore.worktree import swap


def build(tree: Path) -> None:
    (tree / "d/deep").mkdir(parents=True)
    for name in ("version", "other", "d/f", "d/deep/f", "gone"):
        (tree / name).write_bytes(trees.pseudo_random(name, 4000))
    os.link(tree / "d/f", tree / "linked")


def renew(live: Live, word: str) -> str:
    for name in ("version", "other", "d/deep/f"):
        (live.tree / name).write_text(word)
    remove(live.tree / "gone")
    return live.commit()


def beside(live: Live) -> Path:
    return live.node.parent / f".{live.node.name}.imgstore"


def inodes(node: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for above, _, names in os.walk(node):
        for name in [".", *names]:
            path = os.path.join(above, name)
            status = os.lstat(path)
            found[os.path.relpath(path, node)] = (status.st_ino, status.st_mtime_ns)
    return found


def own(node: Path) -> dict[bytes, trees.Facts]:
    """The node's own things: those the image does not know or change."""
    found = trees.facts(node, skip=())
    return {
        path: fact
        for path, fact in found.items()
        if path.startswith((b"mine", b".imgstore/saved/", b".imgstore/hooks")) or path == b"d/f"
    }


def add_own(live: Live) -> None:
    (live.node / "mine").mkdir()
    (live.node / "mine/f").write_bytes(b"mine")
    os.symlink("nowhere", live.node / "mine/link")
    (live.node / "d/f").write_bytes(b"changed here")
    (live.node / ".imgstore/saved/earlier").mkdir(parents=True, mode=0o700)
    (live.node / ".imgstore/saved/earlier/f").write_bytes(b"saved before")
    (live.node / ".imgstore/hooks").mkdir()
    (live.node / ".imgstore/exclude").write_text("/excluded\n")


@pytest.fixture
def live(quick: Path) -> Live:
    live = Live(quick)
    build(live.tree)
    live.install()
    return live


def test_the_old_tree_is_not_touched_and_all_of_the_nodes_own_comes_along(live: Live) -> None:
    add_own(live)
    live.pull()
    (live.node / "version").write_bytes(b"changed here and there")
    before, mine = trees.facts(live.node), own(live.node)
    numbers = inodes(live.node)
    renew(live, "new")
    ended = live.pull("--atomic", "--json").document
    previous = beside(live) / "previous"
    assert trees.facts(previous) == before
    kept = inodes(previous)
    assert {path: kept[path] for path in numbers if ".imgstore" not in path} == {
        path: number for path, number in numbers.items() if ".imgstore" not in path
    }
    assert {**own(live.node)}.items() >= mine.items()
    assert (live.node / "version").read_text() == "new"
    assert not (live.node / "gone").exists()
    (saved,) = ended["saved"]
    assert saved["path"] == "version"
    assert (live.node / saved["place"]).read_bytes() == b"changed here and there"
    assert (live.node / ".imgstore/exclude").read_text() == "/excluded\n"
    assert ended["shared"] is not None
    assert ended["changed"] is True
    stat = beside(live).stat()
    assert (stat.st_mode & 0o777, os.listdir(beside(live))) == (0o700, ["previous"])


def test_rollback_restores_exactly_and_twice_toggles(live: Live) -> None:
    add_own(live)
    live.pull()
    (live.node / "version").write_bytes(b"changed here and there")
    before = trees.facts(live.node)
    first = live.run("verify", live.node, "--json", code=1).document["version"]
    second = renew(live, "new")
    live.pull("--atomic")
    (live.node / "since").write_bytes(b"made in the new tree")
    after = trees.facts(live.node)
    shutil.move(live.place / "store", live.place / "moved")
    for number in range(4):
        ended = live.run("rollback", live.node)
        assert ended.lines[-1].endswith("the tree of before was put back")
        assert trees.facts(live.node) == (before if number % 2 == 0 else after)
        version = live.run("recover", live.node, "--json").document["version"]
        assert version == (first if number % 2 == 0 else second)
    shutil.move(live.place / "moved", live.place / "store")
    live.run("rollback", live.node)
    live.pull("--atomic")
    assert (live.node / "version").read_text() == "new"


def test_rollback_after_an_update_in_place_goes_by_versions(live: Live) -> None:
    first = trees.facts(live.tree)
    renew(live, "second")
    second = trees.facts(live.tree)
    live.pull()
    report = live.run("rollback", live.node, "--json").document
    assert (report["exchanged"], report["changed"]) == (False, True)
    assert trees.facts(live.node) == first
    live.run("rollback", live.node)
    assert trees.facts(live.node) == second
    # A pull follows the image again.
    live.run("rollback", live.node)
    live.pull()
    assert trees.facts(live.node) == second


def test_a_tree_beside_that_is_not_the_version_before_is_not_put_back(live: Live) -> None:
    renew(live, "second")
    live.pull("--atomic")
    second = trees.facts(live.tree)
    renew(live, "third")
    live.pull()
    report = live.run("rollback", live.node, "--json").document
    assert report["exchanged"] is False
    assert trees.facts(live.node) == second


def test_rollback_where_there_is_nothing_to_go_back_to(live: Live) -> None:
    live.run("rollback", live.tree, code=3)
    ended = live.run("rollback", live.node, code=3)
    assert "has no version before this one" in ended.err
    renew(live, "second")
    live.pull()
    shutil.move(live.place / "store", live.place / "moved")
    before = trees.facts(live.node)
    ended = live.run("rollback", live.node, code=3)
    assert str(live.place / "store") in ended.err
    assert trees.facts(live.node) == before
    shutil.move(live.place / "moved", live.place / "store")
    live.run("rm", "web:base", "--store", live.place / "store")
    live.run("gc", "--keep", "1", "--grace", "0", "--store", live.place / "store")
    ended = live.run("rollback", live.node, code=None)
    assert ended.code in (3, 4)
    assert trees.facts(live.node) == before


def test_nothing_new_makes_nothing(live: Live) -> None:
    before = inodes(live.node)
    ended = live.pull("--atomic", "--json").document
    assert ended["changed"] is False
    assert {path: n for path, n in inodes(live.node).items() if ".imgstore" not in path} == {
        path: n for path, n in before.items() if ".imgstore" not in path
    }
    live.pull("--atomic", "--mirror")
    assert not beside(live).exists()


def test_a_dry_run_makes_nothing(live: Live) -> None:
    renew(live, "second")
    before = trees.facts(live.place, skip=(b"store",))
    dry = live.pull("--atomic", "--dry-run")
    assert trees.facts(live.place, skip=(b"store",)) == before
    assert "M\tversion" in dry.changes


def test_a_reader_never_sees_a_mixture_or_nothing(live: Live) -> None:  # noqa: C901
    """Through the path, and through a descriptor of the directory that was opened before."""
    for name in ("version", "other", "d/deep/f"):
        (live.node / name).write_text("start")
    live.pull("--mirror")
    done = threading.Event()
    wrong: list[str] = []
    seen: dict[str, set[bytes]] = {"descriptor": set(), "path": set()}

    def read_one_tree() -> None:
        while not done.is_set():
            try:
                folder = os.open(live.node, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                wrong.append(f"no directory: {error}")
                return
            try:
                words = []
                for name in ("version", "other", "d/deep/f"):
                    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
                    words.append(os.read(descriptor, 9999))
                    os.close(descriptor)
                if len(set(words)) != 1:
                    wrong.append(f"a mixture: {words}")
                seen["descriptor"].add(words[0])
            except FileNotFoundError:
                pass  # the tree before the previous one is being removed
            finally:
                os.close(folder)

    def read_by_path() -> None:
        while not done.is_set():
            try:
                seen["path"].add((live.node / "version").read_bytes())
            except OSError as error:
                wrong.append(f"not there: {error}")

    for name in ("version", "other", "d/deep/f"):
        (live.tree / name).write_text("start")
    live.commit()
    live.pull()
    readers = [threading.Thread(target=target) for target in (read_one_tree, read_by_path)]
    for reader in readers:
        reader.start()
    swaps = 0
    try:
        for number in range(25):
            renew(live, f"number {number}")
            live.pull("--atomic")
            live.run("rollback", live.node)
            live.run("rollback", live.node)
            swaps += 3
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert swaps == 75
    assert len(seen["path"]) > 5
    assert len(seen["descriptor"]) > 5


class Cut(BaseException):
    """The power goes off."""


def cut_at(patch: pytest.MonkeyPatch, limit: int | None) -> Callable[[], int]:
    """Cut the power at the n-th change that `swap` makes, and give how many there were."""
    calls = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            if limit is not None and calls >= limit:
                raise Cut
            calls += 1
            return function(*arguments, **options)

        return call

    class Module:
        def __getattr__(self, name: str) -> object:
            value = getattr(os, name)
            return counted(value) if name in ("rename", "mkdir", "rmdir", "fsync") else value

    patch.setattr(swap, "os", Module())
    patch.setattr(swap, "remove_tree", counted(swap.remove_tree))
    patch.setattr(swap.Swap, "_exchange", counted(swap.Swap._exchange))
    patch.setattr(swap.fsio, "sync_filesystem", counted(swap.fsio.sync_filesystem))
    return lambda: calls


@pytest.mark.parametrize("verb", ["pull", "rollback"])
def test_cut_off_at_every_step(live: Live, verb: str) -> None:
    add_own(live)
    live.pull()
    renew(live, "second")
    live.pull("--atomic")
    (live.node / "mine/since").write_bytes(b"")
    if verb == "pull":
        renew(live, "third")
    command = ["pull", live.node, "--atomic"] if verb == "pull" else ["rollback", live.node]
    pristine = [(path, live.place / f"pristine {path.name}") for path in (live.node, beside(live))]
    for path, copy in pristine:
        subprocess.run(["cp", "-a", path, copy], check=True)
    with pytest.MonkeyPatch.context() as patch:
        calls = cut_at(patch, None)
        live.run(*command)
        total = calls()
    wanted = trees.facts(live.node)
    assert total > (10 if verb == "pull" else 2)
    for limit in range(total):
        for path, copy in pristine:
            trees.remove_tree(path)
            subprocess.run(["cp", "-a", copy, path], check=True)
        old = trees.facts(live.node)
        with pytest.MonkeyPatch.context() as patch:
            cut_at(patch, limit)
            assert "Cut" in imgstore(*command).err
        now = trees.facts(live.node)
        assert now in (old, wanted), limit
        if verb == "pull" or now == old:
            live.run(*command)
        else:
            live.run("recover", live.node)
        assert trees.facts(live.node) == wanted
        assert live.run("verify", live.node, "--json", code=None).document["pending"] is False
        left = set(os.listdir(beside(live)))
        assert left <= {"previous"} or verb == "rollback"


# Where it can't be done


@needs_root
def test_mount_points_and_what_has_mounts_inside(live: Live) -> None:
    renew(live, "second")
    (live.node / "mine").mkdir()
    trees.mount_tmpfs(live.node / "mine", "size=1m")
    before = trees.facts(live.node)
    ended = live.pull("--atomic", code=7)
    assert "mine" in ended.err
    assert "mounted" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert trees.facts(live.node) == before
    assert not beside(live).exists()
    trees.unmount(live.node / "mine")
    trees.mount_tmpfs(live.place / "point", "size=8m")
    live.run("pull", live.remote, live.place / "point")
    renew(live, "third")
    ended = live.run("pull", live.place / "point", "--atomic", code=7)
    assert "is a mount point: pull without --atomic" in ended.err
    assert (live.place / "point/version").read_text() == "second"
    live.run("pull", live.place / "point")
    assert (live.place / "point/version").read_text() == "third"


def test_the_root_of_the_system_is_refused(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from chunkstore.errors import Conflict
    from chunkstore.worktree.swap import Swap

    with pytest.raises(Conflict, match="pull without --atomic"):
        Swap("/")
    monkeypatch.chdir("/")
    with pytest.raises(Conflict, match="pull without --atomic"):
        Swap(".")


def test_a_folder_others_can_write_to(live: Live) -> None:
    renew(live, "second")
    live.place.chmod(0o777)
    ended = live.pull("--atomic", code=7)
    assert "others can write to" in ended.err
    live.pull()


@needs_root
@pytest.mark.parametrize(
    ("kind", "way"), [("ext4", "copied"), ("xfs", "reflinked"), ("btrfs", "reflinked")]
)
def test_it_says_how_files_were_shared(quick: Path, kind: str, way: str) -> None:
    with mounted.disk(quick, kind) as disk:
        (disk / "home").mkdir()
        live = Live(disk / "home")
        build(live.tree)
        (live.tree / "large").write_bytes(trees.pseudo_random("large", 3_000_000))
        live.install()
        renew(live, "second")
        shared = live.pull("--atomic", "--json").document["shared"]
        other = {"copied": "reflinked", "reflinked": "copied"}[way]
        assert shared[way]["files"] >= 6
        assert shared[way]["bytes"] >= 3_000_000
        assert shared[other] == {"files": 0, "bytes": 0}
        live.is_image()
        renew(live, "third")
        ended = live.pull("--atomic")
        assert ("files were copied for the new tree" in ended.err) == (way == "copied")
        live.run("rollback", live.node)
        assert (live.node / "version").read_text() == "second"


def test_first_installation_is_like_any(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.commit()
    live.run("pull", live.remote, live.node, "--atomic")
    live.is_image()
    assert not beside(live).exists()
    stores.settle()


def test_an_interrupted_update_in_place_is_finished_first(live: Live) -> None:
    renew(live, "second")
    with pytest.MonkeyPatch.context() as patch:

        def cut(*_: object) -> None:
            raise Cut

        patch.setattr("chunkstore.worktree.finish.Finish._set_flags", cut)
        assert "Cut" in live.pull(code=7).err
    renew(live, "third")
    live.pull("--atomic")
    live.is_image()
    assert (beside(live) / "previous/version").read_text() == "second"

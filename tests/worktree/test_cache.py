"""The worktree cache: whatever happens to it, the next commit records what is there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import stores, trees
from support.stores import SMALL, record, settle

from chunkstore.errors import ChunkstoreError
from chunkstore.fsio import Directory
from chunkstore.objects import manifest
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.manifest import Change, NodeRef
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.capture import capture
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.scan import Found, Scan

IDENTITY: list[bytes | int] = [b"version", 5, b"path"]


class Memory:
    """Manifests without a store: what a commit does between the scan and the packs."""

    def __init__(self, tree: Path, cache: Path) -> None:
        self.tree = tree
        self.cache = cache
        self.nodes: dict[bytes, bytes] = {}

    def store(self, chunks: object) -> None:
        pass

    def store_node(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self.nodes[digest] = data
        return digest

    def commit(self, base: NodeRef | None, identity: list[bytes | int] = IDENTITY) -> NodeRef:
        cache = WorktreeCache(str(self.cache), spool=str(self.cache.parent))
        is_known = cache.load(identity)
        with Directory(str(self.tree)) as directory:
            scan = Scan(directory, cache, Patterns(), now=time.time_ns())
            changes = self._changes(scan)
            if is_known and base is not None:
                root = manifest.edit(base, changes, self.nodes.__getitem__, self.store_node)
            else:
                entries = (entry for _, entry in changes if entry is not None)
                root = manifest.build(entries, self.store_node)
        assert scan.report.errors == []
        cache.save(identity, scan.links, identity_changed=True)
        return root

    def _changes(self, scan: Scan) -> Iterator[Change]:
        for item in scan:
            entry = capture(item, SMALL, self) if isinstance(item, Found) else None
            yield item.path, entry

    def fresh(self) -> NodeRef:
        other = Memory(self.tree, self.cache.with_name("another cache"))
        other.cache.unlink(missing_ok=True)
        return other.commit(None)


@pytest.fixture
def memory(quick: Path) -> Memory:
    tree = quick / "tree"
    for folder in ("a/x", "b/y", "c"):
        (tree / folder).mkdir(parents=True)
    for name in ("a/1", "a/2", "a/x/3", "b/4", "b/y/5", "c/6"):
        (tree / name).write_bytes(name.encode())
    os.link(tree / "a/1", tree / "b/link")
    os.link(tree / "a/2", tree / "a/x/link")
    settle()
    return Memory(tree, quick / "cache")


def edit(tree: Path) -> None:
    """One of each kind of change, so that stale knowledge of anything would show."""
    (tree / "a/1").unlink()
    (tree / "a/x/3").write_bytes(b"new")
    shutil.rmtree(tree / "b/y")
    os.rename(tree / "c", tree / "d")
    (tree / "b/4").chmod(0o600)
    (tree / "a/new").write_bytes(b"")


def test_editing_gives_what_building_gives(memory: Memory) -> None:
    base = memory.commit(None)
    assert base == memory.fresh()
    assert memory.commit(base) == base
    edit(memory.tree)
    assert memory.commit(base) == memory.fresh() != base


@pytest.mark.parametrize("mask", [0x01, 0x40, 0xFF])
def test_a_flipped_bit_anywhere_changes_no_result(memory: Memory, mask: int) -> None:
    base = memory.commit(None)
    edit(memory.tree)
    wanted = memory.fresh()
    good = memory.cache.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= mask
        memory.cache.write_bytes(damaged)
        assert memory.commit(base) == wanted, position


def test_a_truncated_or_prolonged_cache_changes_no_result(memory: Memory) -> None:
    base = memory.commit(None)
    edit(memory.tree)
    wanted = memory.fresh()
    good = memory.cache.read_bytes()
    for length in range(len(good)):
        memory.cache.write_bytes(good[:length])
        assert memory.commit(base) == wanted, length
    for tail in (b"\0", b"\0" * 8, bytes(4096), good, good[-8:]):
        memory.cache.write_bytes(good + tail)
        assert memory.commit(base) == wanted


def test_a_part_of_the_cache_that_is_lost_or_doubled_changes_no_result(memory: Memory) -> None:
    base = memory.commit(None)
    edit(memory.tree)
    wanted = memory.fresh()
    good = memory.cache.read_bytes()
    for start in range(0, len(good), 7):
        for length in (1, 8, 50):
            for changed in (
                good[:start] + good[start + length :],
                good[: start + length] + good[start:],
                good[:start] + bytes(length) + good[start + length :],
            ):
                memory.cache.write_bytes(changed)
                assert memory.commit(base) == wanted


def test_a_cache_about_something_else_is_not_used(memory: Memory) -> None:
    base = memory.commit(None)
    cache = WorktreeCache(str(memory.cache), spool=None)
    for other in ([b"other", 5, b"path"], [b"version", 6, b"path"], [b"version", 5], []):
        assert not cache.load(other)
    assert cache.load(IDENTITY)
    cache.abandon()
    assert memory.commit(base, [b"another version"]) == base
    assert not cache.load(IDENTITY)


def test_nothing_is_written_while_nothing_changes(memory: Memory) -> None:
    base = memory.commit(None)
    before = memory.cache.stat()
    cache = WorktreeCache(str(memory.cache), spool=str(memory.cache.parent))
    assert cache.load(IDENTITY)
    with Directory(str(memory.tree)) as directory:
        scan = Scan(directory, cache, Patterns(), now=time.time_ns())
        assert list(scan) == []
        assert sorted(os.listdir(memory.cache.parent)) == ["cache", "tree"]
    cache.save(IDENTITY, scan.links, identity_changed=False)
    after = memory.cache.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert memory.commit(base) == base


def test_an_abandoned_cache_leaves_the_old_one(memory: Memory) -> None:
    memory.commit(None)
    good = memory.cache.read_bytes()
    edit(memory.tree)
    cache = WorktreeCache(str(memory.cache), spool=str(memory.cache.parent))
    assert cache.load(IDENTITY)
    with Directory(str(memory.tree)) as directory:
        list(Scan(directory, cache, Patterns(), now=time.time_ns()))
    cache.abandon()
    cache.abandon()
    assert memory.cache.read_bytes() == good
    assert sorted(os.listdir(memory.cache.parent)) == ["cache", "tree"]


PLACES = [f"{folder}{name}" for folder in ("", "a/", "a/x/", "b/") for name in ("1", "2", "x", "y")]
CHANGES = ("write", "rewrite", "remove", "make", "rename", "link", "symlink", "chmod", "pipe")


def change(tree: Path, kind: str, one: str, other: str, number: int) -> None:
    """One change of a tree, if it can be made."""
    path, second = tree / one, tree / other
    with suppress(OSError):
        if kind in ("write", "rewrite") and path.is_fifo():
            return  # whoever opens it waits for a reader
        if kind == "write":
            path.write_bytes(b"%04d" % number)
        elif kind == "rewrite":
            status = path.stat()
            path.write_bytes(b"%04d" % number)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif kind == "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif kind == "make":
            path.mkdir()
        elif kind == "rename":
            os.rename(path, second)
        elif kind == "link":
            os.link(path, second, follow_symlinks=False)
        elif kind == "symlink":
            os.symlink(other, path)
        elif kind == "chmod":
            path.chmod(0o700 + number % 64)
        else:
            os.mkfifo(path)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rounds=st.lists(
        st.tuples(
            st.booleans(),
            st.lists(
                st.tuples(
                    st.sampled_from(CHANGES), st.sampled_from(PLACES), st.sampled_from(PLACES)
                ),
                max_size=6,
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_changes_is_recorded(
    quick: Path, rounds: list[tuple[bool, list[tuple[str, str, str]]]]
) -> None:
    """With and without a while between changes and commits."""
    with TemporaryDirectory(dir=quick) as place:
        tree = Path(place, "tree")
        for folder in ("a/x", "b"):
            (tree / folder).mkdir(parents=True)
        memory = Memory(tree, Path(place, "cache"))
        base = memory.commit(None)
        number = 0
        for is_settled, changes in rounds:
            if is_settled:
                settle()
                base = memory.commit(base)
            for kind, one, other in changes:
                number += 1
                change(tree, kind, one, other, number)
            base = memory.commit(base)
            assert base == memory.fresh()


# In a store


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    (path / "folder").mkdir(parents=True)
    (path / "folder/file").write_bytes(b"content")
    (path / "top").write_bytes(b"content")
    settle()
    return path


def test_a_commit_from_elsewhere_does_not_use_the_cache(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    other = place / "other"
    other.mkdir()
    (other / "only").write_bytes(b"")
    assert record(store, other).changes == {"A": 1, "D": 3, "m": 1}
    report = record(store, tree)
    assert report.version.version.root == stores.fresh_root(place, tree)


def test_excludes_that_change_are_heeded(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    assert record(store, tree, excludes=[b"top"]).changes == {"D": 1}
    assert not record(store, tree, excludes=[b"top"]).is_new
    assert record(store, tree).changes == {"A": 1}


def test_a_rule_with_a_line_break_is_not_two_rules(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree, excludes=[b"top\n- c"])
    assert record(store, tree, excludes=[b"top", b"- c"]).changes == {"D": 1}


def test_another_worktree_in_the_same_place(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    os.rename(tree, place / "old")
    shutil.copytree(place / "old", tree)
    (tree / "new").write_bytes(b"")
    report = record(store, tree)
    assert report.version.version.root == stores.fresh_root(place, tree)


def test_a_tag_that_was_moved_back(place: Path, tree: Path) -> None:
    from chunkstore.objects.documents import Tag

    store = stores.make_store(place / "store")
    first = record(store, tree).version
    (tree / "top").unlink()
    record(store, tree)
    store.change_ref("web", [Tag("latest", first.id, len(first.version.encode()))], now=1)
    report = record(store, tree)
    assert report.changes["D"] == 1
    assert report.version.version.parent == first.id


def test_a_failed_commit_leaves_no_files_and_the_old_cache(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chunkstore.storage.backends.local import LocalBackend

    store = stores.make_store(place / "store")
    record(store, tree)
    folder = place / "store/local/worktrees"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tree / "folder/new").write_bytes(b"new")

    def refuse(*_: object) -> None:
        raise ChunkstoreError("refused on purpose")

    for name in ("put_file", "put", "swap"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalBackend, name, refuse)
            with pytest.raises(ChunkstoreError, match="on purpose"):
                record(store, tree)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert record(store, tree).changes == {"A": 1, "m": 1}


def test_a_cache_that_can_not_be_saved_does_not_undo_the_commit(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is published by then: saying it failed would be wrong."""
    store = stores.make_store(place / "store")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(WorktreeCache, "save", refuse)
        report = record(store, tree)
    assert report.is_new
    assert store.ref("web").find("latest") is not None
    (tree / "top").unlink()
    assert record(store, tree).changes == {"D": 1, "m": 1}


@trees.needs_root
def test_a_store_on_a_read_only_file_system_can_be_compared_with(place: Path, tree: Path) -> None:
    from chunkstore.commit import status
    from chunkstore.storage.store import Store

    trees.mount_tmpfs(place / "mount", "size=64m")
    store = stores.make_store(place / "mount/store")
    record(store, tree)
    (tree / "top").write_bytes(b"other")
    (tree / "folder/new").write_bytes(b"")
    store.backend.close()
    store._drop("catalog")
    assert os.system(f"mount -o remount,ro {place / 'mount'}") == 0
    differences, _ = status(Store(str(place / "mount/store")), "web", str(tree), now=time.time_ns())
    changed = [(new or old).path for old, new in differences]  # type: ignore[union-attr]
    assert changed == [b"folder", b"folder/new", b"top"]

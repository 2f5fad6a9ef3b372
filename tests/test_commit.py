"""Commit: the whole verb, on real trees, beside itself, killed, and without room."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import stores, trees
from support.stores import listing, record, settle

from chunkstore.commit import commit, remembered_directory, status
from chunkstore.errors import Conflict, LocalError, Usage
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.names import parse_spec
from chunkstore.storage import lock
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.store import Store


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    (path / "folder").mkdir(parents=True)
    (path / "folder/file").write_bytes(trees.pseudo_random("file", 30_000))
    (path / "top").write_bytes(b"top")
    settle()
    return path


# What a commit says and does


def test_the_first_commit(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    report = record(store, tree, message="the first", tags=["tested"])
    assert report.is_new
    assert report.changes == {"A": 4}
    assert report.version.version.message == "the first"
    assert report.version.version.parent == b""
    ref = store.ref("web")
    assert {tag.name: tag.version for tag in ref.tags} == dict.fromkeys(
        ("base", "latest", "tested"), report.version.id
    )
    assert remembered_directory(store, "web") == str(tree)
    assert report.stored == sum(
        frame.stored for pack in store.packs() for frame in store.own_index(pack).frames
    )


def test_nothing_new_writes_nothing(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    first = record(store, tree)
    store._drop("catalog")
    settle()
    before, local = listing(store), listing(store, local=True)
    again = record(store, tree, message="nothing happened")
    assert not again.is_new
    assert again.version == first.version
    assert (again.chunks, again.packs, again.changes) == (0, 0, {})
    assert listing(store) == before
    written = {
        name for name, status in listing(store, local=True).items() if local.get(name) != status
    }
    assert written <= {"local/lock", "local/catalog.sqlite-shm", "local/catalog.sqlite-wal"}


def test_nothing_new_can_still_be_tagged(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    first = record(store, tree)
    report = record(store, tree, tags=["again"])
    assert not report.is_new
    tag = store.ref("web").find("again")
    assert tag is not None
    assert tag.version == first.version.id


def test_touching_and_undoing_makes_no_version(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    (tree / "top").write_bytes(b"other")
    os.utime(tree / "top", ns=(1, 1))
    record(store, tree)
    (tree / "top").write_bytes(b"other")
    os.utime(tree / "top", ns=(1, 1))
    assert not record(store, tree).is_new


def test_changes_are_counted_by_letter(place: Path, tree: Path) -> None:
    for name in ("modified", "moved", "removed", "retyped", "dressed"):
        (tree / name).write_bytes(name.encode())
    store = stores.make_store(place / "store")
    record(store, tree)
    (tree / "modified").write_bytes(b"other")
    os.rename(tree / "moved", tree / "folder/moved")
    (tree / "removed").unlink()
    (tree / "retyped").unlink()
    os.symlink("top", tree / "retyped")
    (tree / "dressed").chmod(0o4755)
    report = record(store, tree)
    # The root and the folder change their times.
    assert report.changes == {"M": 1, "A": 1, "D": 2, "T": 1, "m": 3}
    assert report.chunks - _nodes_added(store, report) == 1, "only the modified file's content"


def _nodes_added(store: Store, report: Any) -> int:
    content = stores.chunks_of(store, report.version.version.root)
    packs = [store.own_index(pack) for pack in store.packs()]
    newest = min(packs, key=lambda index: len(index.chunks))
    return sum(digest not in content for digest, *_ in newest.places())


def test_status_says_what_a_commit_would_record_and_writes_nothing(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    (tree / "folder/new").write_bytes(b"")
    (tree / "top").unlink()
    os.mknod(tree / "x.sock", 0o140600)
    before = listing(store, local=True)
    differences, warnings = status(store, "web", str(tree), now=time.time_ns())
    assert [((new or old).path, old is None, new is None) for old, new in differences] == [  # type: ignore[union-attr]
        (b"", False, False),
        (b"folder", False, False),
        (b"folder/new", True, False),
        (b"top", False, True),
    ]
    assert [path for path, _ in warnings] == [b"x.sock"]
    after = listing(store, local=True)
    assert {name for name in after if after[name] != before.get(name)} <= {
        "local/catalog.sqlite-shm",
        "local/catalog.sqlite-wal",
    }
    report = record(store, tree)
    assert report.changes == {"m": 2, "A": 1, "D": 1}


def test_an_empty_directory_is_an_image(place: Path) -> None:
    (place / "empty").mkdir()
    store = stores.make_store(place / "store")
    record(store, place / "empty")
    stores.restore(store, "web", place / "out")
    trees.assert_same(place / "empty", place / "out")


def test_content_known_to_the_store_is_not_stored_again(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    for number in range(3):
        (tree / f"copy {number}").write_bytes((tree / "folder/file").read_bytes())
    report = record(store, tree)
    content = stores.chunks_of(store, report.version.version.root)
    places = [digest for pack in store.packs() for digest, *_ in store.own_index(pack).places()]
    assert len(places) == len(set(places)), "each chunk lies in one place"
    assert content <= set(places)


def test_identical_chunks_of_one_file_are_stored_once(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "zeros").write_bytes(bytes(2_000_000))
    store = stores.make_store(place / "store")
    report = record(store, tree)
    assert report.raw < 60_000
    stores.restore(store, "web", place / "out")
    trees.assert_same(tree, place / "out")


def test_two_images_share_their_chunks(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree, "web")
    report = record(store, tree, "db")
    assert report.is_new
    assert (report.chunks, report.packs) == (0, 0)
    assert store.locate(report.version.id), "a pull finds the packs all the same"
    stores.bring(LocalBackend(str(place / "store")), "db", place / "node")
    trees.assert_same(tree, place / "node")


def test_bad_names_are_refused(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    for image, options in (
        ("../x", {}),
        ("", {}),
        ("web", {"tags": ["a/b"]}),
        ("web", {"message": "x" * 20_000}),
        ("web", {"excludes": [b"/"]}),
    ):
        with pytest.raises(Usage):
            record(store, tree, image, **options)
    assert store.images() == []


def test_the_trees_own_exclude_file_is_heeded(place: Path, tree: Path) -> None:
    (tree / ".imgstore").mkdir()
    (tree / ".imgstore/exclude").write_bytes(b"# comment\n/top\n\n*.log\n")
    (tree / "folder/x.log").write_bytes(b"")
    store = stores.make_store(place / "store")
    report = record(store, tree)
    paths = [entry.path for entry in stores.entries_of(store, report.version.version.root)]
    assert paths == [b"", b"folder", b"folder/file"]


def test_rules_given_come_before_the_trees_own(place: Path, tree: Path) -> None:
    (tree / ".imgstore").mkdir()
    (tree / ".imgstore/exclude").write_bytes(b"+ /top\n!\n/folder\n")
    store = stores.make_store(place / "store")
    report = record(store, tree, excludes=[b"top", b"+ folder"])
    paths = [entry.path for entry in stores.entries_of(store, report.version.version.root)]
    assert paths == [b"", b"folder", b"folder/file"]


def test_an_exclude_file_that_cant_be_read_stops_a_commit(place: Path, tree: Path) -> None:
    (tree / ".imgstore/exclude").mkdir(parents=True)
    store = stores.make_store(place / "store")
    with pytest.raises(LocalError, match="exclude"):
        record(store, tree)
    assert store.images() == []


def test_a_wide_directory_and_list_nodes(quick: Path) -> None:
    tree = quick / "tree"
    (tree / "wide").mkdir(parents=True)
    for number in range(5000):
        (tree / "wide" / f"{number}").write_bytes(b"%d" % (number % 100))
    block = trees.pseudo_random("comb", 4096)
    pieces = [(offset, b"%09d" % offset + block[9:]) for offset in range(0, 104 << 20, 12288)]
    trees.sparse_file(tree / "comb", 104 << 20, *pieces)
    store = stores.make_store(quick / "store")
    report = record(store, tree)
    (comb,) = (
        entry
        for entry in stores.entries_of(store, report.version.version.root)
        if entry.path == b"comb"
    )
    assert comb.depth == 2
    settle()
    # A change in the middle touches one list node of each level, and the manifest's.
    with open(tree / "comb", "r+b") as file:
        file.seek(52 << 20)
        file.write(b"changed here")
    report = record(store, tree)
    assert report.raw < 80_000
    stores.restore(store, "web", quick / "out")
    trees.assert_same(tree, quick / "out")


@pytest.mark.parametrize("compression", ["auto", "lz4", "zstd:1", "none"])
def test_default_parameters_and_every_compression(
    place: Path, variety: Path, compression: str
) -> None:
    store = stores.make_store(place / "store", chunker=None, compression=compression)
    assert store.settings.chunker == Parameters()
    record(store, variety)
    stores.restore(store, "web", place / "out")
    trees.assert_same(variety, place / "out")


# Whatever is done to a tree


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
    trees.variety(tree)
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


# Two at once

HOLDER = """
import sys, time
from chunkstore.storage.store import Store
with Store(sys.argv[1]).locked("imgstore commit other"):
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_second_writer_waits_and_says_for_whom(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    holder = stores.python(HOLDER, store.root, 1.0)
    assert holder.stdout is not None
    holder.stdout.readline()
    told: list[str] = []
    began = time.monotonic()
    report = record(Store(store.root, waiting=told.append), tree)
    assert time.monotonic() - began > 0.7
    assert report.is_new
    assert len(told) == 1
    assert f"process {holder.pid} (imgstore commit other" in told[0]
    holder.communicate()


def test_a_second_writer_gives_up_in_the_end(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.make_store(place / "store")
    holder = stores.python(HOLDER, store.root, 60)
    assert holder.stdout is not None
    holder.stdout.readline()
    monkeypatch.setattr("chunkstore.storage.store.PATIENCE", 0.2)
    with pytest.raises(Conflict, match=f"process {holder.pid} .imgstore commit other"):
        record(store, tree)
    holder.kill()
    holder.communicate()
    assert record(store, tree).is_new, "the kernel lets go of a killed holder's lock"


def test_commits_side_by_side_all_come_through(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    script = """
import sys, time
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
for number in range(4):
    name = f"{sys.argv[3]} {number}"
    Path(sys.argv[2], name).write_bytes(name.encode() * 500)
    stores.record(Store(sys.argv[1]), Path(sys.argv[2]), sys.argv[4])
"""
    running = [
        stores.python(script, store.root, tree, writer, f"image{writer % 2}") for writer in range(3)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    for image in ("image0", "image1"):
        settle()
        record(store, tree, image)
        stores.restore(Store(store.root), image, place / image)
        trees.assert_same(tree, place / image)


def test_readers_need_no_lock(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    with lock.exclusive(os.path.join(store.local, "lock"), "something else", wait=0):
        other = Store(store.root)
        assert other.images() == ["web"]
        stores.restore(other, "web", place / "out")
        trees.assert_same(tree, place / "out")
        stores.bring(LocalBackend(store.root), "web", place / "node")


# The order of writing


class Recording(LocalBackend):
    """A backend that notes what it is asked to write."""

    log: ClassVar[list[str]] = []

    def put(self, name: str, data: bytes) -> None:
        super().put(name, data)
        self.log.append(name)

    def put_file(self, name: str, path: str) -> None:
        super().put_file(name, path)
        self.log.append(name)


def kind(name: str) -> str:
    folder, _, last = name.partition("/")
    return last.rpartition(".")[2] if folder == "packs" else folder


def test_each_object_is_written_before_what_names_it(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkstore.objects.pack.TARGET_BYTES", 100_000)
    monkeypatch.setattr("chunkstore.storage.store.LocalBackend", Recording)
    Recording.log = []
    (tree / "large").write_bytes(trees.pseudo_random("large", 400_000))
    # Small frames, so that there is more than one pack.
    monkeypatch.setattr("chunkstore.objects.codec.MAX_FRAME", 50_000)
    store = stores.make_store(place / "store")
    Recording.log.clear()  # the first root document
    record(store, tree)
    kinds = [kind(name) for name in Recording.log]
    packs = kinds.count("pack")
    assert packs > 2
    assert kinds == ["pack", "idx", "torrent"] * packs + ["versions", "locate", "images"]
    settle()
    Recording.log.clear()
    (tree / "large").write_bytes(b"other")
    record(store, tree)
    assert [kind(name) for name in Recording.log] == [
        *("pack", "idx", "torrent"),
        *("versions", "locate", "images"),
    ]


@trees.needs("strace")
def test_each_object_is_on_disk_before_what_names_it(place: Path, tree: Path) -> None:
    """From outside: every rename into the store follows an fsync of that file and is followed by
    one of its directory before the next object appears."""
    store = stores.make_store(place / "store")
    script = """
import sys
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
assert stores.record(Store(sys.argv[1]), Path(sys.argv[2])).is_new
"""
    trace = place / "trace"
    calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2"
    search = os.pathsep.join([str(stores.PROJECT), str(stores.PROJECT / "tests")])
    import sys

    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-y", "-e", calls, "-o", str(trace)),
            *(sys.executable, "-c", script, store.root, str(tree)),
        ],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    events = []
    for line in trace.read_text().splitlines():
        call = line.split(None, 1)[1]
        if call.startswith("fsync("):
            events.append(("sync", call.partition("<")[2].partition(">")[0]))
        elif call.startswith("rename"):
            source, target = (part for part in call.split('"')[1::2])
            events.append(("rename", source, target))
    names = []
    for number, event in enumerate(events):
        if event[0] != "rename" or "/local/" in event[2]:
            continue
        _, source, target = event
        names.append(kind(os.path.relpath(target, store.root)))
        assert ("sync", source) in events[:number], f"{target} was renamed before it was durable"
        after = events[number + 1]
        assert after == ("sync", os.path.dirname(target)), f"{target} is not durable: {after}"
    assert names == ["pack", "idx", "torrent", "versions", "locate", "images"]


# Trouble


def test_a_lost_or_damaged_catalog_loses_nothing(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    catalog = place / "store/local/catalog.sqlite"
    store._drop("catalog")
    good = catalog.read_bytes()
    damages = [None, b"", b"no database", good[: len(good) // 2]]
    damages += [good[:100] + bytes(len(good) - 100)]
    damages += [
        good[:start] + b"\xff" * 512 + good[start + 512 :] for start in range(0, len(good), 2048)
    ]
    for number, damage in enumerate(damages):
        for suffix in ("-wal", "-shm", ""):
            Path(f"{catalog}{suffix}").unlink(missing_ok=True)
        if damage is not None:
            catalog.write_bytes(damage)
        fresh = Store(store.root)
        stores.restore(fresh, "web", place / f"out {number}")
        assert trees.differences(trees.facts(tree), trees.facts(place / f"out {number}")) == []
        (tree / "top").write_bytes(b"edit %d" % number)
        # A store object that has not read anything yet, as in a new process.
        if damage is not None:
            fresh._drop("catalog")
            for suffix in ("-wal", "-shm"):
                Path(f"{catalog}{suffix}").unlink(missing_ok=True)
            catalog.write_bytes(damage)
        writer = Store(store.root)
        report = record(writer, tree)
        assert report.is_new
        stores.restore(Store(store.root), "web", place / f"new {number}")
        assert trees.differences(trees.facts(tree), trees.facts(place / f"new {number}")) == []
        for each in (fresh, writer):
            each._drop("catalog")
            each.backend.close()


@trees.needs_root
@pytest.mark.parametrize("size", ["400k", "700k", "1m", "1500k", "2m", "2500k"])
def test_a_full_disk_leaves_the_old_version(place: Path, size: str) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "first").write_bytes(b"first")
    trees.mount_tmpfs(place / "mount", "size=16m")
    store = stores.make_store(place / "mount/store")
    record(store, tree)
    store._drop("catalog")
    settle()
    shutil.copytree(tree, place / "before", copy_function=shutil.copy2)
    os.utime(place / "before", ns=(tree.stat().st_atime_ns, tree.stat().st_mtime_ns))
    (tree / "second").write_bytes(trees.pseudo_random("second", 2_000_000))
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place / "mount")], check=True)
    full = Store(store.root)
    said = ""
    try:
        assert record(full, tree).is_new
    except LocalError as error:
        said = str(error)
    assert said == "" or "o space left" in said or "full" in said
    is_recorded = not said
    full._drop("catalog")
    reader = Store(store.root)
    stores.restore(reader, "web", place / "out")
    trees.assert_same(tree if is_recorded else place / "before", place / "out")
    reader._drop("catalog")
    subprocess.run(["mount", "-o", "remount,size=32m", str(place / "mount")], check=True)
    roomy = Store(store.root)
    assert record(roomy, tree).is_new is not is_recorded
    stores.restore(roomy, "web", place / "again")
    trees.assert_same(tree, place / "again")
    for each in (store, full, reader, roomy):
        each._drop("catalog", "_spare")
        each.backend.close()


@trees.needs_root
def test_a_read_only_store_says_so(place: Path, tree: Path) -> None:
    trees.mount_tmpfs(place / "mount", "size=16m")
    store = stores.make_store(place / "mount/store")
    record(store, tree)
    store._drop("catalog")
    store.backend.close()
    subprocess.run(["mount", "-o", "remount,ro", str(place / "mount")], check=True)
    (tree / "new").write_bytes(b"")
    reader = Store(store.root)
    with pytest.raises(LocalError, match=r"[Rr]ead-only file system"):
        record(reader, tree)
    stores.restore(reader, "web", place / "out")
    assert not (place / "out/new").exists()
    reader._drop("catalog")
    reader.backend.close()


# Killed

COMMITTER = """
import time
from chunkstore.commit import commit
from chunkstore.objects import codec, pack
from chunkstore.objects.chunker import _library
from chunkstore.storage.store import Store
_library()
pack.TARGET_BYTES = 200_000

def work(store, tree):
    commit(Store(store), "web", tree, now=time.time_ns())
"""


def killed_commits(place: Path, rounds: int, seed: int) -> Iterator[bool]:
    """Kill commits at random moments; after each, the store must be whole and go on."""
    chance = random.Random(seed)
    tree = place / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(trees.pseudo_random("file", 700_000))
    store = stores.make_store(place / "store")
    with stores.Workers(COMMITTER) as workers:
        began = time.monotonic()
        workers.run(store.root, tree)
        whole = time.monotonic() - began
        for number in range(rounds):
            before = trees.facts(tree)
            old = store.resolve(parse_spec("web")).id
            (tree / f"file {number % 5}").write_bytes(trees.pseudo_random(number, 700_000))
            (tree / "folder/file").write_bytes(b"content %d" % number)
            after = trees.facts(tree)
            seconds = chance.uniform(0, whole)
            was_killed = workers.run(store.root, tree, kill_after=seconds)
            # Find out how long it takes here, today, to spread the shots over all of it.
            whole *= 1.15 if was_killed else 0.75
            fresh = Store(store.root)
            found = fresh.resolve(parse_spec("web")).id
            out = place / "out"
            stores.restore(fresh, "web", out)
            expected = before if found == old else after
            assert trees.differences(expected, trees.facts(out)) == []
            assert was_killed or found != old, "a commit that returned has recorded"
            trees.remove_tree(out)
            check_objects(fresh)
            report = record(fresh, tree)
            assert report.is_new == (found == old)
            stores.restore(fresh, "web", out)
            assert trees.differences(after, trees.facts(out)) == []
            trees.remove_tree(out)
            assert os.listdir(os.path.join(store.local, "spool")) == []
            fresh._drop("catalog", "_spare")
            fresh.backend.close()
            yield was_killed


def check_objects(store: Store) -> None:
    """No object is torn."""
    import blake3

    for pack_id in store.packs():
        data = Path(store.root, "packs", f"{pack_id.hex()}.pack").read_bytes()
        context = "imgstore 2026-11 pack"
        assert blake3.blake3(data, derive_key_context=context).digest() == pack_id
        store.own_index(pack_id)
    for name in store.backend.list("versions/"):
        store.version(bytes.fromhex(name.partition("/")[2]))


def test_killed_at_random_moments(quick: Path) -> None:
    killed = sum(killed_commits(quick, 20, seed=1))
    assert killed > 5, "most were killed at work"


@pytest.mark.campaign
def test_killed_at_random_moments_on_disk_for_long(place: Path) -> None:
    assert sum(killed_commits(place, 300, seed=2)) > 50


def test_interrupted_from_the_keyboard(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    (tree / "large").write_bytes(trees.pseudo_random("large", 30_000_000))

    class Impatient:
        def expect(self, *, files: int = 0, size: int = 0) -> None: ...

        def advance(self, *, files: int = 0, size: int = 0) -> None:
            if files and size:
                os.kill(os.getpid(), signal.SIGINT)

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        commit(store, "web", str(tree), now=time.time_ns(), progress=Impatient())
    assert threading.active_count() == threads
    assert store.images() == []
    assert os.listdir(os.path.join(store.local, "spool")) == []
    assert record(store, tree).is_new

"""Pull: the whole verb, from honest and other remotes, interrupted everywhere."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from support import stores, trees
from support.forge import Forge
from support.fuse import Cut, Fuse
from support.stores import bring, record, settle

from chunkstore.errors import (
    ChunkstoreError,
    Conflict,
    Corrupt,
    LocalError,
    NotFound,
    TransferError,
    Untrusted,
)
from chunkstore.objects import documents, pack
from chunkstore.objects import entry as entries
from chunkstore.pull import PullReport, recover, remembered
from chunkstore.storage import chunks, layout
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.memory import FailingBackend, MemoryBackend
from chunkstore.storage.store import Store


def same(one: Path, other: Path) -> None:
    """By system calls alone: for the many comparisons of small trees."""
    assert trees.differences(trees.facts(one), trees.facts(other)) == []


class Recorder:
    """Notes every range that is asked for."""

    def __init__(self, inner: MemoryBackend | LocalBackend) -> None:
        self.inner = inner
        self.ranges: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def get(self, name: str, start: int, stop: int) -> bytes:
        with self._lock:
            self.ranges.append((name, start, stop))
        return self.inner.get(name, start, stop)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def close(self) -> None:
        self.inner.close()

    def fetched(self, store: Store) -> list[bytes]:
        """The chunks of all frames that lie wholly in a range that was asked for."""
        found = []
        for pack_id in store.packs():
            index = store.own_index(pack_id)
            name = layout.pack(pack_id)
            wanted = [(start, stop) for got, start, stop in self.ranges if got == name]
            for digest, number, _, _ in index.places():
                frame = index.frames[number]
                end = frame.offset + frame.stored
                found += [digest for start, stop in wanted if start <= frame.offset and end <= stop]
        return found


# First installation


@pytest.mark.parametrize("remote", ["path", "memory"])
def test_a_first_pull_installs_everything(place: Path, variety: Path, remote: str) -> None:
    store = stores.make_store(place / "store")
    committed = record(store, variety)
    reader = LocalBackend(store.root) if remote == "path" else stores.in_memory(store)
    report = bring(reader, "web", place / "node")
    trees.assert_same(variety, place / "node")
    root = committed.version.version.root
    content = stores.chunks_of(store, root)
    assert report.is_first
    assert report.is_changed
    assert report.entries == report.changed == root.entries
    assert (report.removed, report.saved, report.shortfalls.kinds) == (0, [], {})
    # Chunks are told apart by a table of bits that a few share.
    assert report.needed_chunks == report.fetched_chunks == pytest.approx(len(content), abs=2)
    assert report.local_chunks == report.local_bytes == 0
    packs = sum(frame.stored for p in store.packs() for frame in store.own_index(p).frames)
    assert packs < report.received < packs * 1.05 + 200_000
    assert not (place / "node/.imgstore/stage").exists()
    assert (place / "node/.imgstore").stat().st_mode & 0o777 == 0o700


def test_chunks_that_occur_again_are_not_fetched_again(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    data = trees.pseudo_random("again", 3_000_000)
    for number in range(20):
        (tree / f"copy {number}").write_bytes(data)
    store = stores.make_store(place / "store")
    record(store, tree)
    recorder = Recorder(stores.in_memory(store))
    report = bring(recorder, "web", place / "node")
    same(tree, place / "node")
    assert report.received < 3_600_000
    fetched = recorder.fetched(store)
    assert len(fetched) == len(set(fetched))


def test_only_into_an_empty_or_a_pulled_directory(place: Path) -> None:
    (place / "tree").mkdir()
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    remote = LocalBackend(store.root)
    (place / "full").mkdir()
    (place / "full/mine").write_bytes(b"")
    with pytest.raises(Conflict):
        bring(remote, "web", place / "full")
    assert os.listdir(place / "full") == ["mine"]
    bring(remote, "web", place / "node")
    bring(remote, "web", place / "node")


def test_a_state_directory_without_an_installation_does_not_make_a_tree_ours(place: Path) -> None:
    (place / "tree").mkdir()
    (place / "tree/file").write_bytes(b"theirs")
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    remote = LocalBackend(store.root)
    with pytest.raises(NotFound):
        bring(remote, "misspelt", place / "node")
    (place / "node/file").write_bytes(b"mine")
    with pytest.raises(Conflict, match="file"):
        bring(remote, "web", place / "node")
    assert (place / "node/file").read_bytes() == b"mine"
    (place / "node/file").unlink()
    bring(remote, "web", place / "node")
    same(place / "tree", place / "node")


def test_no_image_no_tag_no_store(place: Path) -> None:
    (place / "tree").mkdir()
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    for remote, spec in (
        (LocalBackend(store.root), "db"),
        (LocalBackend(store.root), "web:nosuch"),
        (LocalBackend(store.root), "web~3"),
        (MemoryBackend(), "web"),
    ):
        with pytest.raises(NotFound):
            bring(remote, spec, place / "node")
    assert os.listdir(place / "node") == [".imgstore"]


def test_two_pulls_at_once(place: Path) -> None:
    (place / "tree").mkdir()
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    remote = stores.in_memory(store)
    inside: list[BaseException] = []

    class Nested(FailingBackend):
        def get(self, name: str, start: int, stop: int) -> bytes:
            if not inside:
                with pytest.raises(Conflict) as caught:
                    bring(remote, "web", place / "node")
                inside.append(caught.value)
            return super().get(name, start, stop)

    bring(Nested(remote), "web", place / "node")
    assert "another pull" in str(inside[0])


# Updates


class Line:
    """A store, its tree, and one node that follows it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree = place / "tree"
        self.tree.mkdir()
        self.node = place / "node"
        self.store = stores.make_store(place / "store")

    def commit(self) -> set[bytes]:
        """Record the tree; the chunks of its content."""
        settle()
        root = record(self.store, self.tree).version.version.root
        return stores.chunks_of(self.store, root)

    def pull(self, spec: str = "web") -> tuple[PullReport, Recorder]:
        recorder = Recorder(stores.in_memory(self.store))
        return bring(recorder, spec, self.node), recorder

    def same(self) -> None:
        trees.assert_same(self.tree, self.node)


@pytest.fixture
def line(place: Path) -> Line:
    return Line(place)


def fill(tree: Path) -> None:
    for folder in ("a/deep", "b"):
        (tree / folder).mkdir(parents=True)
    for name in ("a/1", "a/deep/2", "b/3", "top"):
        (tree / name).write_bytes(trees.pseudo_random(name, 60_000))
    os.link(tree / "a/1", tree / "b/linked")
    os.symlink("1", tree / "a/symlink")


def test_an_update_fetches_what_the_old_tree_has_not(line: Line) -> None:
    trees.variety(line.tree)
    old = line.commit()
    line.pull()
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(line.tree)], check=False)
    large = bytearray((line.tree / "plain/large").read_bytes())
    large[5_000_000:5_000_000] = b"inserted"
    (line.tree / "plain/large").write_bytes(large)
    (line.tree / "plain/new").write_bytes(trees.pseudo_random("new", 100_000))
    shutil.rmtree(line.tree / "plain/many")
    os.rename(line.tree / "names", line.tree / "renamed")
    new = line.commit()
    report, recorder = line.pull()
    line.same()
    fetched = recorder.fetched(line.store)
    assert set(fetched) & old == set(), "the second pull fetches no chunk that the first had"
    assert report.fetched_chunks == len(new - old)
    assert set(fetched) >= new - old
    assert len(fetched) == len(set(fetched)), "nothing is fetched twice"
    assert report.local_chunks > 1000
    assert report.needed_chunks == report.local_chunks + report.fetched_chunks
    assert report.requests < 30
    assert not report.is_first


def test_a_rename_fetches_nothing(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    os.rename(line.tree / "a", line.tree / "z")
    (line.tree / "moved").mkdir()
    os.rename(line.tree / "top", line.tree / "moved/here")
    line.commit()
    report, recorder = line.pull()
    line.same()
    assert (report.fetched_chunks, report.fetched_bytes) == (0, 0)
    content = stores.chunks_of(line.store, line.store.version(report.version).root)
    assert not content & set(recorder.fetched(line.store))
    assert report.received < 20_000


def test_nothing_to_do_is_one_request(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    before = trees.facts(line.node)
    settle()
    report, recorder = line.pull()
    assert not report.is_changed
    assert report.requests == 1
    assert [name for name, _, _ in recorder.ranges] == ["images/web/ref"]
    assert trees.facts(line.node) == before


def test_back_and_forth(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    first = line.place / "first"
    stores.restore(line.store, "web", first)
    shutil.rmtree(line.tree / "a")
    (line.tree / "b/new").write_bytes(b"new")
    line.commit()
    line.pull()
    line.same()
    line.pull("web:base")
    trees.assert_same(first, line.node)
    line.pull("web~1")
    trees.assert_same(first, line.node)
    line.pull()
    line.same()


def test_another_image_takes_the_place_of_the_first(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    other = line.place / "other"
    other.mkdir()
    (other / "only").write_bytes((line.tree / "top").read_bytes())
    record(line.store, other, "db")
    report, _ = line.pull("db")
    trees.assert_same(other, line.node)
    assert report.fetched_chunks == 0


def test_the_source_is_remembered(line: Line) -> None:
    from chunkstore.objects.names import parse_spec
    from chunkstore.pull import pull

    line.commit()
    assert remembered(str(line.node)) is None
    line.pull()
    pull(
        stores.in_memory(line.store),
        [parse_spec("web")],
        str(line.node),
        location="http://head/",
        options=stores.trusting(),
    )
    assert remembered(str(line.node)) == ("http://head/", "web:latest")


KINDS = ("nothing", "file", "directory", "full", "symlink", "to directory", "fifo", "device")


def make(path: Path, kind: str, *, salt: str) -> None:
    match kind:
        case "file":
            path.write_bytes(trees.pseudo_random((path.name, salt), 3000))
        case "directory":
            path.mkdir()
        case "full":
            (path / "below/deeper").mkdir(parents=True)
            (path / "below/deeper/file").write_bytes(salt.encode() * 900)
            (path / "file").write_bytes(salt.encode())
            os.symlink("file", path / "link")
        case "symlink":
            os.symlink(f"nowhere {salt}", path)
        case "to directory":
            os.symlink("..", path)
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, 0o020600, os.makedev(1, 3))


def kinds() -> tuple[str, ...]:
    return KINDS if os.geteuid() == 0 else KINDS[:-1]


def all_type_changes(tree: Path, place: Path) -> None:
    """Make every kind of path into every other kind."""
    for number, (old, new) in enumerate(itertools.product(kinds(), repeat=2)):
        path = tree / f"{number:02} {old} to {new}"
        trees.remove_tree(path)
        make(path, new, salt="new")


def before_type_changes(tree: Path) -> None:
    for number, (old, new) in enumerate(itertools.product(kinds(), repeat=2)):
        make(tree / f"{number:02} {old} to {new}", old, salt="old")


def test_every_kind_becomes_every_other(line: Line) -> None:
    before_type_changes(line.tree)
    line.commit()
    line.pull()
    line.same()
    all_type_changes(line.tree, line.place)
    line.commit()
    line.pull()
    line.same()
    line.pull("web:base")
    line.pull()
    line.same()


def relink(tree: Path, *groups: tuple[str, ...]) -> None:
    """Give the tree exactly these groups of linked paths, all of them files a to f."""
    for name in "abcdef":
        (tree / name).unlink(missing_ok=True)
    for group in groups:
        first = tree / group[0]
        first.write_bytes(f"{group[0]} to {group[-1]}".encode() * 100)
        os.utime(first, ns=(1, 10**18))
        for name in group[1:]:
            os.link(first, tree / name)
    os.utime(tree, ns=(1, 10**18))


GROUPINGS = [
    [("a", "b"), ("c",)],
    [("a",), ("b",), ("c",)],
    [("a", "b", "c", "d")],
    [("b", "c")],
    [("b", "d"), ("a", "c")],
    [("c", "e"), ("f",)],
    [("a", "f"), ("b", "e"), ("c", "d")],
    [],
]


def test_every_change_of_hardlink_groups(quick: Path) -> None:
    line = Line(quick)
    versions = []
    for number, groups in enumerate(GROUPINGS):
        relink(line.tree, *groups)
        line.commit()
        stores.restore(line.store, "web", quick / f"version {number}")
        versions.append(line.store.resolve(stores.parse_spec("web")).id.hex()[:12])
    remote = stores.in_memory(line.store)
    for one, other in itertools.permutations(range(len(versions)), 2):
        node = quick / "node"
        bring(remote, f"web:{versions[one]}", node)
        bring(remote, f"web:{versions[other]}", node)
        same(quick / f"version {other}", node)


@pytest.mark.parametrize("kind", ["symlink", "to directory", "fifo", "device"])
def test_groups_of_linked_things_that_are_no_files(line: Line, kind: str) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("needs root: devices")
    make(line.tree / "a", kind, salt="old")
    line.commit()
    line.pull()
    os.link(line.tree / "a", line.tree / "b", follow_symlinks=False)
    line.commit()
    line.pull()
    line.same()
    for name in "ab":
        (line.tree / name).unlink()
    make(line.tree / "c", kind, salt="new")
    for name in "def":
        os.link(line.tree / "c", line.tree / name, follow_symlinks=False)
    line.commit()
    line.pull()
    line.same()


def test_metadata_alone_rewrites_no_file(line: Line) -> None:
    fill(line.tree)
    os.setxattr(line.tree / "top", "user.old", b"1")
    line.commit()
    line.pull()
    before = {name: (line.node / name).stat().st_ino for name in ("top", "a/1", "b/3")}
    (line.tree / "top").chmod(0o4711)
    os.removexattr(line.tree / "top", "user.old")
    os.setxattr(line.tree / "top", "user.new", b"2")
    os.utime(line.tree / "a/1", ns=(5, -5))
    os.utime(line.tree / "b", ns=(6, 6))
    if os.geteuid() == 0:
        os.chown(line.tree / "b/3", 7, 8)
        os.chown(line.tree / "a/symlink", 9, 9, follow_symlinks=False)
    line.commit()
    report, _ = line.pull()
    line.same()
    assert report.fetched_chunks == report.needed_chunks == 0
    assert {name: (line.node / name).stat().st_ino for name in before} == before


@trees.needs_root
@trees.needs("setfacl")
def test_acls_and_what_they_hand_down(line: Line) -> None:
    folder = line.tree / "folder"
    folder.mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:77:rwx,o::---", str(folder)], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:78:rwx", str(line.tree)], check=True)
    line.commit()
    line.pull()
    line.same()
    (line.tree / "plain").mkdir()
    subprocess.run(["setfacl", "-b", str(line.tree / "plain")], check=True)
    for name in ("file", "directory", "fifo"):
        make(folder / name, name, salt="x")
        subprocess.run(["setfacl", "-b", str(folder / name)], check=True)
    line.commit()
    line.pull()
    line.same()
    subprocess.run(["setfacl", "-b", str(folder)], check=True)
    line.commit()
    line.pull()
    line.same()


@trees.needs_root
def test_immutable_files_and_directories(line: Line) -> None:
    if not trees.has_flags(line.place):
        pytest.skip("no inode flags on this file system")

    def build(salt: str) -> None:
        trees.remove_tree(line.tree)
        line.tree.mkdir()
        for name in ("stays", "changes", "goes" if salt == "old" else "comes", "dressed"):
            (line.tree / name).mkdir()
            data = b"same" if name in ("stays", "dressed") else salt.encode()
            (line.tree / name / "file").write_bytes(data)
            (line.tree / name / salt).write_bytes(b"")
            os.utime(line.tree / name / "file", ns=(1, 10**18))
        (line.tree / "retyped").mkdir() if salt == "old" else (line.tree / "retyped").write_bytes(
            b"a file now"
        )
        (line.tree / "dressed/file").chmod(0o600 if salt == "old" else 0o644)
        for path in sorted(line.tree.rglob("*"), reverse=True):
            trees.set_flags(path, "i" if path.name != "changes" else "a")

    build("old")
    line.commit()
    line.pull()
    line.same()
    build("new")
    line.commit()
    line.pull()
    line.same()
    line.pull("web:base")
    line.pull()
    line.same()
    build("plain")
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(line.tree)], check=True)
    line.commit()
    line.pull()
    line.same()


@trees.needs_root
def test_a_link_to_an_immutable_file(line: Line) -> None:
    if not trees.has_flags(line.place):
        pytest.skip("no inode flags on this file system")
    (line.tree / "a").write_bytes(b"a")
    trees.set_flags(line.tree / "a", "i")
    line.commit()
    line.pull()
    for letters in ("i", ""):
        trees.set_flags(line.tree / "a", "")
        os.link(line.tree / "a", line.tree / f"linked {letters}")
        trees.set_flags(line.tree / "a", letters)
        line.commit()
        line.pull()
        line.same()


def test_what_the_image_does_not_know_stays(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    (line.node / "mine").write_bytes(b"mine")
    (line.node / "b/mine").write_bytes(b"mine too")
    shutil.rmtree(line.tree / "b")
    line.commit()
    report, _ = line.pull()
    assert (line.node / "mine").read_bytes() == b"mine"
    assert (line.node / "b/mine").read_bytes() == b"mine too"
    assert report.saved == []
    assert sorted(os.listdir(line.node / "b")) == ["mine"]


def test_what_is_in_the_way_is_saved(line: Line) -> None:
    (line.tree / "folder/inner").mkdir(parents=True)
    (line.tree / "folder/known").write_bytes(b"known")
    line.commit()
    line.pull()
    (line.node / "folder/inner/mine").write_bytes(b"mine")
    (line.node / "added").write_bytes(b"mine as well")
    (line.node / "added directory").write_bytes(b"and this")
    (line.node / "added over directory/below").mkdir(parents=True)
    shutil.rmtree(line.tree / "folder")
    (line.tree / "folder").write_bytes(b"a file now")
    (line.tree / "added").write_bytes(b"the image's")
    (line.tree / "added directory").mkdir()
    (line.tree / "added over directory").write_bytes(b"the image's")
    line.commit()
    report, _ = line.pull()
    line.same()
    saved = {path: line.node / os.fsdecode(place) for path, place in report.saved}
    assert saved.keys() == {
        *(b"folder", b"added", b"added directory"),
        b"added over directory",
    }
    assert (saved[b"folder"] / "inner/mine").read_bytes() == b"mine"
    assert not (saved[b"folder"] / "known").exists()
    assert saved[b"added"].read_bytes() == b"mine as well"
    assert saved[b"added directory"].read_bytes() == b"and this"
    assert (saved[b"added over directory"] / "below").is_dir()
    # Again, to the same version: what was saved before is not lost.
    line.pull("web:base")
    (line.node / "folder/more").write_bytes(b"more")
    report, _ = line.pull()
    line.same()
    assert [path for path, _ in report.saved] == [b"folder"]
    assert (line.node / os.fsdecode(report.saved[0][1]) / "more").read_bytes() == b"more"
    assert (saved[b"folder"] / "inner/mine").read_bytes() == b"mine"


def test_a_changed_file_is_no_source_of_chunks(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    with open(line.node / "top", "r+b") as file:
        file.write(b"drifted")
    (line.node / "b/3").unlink()
    os.rename(line.tree / "top", line.tree / "renamed")
    os.rename(line.tree / "b/3", line.tree / "a/3")
    line.commit()
    report, _ = line.pull()
    line.same()
    assert 0 < report.fetched_chunks < report.needed_chunks


# Hints that are wrong


def test_a_missing_or_damaged_index_is_read_from_the_pack(line: Line) -> None:
    fill(line.tree)
    line.commit()
    for damage in (None, b"", b"garbage" * 100):
        remote = stores.in_memory(line.store)
        for name in list(remote.list("packs/")):
            if name.endswith(".idx"):
                remote.delete(name)
                if damage is not None:
                    remote.put(name, damage)
        trees.remove_tree(line.node)
        bring(remote, "web", line.node)
        line.same()


def wrong_index(remote: MemoryBackend, how: str) -> None:
    """Replace each index by one that is whole, and wrong."""
    for name in [name for name in remote.list("packs/") if name.endswith(".idx")]:
        index = pack.parse_index(remote.get(name, 0, 1 << 30), name)
        records = list(pack.CHUNK.iter_unpack(index.chunks))
        match how:
            case "digests":
                digests = [digest for digest, _ in records]
                records = [
                    (digests[number - 1], length) for number, (_, length) in enumerate(records)
                ]
            case "lengths":
                frames, at = [], 0
                for frame in index.frames:
                    inside = records[at : at + frame.chunks]
                    lengths = sorted((length for _, length in inside), reverse=True)
                    records[at : at + frame.chunks] = [
                        (digest, length)
                        for (digest, _), length in zip(inside, lengths, strict=True)
                    ]
                    at += frame.chunks
                    frames.append(frame)
            case "offsets":
                frames = [
                    frame._replace(stored=max(frame.stored - 1, 1)) if frame.codec else frame
                    for frame in index.frames
                ]
                index = index._replace(frames=frames)
            case "other":
                index = index._replace(frames=index.frames[:1])
                records = records[: index.frames[0].chunks]
        chunks = b"".join(pack.CHUNK.pack(*record) for record in records)
        remote.put(name, pack.encode_index(index.frames, chunks))


@pytest.mark.parametrize("how", ["digests", "lengths", "offsets", "other"])
@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_index_costs_time_but_no_byte(line: Line, how: str, first: bool) -> None:
    fill(line.tree)
    (line.tree / "compressible").write_bytes(b"text " * 10_000)
    line.commit()
    if not first:
        line.pull()
        (line.tree / "a/new").write_bytes(trees.pseudo_random("new", 50_000))
        (line.tree / "text").write_bytes(b"other " * 10_000)
        line.commit()
    remote = stores.in_memory(line.store)
    wrong_index(remote, how)
    bring(remote, "web", line.node)
    line.same()


@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_locate_hint_is_an_error_and_the_tree_untouched(line: Line, first: bool) -> None:
    fill(line.tree)
    line.commit()
    if not first:
        line.pull()
        (line.tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
        line.commit()
    before = trees.facts(line.node) if line.node.exists() else None
    version_id = line.store.resolve(stores.parse_spec("web")).id
    name = layout.locate(version_id)
    absent = documents.encode_locate(version_id, [documents.PackUse(bytes(32), 100, 100)])
    for damage in (None, b"", b"garbage", documents.encode_locate(version_id, []), absent):
        remote = stores.in_memory(line.store)
        remote.delete(name)
        if damage is not None:
            remote.put(name, damage)
        with pytest.raises((NotFound, Corrupt)):
            bring(remote, "web", line.node)
        if before is not None:
            assert trees.differences(before, trees.facts(line.node)) == []
    line.pull()
    line.same()


def test_packs_that_were_repacked_since_are_found_again(line: Line) -> None:
    """The node's catalog is about packs that are no more."""
    fill(line.tree)
    (line.tree / "large").write_bytes(trees.pseudo_random("large", 40_000_000))
    line.commit()
    line.pull()
    line.pull("web")
    line.commit()
    for name in ("large", "top"):
        (line.tree / name).unlink()
    line.commit()
    line.pull()
    # Back to the first, from a remote whose packs all have other names now.
    remote = stores.in_memory(line.store)
    chunks: list[tuple[bytes, bytes]] = []
    for pack_id in list(line.store.packs()):
        with line.store.chunks() as reader:
            digests = [digest for digest, *_ in line.store.own_index(pack_id).places()]
            chunks += reader.get_many(digests).items()
        remote.delete(layout.pack(pack_id))
        remote.delete(layout.index(pack_id))
    forge = Forge()
    forge.backend = remote
    pack_id, index = forge.put_pack(chunks)
    remote.put(layout.index(pack_id), index)
    use = documents.PackUse(pack_id, remote.size(layout.pack(pack_id)), len(index))
    for name in list(remote.list("locate/")):
        version_id = bytes.fromhex(name.partition("/")[2])
        remote.put(name, documents.encode_locate(version_id, [use]))
    bring(remote, "web:base", line.node)
    stores.restore(line.store, "web:base", line.place / "base")
    trees.assert_same(line.place / "base", line.node)


@pytest.mark.parametrize("first", [True, False])
def test_a_damaged_pack_is_found_and_the_tree_untouched(line: Line, first: bool) -> None:
    fill(line.tree)
    line.commit()
    if not first:
        line.pull()
        (line.tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
        (line.tree / "top").unlink()
        line.commit()
    before = trees.facts(line.node) if line.node.exists() else None
    good = stores.in_memory(line.store)
    newest = line.store.locate(line.store.resolve(stores.parse_spec("web")).id)[0].pack
    name = layout.pack(newest)

    def refused(bad: MemoryBackend, pack_id: bytes) -> None:
        # On a copy each time: what was fetched whole once would not be fetched again.
        node = line.place / "copy"
        if before is not None:
            subprocess.run(["cp", "-a", str(line.node), str(node)], check=True)
        with pytest.raises(Corrupt, match=pack_id.hex()):
            bring(bad, "web", node)
        if before is not None:
            assert trees.differences(before, trees.facts(node)) == []
        trees.remove_tree(node)

    data = good.get(name, 0, 1 << 30)
    frames = line.store.own_index(newest).frames
    for frame in frames:
        for position in (frame.offset, frame.offset + frame.stored // 2):
            bad = stores.in_memory(line.store)
            bad.put(name, data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            refused(bad, newest)
    for length in (20, frames[0].offset + frames[0].stored - 1):
        bad = stores.in_memory(line.store)
        bad.put(name, data[:length])
        refused(bad, newest)
    line.pull()
    line.same()


def test_damage_to_the_nodes_own_state(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    (line.tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
    line.commit()
    state = line.node / ".imgstore"
    for name, is_cache in (("catalog.sqlite", True), ("state.sqlite", False)):
        good = (state / name).read_bytes()
        damages = [b"no database at all", good[: len(good) // 2]]
        damages += [
            good[:start] + b"\xff" * 1024 + good[start + 1024 :]
            for start in range(0, len(good), 2048)
        ]
        for damage in damages:
            copy = line.place / "copy"
            subprocess.run(["cp", "-a", str(line.node), str(copy)], check=True)
            for suffix in ("-wal", "-shm", "-journal"):
                (copy / f".imgstore/{name}{suffix}").unlink(missing_ok=True)
            (copy / ".imgstore" / name).write_bytes(damage)
            try:
                bring(stores.in_memory(line.store), "web", copy)
            except ChunkstoreError:
                assert not is_cache
            else:
                same(line.tree, copy)
            trees.remove_tree(copy)


# Interrupted


def edits(tree: Path) -> Iterator[None]:
    """A tree with some of everything, then other versions of it."""
    flags = os.geteuid() == 0 and trees.has_flags(tree)
    for folder in ("a/x", "b", "gone/deep", "retyped", "frozen"):
        (tree / folder).mkdir(parents=True)
    for name in ("a/1", "a/x/2", "b/3", "gone/deep/4", "retyped/5", "frozen/6", "same", "frozen/s"):
        (tree / name).write_bytes(trees.pseudo_random(name, 9000))
    os.link(tree / "a/1", tree / "b/linked")
    os.link(tree / "b/3", tree / "c")
    for name in ("joined", "parted"):
        (tree / f"{name} 1").write_bytes(b"the same, linked or not")
    os.link(tree / "parted 1", tree / "parted 2")
    shutil.copy(tree / "joined 1", tree / "joined 2")
    os.symlink("a", tree / "link")
    os.mkfifo(tree / "frozen/fifo")
    os.setxattr(tree / "a", "user.version", b"one")
    os.setxattr(tree / "same", "user.version", b"one")
    if flags:
        trees.set_flags(tree / "frozen/6", "i")
        trees.set_flags(tree / "frozen", "i")
    yield
    if flags:
        trees.set_flags(tree / "frozen", "")
        trees.set_flags(tree / "frozen/6", "")
    (tree / "a/1").write_bytes(trees.pseudo_random("changed", 9000))
    (tree / "b/3").unlink()
    (tree / "b/3").write_bytes(b"not linked any more")
    for name in ("joined", "parted"):
        (tree / f"{name} 2").unlink()
    shutil.copy2(tree / "parted 1", tree / "parted 2")
    os.link(tree / "joined 1", tree / "joined 2")
    shutil.rmtree(tree / "gone")
    shutil.rmtree(tree / "retyped")
    os.symlink("a", tree / "retyped")
    (tree / "link").unlink()
    (tree / "link/below").mkdir(parents=True)
    (tree / "link/below/new").write_bytes(trees.pseudo_random("new", 20_000))
    (tree / "same").chmod(0o4755)
    os.removexattr(tree / "same", "user.version")
    os.removexattr(tree / "a", "user.version")
    (tree / "frozen/6").chmod(0o600)
    (tree / "frozen/more").write_bytes(b"more")
    os.link(tree / "frozen/s", tree / "another")
    if flags:
        trees.set_flags(tree / "frozen/s", "i")
        trees.set_flags(tree / "frozen", "a")
    yield
    if flags:
        trees.set_flags(tree / "frozen", "")
        trees.set_flags(tree / "frozen/s", "")
    shutil.rmtree(tree / "a")
    (tree / "a").write_bytes(trees.pseudo_random("a/1", 9000))
    (tree / "same").chmod(0o644)
    (tree / "retyped").unlink()
    (tree / "retyped").mkdir()
    (tree / "retyped/5").write_bytes(trees.pseudo_random("retyped/5", 9000))
    (tree / "frozen/more").unlink()
    os.mkfifo(tree / "z")
    yield


class Versions:
    """Three versions of a tree in a remote, each with a copy to compare with."""

    def __init__(self, place: Path) -> None:
        self.place = place
        tree = place / "tree"
        tree.mkdir()
        self.store = stores.make_store(place / "store")
        self.copies = []
        self.specs = []
        for number, _ in enumerate(edits(tree)):
            settle()
            found = record(self.store, tree)
            self.specs.append(f"web:{found.version.id.hex()[:16]}")
            self.copies.append(trees.facts(tree))
            assert found.is_new, number
        self.remote = stores.in_memory(self.store)
        self._count = itertools.count()

    def fresh_node(self) -> Path:
        return self.place / f"node {next(self._count)}"

    def is_version(self, node: Path, number: int) -> None:
        assert trees.differences(self.copies[number], trees.facts(node)) == []


@pytest.fixture
def versions(quick: Path) -> Versions:
    return Versions(quick)


def test_interrupted_at_every_call_of_the_remote(versions: Versions) -> None:
    for old, new in ((None, 0), (0, 1), (1, 2), (2, 0)):
        counter = FailingBackend(versions.remote)
        node = versions.fresh_node()
        if old is not None:
            bring(versions.remote, versions.specs[old], node)
        bring(counter, versions.specs[new], node)
        assert counter.calls > 2
        for after in range(counter.calls):
            node = versions.fresh_node()
            if old is not None:
                bring(versions.remote, versions.specs[old], node)
            with pytest.raises(TransferError):
                bring(FailingBackend(versions.remote, after=after), versions.specs[new], node)
            if old is not None:
                versions.is_version(node, old)  # the tree is not touched while it fetches
            bring(versions.remote, versions.specs[new], node)
            versions.is_version(node, new)
            trees.remove_tree(node)


def test_what_is_on_the_stage_is_not_fetched_again(line: Line) -> None:
    (line.tree / "old").write_bytes(b"old")
    line.commit()
    line.pull()
    for number in range(12):
        (line.tree / f"{number}").write_bytes(trees.pseudo_random(number, 3_000_000))
    line.commit()
    remote = stores.in_memory(line.store)
    counter = Recorder(remote)
    whole = sum(len(remote.get(name, 0, 1 << 30)) for name in remote.list("packs/"))
    received = []

    class Last(FailingBackend):
        """Delivers all but one range of the pack."""

        def get(self, name: str, start: int, stop: int) -> bytes:
            if name.endswith(".pack") and 20_000_000 < start < 25_000_000:
                time.sleep(0.3)
                raise TransferError("gone away")
            data = super().get(name, start, stop)
            received.append(len(data))
            return data

    with pytest.raises(TransferError):
        bring(Last(remote), "web", line.node)
    report = bring(counter, "web", line.node)
    line.same()
    assert sum(received) > 5_000_000
    assert report.received + sum(received) < whole + 300_000


def interrupted(versions: Versions, node: Path, number: int, limit: int) -> bool:
    """Pull version `number` with the power going off after so many changes; whether it did."""
    with pytest.MonkeyPatch.context() as patch:
        Fuse(patch, limit)
        try:
            bring(versions.remote, versions.specs[number], node)
        except Cut:
            return True
    return False


def steps(total: int, at_most: int) -> list[int]:
    return sorted({round(step) for step in _spread(total, at_most)})


def _spread(total: int, at_most: int) -> Iterator[float]:
    count = min(total, at_most)
    return (number * total / count for number in range(count))


def changes(versions: Versions, old: int | None, new: int) -> int:
    """How many changes the pull makes."""
    node = versions.fresh_node()
    if old is not None:
        bring(versions.remote, versions.specs[old], node)
    with pytest.MonkeyPatch.context() as patch:
        fuse = Fuse(patch, None)
        bring(versions.remote, versions.specs[new], node)
    trees.remove_tree(node)
    assert fuse.calls > 30
    return fuse.calls


@pytest.mark.parametrize(("old", "new"), [(None, 0), (None, 1), (0, 1), (1, 2), (2, 1)])
def test_cut_off_at_every_change_and_run_again(
    versions: Versions, old: int | None, new: int
) -> None:
    for limit in steps(changes(versions, old, new), 70):
        node = versions.fresh_node()
        if old is not None:
            bring(versions.remote, versions.specs[old], node)
        assert interrupted(versions, node, new, limit)
        if old is not None:
            finish_alone(versions, node, old, new)
        bring(versions.remote, versions.specs[new], node)
        versions.is_version(node, new)
        trees.remove_tree(node)


def finish_alone(versions: Versions, node: Path, old: int, new: int) -> None:
    """Without the network an interrupted update is finished, or had not begun."""
    is_begun = trees.differences(versions.copies[old], trees.facts(node)) != []
    report = recover(str(node))
    if is_begun:
        assert report.is_recovered or report.version.hex().startswith(versions.specs[new][4:])
    versions.is_version(node, new if report.version.hex()[:16] == versions.specs[new][4:] else old)


@pytest.mark.parametrize(
    ("old", "new", "instead"),
    [(None, 0, 1), (None, 1, 0), (None, 1, 2), (0, 1, 2), (0, 1, 0), (1, 2, 0), (2, 1, 0)],
)
def test_cut_off_and_another_version_instead(
    versions: Versions, old: int | None, new: int, instead: int
) -> None:
    for limit in steps(changes(versions, old, new), 40):
        node = versions.fresh_node()
        if old is not None:
            bring(versions.remote, versions.specs[old], node)
        assert interrupted(versions, node, new, limit)
        bring(versions.remote, versions.specs[instead], node)
        versions.is_version(node, instead)
        trees.remove_tree(node)


@pytest.mark.parametrize("old", [None, 0])
def test_cut_off_twice_on_the_way_to_different_versions(
    versions: Versions, old: int | None
) -> None:
    """What the first interruption left must not be forgotten by the second."""
    for first, second in itertools.product(steps(changes(versions, old, 1), 14), range(0, 120, 17)):
        for last in (2, 0):
            node = versions.fresh_node()
            if old is not None:
                bring(versions.remote, versions.specs[old], node)
            interrupted(versions, node, 1, first)
            interrupted(versions, node, last, second)
            bring(versions.remote, versions.specs[last], node)
            versions.is_version(node, last)
            trees.remove_tree(node)


PULLER = """
from chunkstore.objects.names import parse_spec
from chunkstore.pull import PullOptions, Trust, pull
from chunkstore.storage.backends.local import LocalBackend
import lz4.block, zstandard

def work(store, spec, node):
    pull(LocalBackend(store), [parse_spec(spec)], node, options=PullOptions(trust=Trust.FIRST))
"""


def killed_pulls(place: Path, rounds: int, seed: int, *, first: bool) -> int:
    """Kill pulls at random moments and run them again; how many were killed at work."""
    versions = Versions(place)
    chance = random.Random(seed)
    node = versions.fresh_node()
    killed = 0
    whole = 0.1
    with stores.Workers(PULLER) as workers:
        for number in range(rounds):
            if first:
                trees.remove_tree(node)
            for version in (1 + number % 2, chance.randrange(3)):
                seconds = chance.uniform(0, whole)
                if not workers.run(
                    versions.store.root, versions.specs[version], node, kill_after=seconds
                ):
                    versions.is_version(node, version)
                    whole *= 0.8
                else:
                    whole *= 1.2
                    killed += 1
            version = chance.randrange(3)
            bring(versions.remote, versions.specs[version], node)
            versions.is_version(node, version)
    return killed


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_random_moments(quick: Path, first: bool) -> None:
    assert killed_pulls(quick, 15, 1, first=first) > 5


@pytest.mark.campaign
@pytest.mark.parametrize("first", [True, False])
def test_killed_at_random_moments_for_long(place: Path, first: bool) -> None:
    assert killed_pulls(place, 300, 2, first=first) > 100


# No room


@trees.needs_root
def test_no_room_for_an_update_leaves_the_tree_alone(place: Path) -> None:
    line = Line(place)
    (line.tree / "old").write_bytes(trees.pseudo_random("old", 1_000_000))
    line.commit()
    trees.mount_tmpfs(place / "mount", "size=5m")
    line.node = place / "mount/node"
    line.pull()
    before = trees.facts(line.node)
    (line.tree / "new").write_bytes(trees.pseudo_random("new", 6_000_000))
    line.commit()
    with pytest.raises(LocalError, match="no space: 6000000 bytes"):
        line.pull()
    assert trees.facts(line.node) == before
    # Room for the files but not for the frames they come in as well.
    subprocess.run(["mount", "-o", "remount,size=9m", str(place / "mount")], check=True)
    with pytest.raises(LocalError, match="o space"):
        line.pull()
    assert trees.facts(line.node) == before
    subprocess.run(["mount", "-o", "remount,size=32m", str(place / "mount")], check=True)
    line.pull()
    same(line.tree, line.node)


@trees.needs_root
def test_no_room_for_a_first_installation(place: Path) -> None:
    line = Line(place)
    (line.tree / "file").write_bytes(trees.pseudo_random("file", 6_000_000))
    line.commit()
    trees.mount_tmpfs(place / "mount", "size=4m")
    line.node = place / "mount/node"
    with pytest.raises(LocalError, match="no space"):
        line.pull()
    assert os.listdir(line.node) == [".imgstore"]


@trees.needs_root
def test_holes_and_links_need_no_room(place: Path) -> None:
    line = Line(place)
    trees.sparse_file(line.tree / "lastlog", 5 << 30, (4096, b"data"))
    (line.tree / "file").write_bytes(trees.pseudo_random("file", 1_000_000))
    for number in range(10):
        os.link(line.tree / "file", line.tree / f"link {number}")
    line.commit()
    trees.mount_tmpfs(place / "mount", "size=6m")
    line.node = place / "mount/node"
    line.pull()
    assert trees.differences(trees.facts(line.tree), trees.facts(line.node)) == []
    trees.sparse_file(line.tree / "another", 5 << 30, (0, b"data"))
    line.commit()
    line.pull()
    assert trees.differences(trees.facts(line.tree), trees.facts(line.node)) == []


@trees.needs_root
def test_an_interrupted_installation_goes_on_with_the_room_it_has_left(place: Path) -> None:
    line = Line(place)
    for number in range(4):
        (line.tree / f"{number}").write_bytes(trees.pseudo_random(number, 1_000_000))
    line.commit()
    trees.mount_tmpfs(place / "mount", "size=6m")
    line.node = place / "mount/node"

    class Late(FailingBackend):
        def get(self, name: str, start: int, stop: int) -> bytes:
            if 2_000_000 < start < 3_500_000 and name.endswith(".pack"):
                raise TransferError("gone away")
            return super().get(name, start, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.storage.chunks.MAX_RANGE", 500_000)
        patch.setattr("chunkstore.storage.chunks.WINDOW", 500_000)
        patch.setitem(chunks.plan_ranges.__kwdefaults__, "max_range", 500_000)
        with pytest.raises(TransferError):
            bring(Late(stores.in_memory(line.store)), "web", line.node)
    assert len(os.listdir(line.node)) > 2, "some files are there"
    line.pull()
    line.same()


@trees.needs_root
def test_an_update_that_failed_for_room_leaves_none_of_it_taken(place: Path) -> None:
    """Files made aside before an interruption must not count against the next try."""
    line = Line(place)
    (line.tree / "old").write_bytes(b"old")
    line.commit()
    trees.mount_tmpfs(place / "mount", "size=10m")
    line.node = place / "mount/node"
    line.pull()
    (line.tree / "new").write_bytes(trees.pseudo_random("new", 4_000_000))
    line.commit()
    from chunkstore.worktree import journal

    with pytest.MonkeyPatch.context() as patch:

        def cut(*_: object) -> None:
            raise Cut

        patch.setattr(journal, "write", cut)
        with pytest.raises(Cut):
            line.pull()
    (place / "mount/other").write_bytes(bytes(1_000_000))
    line.pull()
    line.same()


# Hostile manifests


@pytest.fixture
def canary(place: Path) -> Iterator[Path]:
    """A directory outside the target that must stay as it is."""
    path = place / "canary"
    path.mkdir()
    (path / "file").write_bytes(b"canary")
    (path / "setuid").write_bytes(b"")
    (path / "setuid").chmod(0o755)
    before = trees.facts(path)
    yield path
    assert trees.facts(path) == before


BAD_PATHS = [
    *(b"..", b"../canary/new", b"a/../../canary/new", b"a/..", b".", b"a/.", b"./a"),
    *(b"/canary", b"/", b"a//b", b"a/", b"a\0b", b"x" * 256, b"a/" + b"x" * 256),
    *(b"/".join([b"d" * 250] * 17), b".imgstore", b".imgstore/state.sqlite", b"\0"),
]


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("first", [True, False])
def test_paths_no_tree_has_are_refused(place: Path, canary: Path, path: bytes, first: bool) -> None:
    forge, node = Forge(), place / "node"
    before = None
    if not first:
        forge.publish(forge.directory(b""), forge.directory(b"a"))
        bring(forge.backend, "web", node)
        before = trees.facts(node)
    forge.publish(forge.directory(b""), forge.directory(b"a"), forge.file(path, b"evil"))
    with pytest.raises(Corrupt):
        bring(forge.backend, "web", node)
    if before is not None:
        assert trees.facts(node) == before
    else:
        assert os.listdir(node) == [".imgstore"]


def hostile(forge: Forge, canary: Path) -> dict[str, list[entries.Entry]]:
    """Manifests each of whose paths is honest, but not all of them together."""
    outside = os.fsencode(canary)
    root = forge.directory(b"")
    link = forge.symlink(b"link", outside)
    return {
        "file below a symlink": [root, link, forge.file(b"link/new", b"evil")],
        "file over one below a symlink": [root, link, forge.file(b"link/file", b"evil")],
        "directory below a symlink": [root, link, forge.directory(b"link/new")],
        "fifo below a symlink": [root, link, forge.fifo(b"link/new")],
        "file below a file": [root, forge.file(b"f", b"x"), forge.file(b"f/new", b"evil")],
        "file without a directory": [root, forge.file(b"nowhere/new", b"evil")],
        "deep file without a directory": [root, forge.file(b"no/where/new", b"evil")],
        "hardlink to a symlink outside": [
            *(root, forge.symlink(b"a", outside + b"/file")),
            forge.file(b"b", b"evil", link=b"a", flags=0x10, mode=0o4777, uid=5),
        ],
        "hardlink below a symlink": [
            *(root, link),
            forge.file(b"m", b"evil", link=b"link/file", mode=0o4777, flags=0x10),
        ],
        "hardlink to a directory": [
            *(root, forge.directory(b"a")),
            forge.file(b"b", b"evil", link=b"a"),
        ],
        "hardlink to nothing": [root, forge.file(b"b", b"evil", link=b"a")],
        "hardlink to the root": [root, forge.file(b"b", b"evil")._replace(link=b"")],
        "hardlink to a fifo": [
            *(root, forge.fifo(b"a")),
            forge.file(b"b", b"evil", link=b"a", flags=0x10),
        ],
        "flags on a fifo": [root, forge.fifo(b"a", flags=0x10)],
        "flags on a symlink": [root, forge.symlink(b"a", outside + b"/file", flags=0x10)],
        "no root": [forge.file(b"a", b"evil")],
        "wrong length": [root, forge.file(b"a", b"evil")._replace(size=5)],
        "content that is nowhere": [
            root,
            forge.file(b"a")._replace(size=4, content=bytes(31) + b"\1" + b"\4" + bytes(7)),
        ],
        "chunk too long": [
            root,
            forge.file(b"a")._replace(
                size=1 << 40, content=bytes(31) + b"\1" + (1 << 40).to_bytes(8, "little")
            ),
        ],
    }


NAMES = list(hostile(Forge(), Path("/canary")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.timeout(30)
def test_manifests_that_are_hostile_as_a_whole(
    place: Path, canary: Path, name: str, first: bool
) -> None:
    forge, node = Forge(), place / "node"
    if not first:
        forge.publish(forge.directory(b""), forge.file(b"old", b"old"))
        bring(forge.backend, "web", node)
    items = hostile(forge, canary)[name]
    forge.publish(*items)
    with suppress(Corrupt, LocalError, NotFound):
        bring(forge.backend, "web", node)
        assert name in ("hardlink to the root", "flags on a fifo", "flags on a symlink")
    inodes = {(canary / path).stat().st_ino for path in ("file", "setuid")}
    for path in node.rglob("*"):
        assert path.lstat().st_ino not in inodes, f"{path} is the canary"


@pytest.mark.parametrize("first", [True, False])
def test_a_planted_symlink_is_not_written_through(place: Path, canary: Path, first: bool) -> None:
    """A local user who may write in the tree puts links where the pull is about to write."""
    forge, node = Forge(), place / "node"
    root = forge.directory(b"")
    forge.publish(root, forge.directory(b"d"), forge.file(b"d/file", b"one"))
    if first:
        with pytest.raises(TransferError):
            bring(_CutOff(forge.backend), "web", node)
    else:
        bring(forge.backend, "web", node)
        forge.publish(
            *(root, forge.directory(b"d"), forge.file(b"d/file", b"two")),
            forge.file(b"d/setuid", b"new", mode=0o4755),
        )
    shutil.rmtree(node / "d", ignore_errors=True)
    os.symlink(canary, node / "d")
    with pytest.raises(ChunkstoreError) if not first else nullcontext():
        bring(forge.backend, "web", node)


class _CutOff(FailingBackend):
    """Delivers the manifest and no content."""

    packs = 0

    def get(self, name: str, start: int, stop: int) -> bytes:
        self.packs += name.endswith(".pack")
        if self.packs > 1:
            raise TransferError("cut off")
        return super().get(name, start, stop)


def test_a_state_directory_somebody_else_planted(place: Path, canary: Path) -> None:
    forge, node = Forge(), place / "node"
    forge.publish(forge.directory(b""))
    node.mkdir()
    os.symlink(canary, node / ".imgstore")
    with pytest.raises(LocalError, match="not a directory of ours"):
        bring(forge.backend, "web", node)


def test_a_tree_of_another_store_under_the_same_name(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    other = Forge()
    other.publish(other.directory(b""))
    with pytest.raises(Untrusted, match="belongs to another store"):
        bring(other.backend, "web", line.node)
    line.same()

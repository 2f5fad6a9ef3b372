"""First installations: all of it arrives, into nothing but an empty directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stores, trees
from support.lines import Recorder, same
from support.stores import bring, record

from chunkstore.errors import (
    Conflict,
    NotFound,
)
from chunkstore.objects import manifest
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load, NodeRef
from chunkstore.pull import first
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.memory import FailingBackend, MemoryBackend


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


@pytest.mark.parametrize(("room", "passes"), [(1 << 24, 1), (0, 2), (300, 2)])
def test_a_manifest_is_decoded_once_and_a_long_one_not_kept(
    place: Path, variety: Path, monkeypatch: pytest.MonkeyPatch, room: int, passes: int
) -> None:
    store = stores.make_store(place / "store")
    record(store, variety)
    walked: list[NodeRef] = []

    def walk(root: NodeRef, load: Load) -> Iterator[Entry]:
        walked.append(root)
        yield from real(root, load)

    real = manifest.walk
    monkeypatch.setattr(manifest, "walk", walk)
    monkeypatch.setattr(first, "_KEPT_BYTES", room)
    report = bring(LocalBackend(store.root), "web", place / "node")
    trees.assert_same(variety, place / "node")
    assert report.entries == report.changed
    assert len(walked) == passes


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

"""Commit: what it says, and what it writes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from support import stores, trees
from support.stores import listing, record, settle

from chunkstore.commit import remembered_directory, status
from chunkstore.errors import LocalError, Usage
from chunkstore.objects.chunker import Parameters
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.store import Store


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

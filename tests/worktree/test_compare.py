"""Whether a path is what its entry says, for resuming and for verifying."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import record

from chunkstore.fsio import Directory
from chunkstore.worktree.compare import drift, same_content


def letters(store: stores.Store, tree: Path) -> dict[bytes, str]:
    root = store.resolve(stores.parse_spec("web")).version.root
    with store.chunks() as chunks, Directory(str(tree)) as directory:
        found = {
            entry.path: drift(directory, entry, chunks.get)
            for entry in stores.entries_of(store, root)
        }
    return {path: letter for path, letter in found.items() if letter}


def test_what_was_checked_out_has_not_drifted(place: Path, variety: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, variety)
    stores.restore(store, "web", place / "out")
    assert letters(store, place / "out") == {}


def same_times(path: Path, change: Callable[[Path], object]) -> None:
    status = path.stat()
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "file": ("M", lambda path: same_times(path, lambda p: p.write_bytes(b"Content"))),
    "longer": ("M", lambda path: same_times(path, lambda p: p.write_bytes(b"content and more"))),
    "time": ("m", lambda path: os.utime(path, ns=(1, 1))),
    "mode": ("m", lambda path: path.chmod(0o600)),
    "xattr": ("m", lambda path: os.setxattr(path, "user.new", b"1")),
    "gone": ("D", lambda path: path.unlink()),
    "retyped": ("T", lambda path: (path.unlink(), path.mkdir())),
    "to socket": ("T", lambda path: (path.unlink(), os.mknod(path, 0o140600))),
    "link": ("M", lambda path: (path.unlink(), os.symlink("elsewhere", path))),
    "sparse": ("M", lambda path: same_times(path, _poke)),
}


def _poke(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(500_000)
        file.write(b"x")


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_has_its_letter(quick: Path, name: str) -> None:
    letter, change = CHANGES[name]
    tree = quick / "tree"
    tree.mkdir()
    if name == "link":
        os.symlink("target", tree / name)
    elif name == "sparse":
        trees.sparse_file(tree / name, 1_000_000, (0, b"start"))
    else:
        (tree / name).write_bytes(b"content")
    store = stores.make_store(quick / "store")
    record(store, tree)
    time = tree.stat().st_mtime_ns
    change(tree / name)
    os.utime(tree, ns=(time, time))
    assert letters(store, tree) == {name.encode(): letter}


def test_a_hole_that_was_filled_with_zeros_is_the_same(quick: Path) -> None:
    tree = quick / "tree"
    tree.mkdir()
    trees.sparse_file(tree / "file", 3_000_000, (0, b"start"))
    store = stores.make_store(quick / "store")
    record(store, tree)
    same_times(tree / "file", lambda path: path.write_bytes(path.read_bytes()))
    assert letters(store, tree) == {}


def test_what_lies_behind_a_link_is_not_looked_at(quick: Path) -> None:
    tree = quick / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(b"content")
    store = stores.make_store(quick / "store")
    record(store, tree)
    shutil.move(tree / "folder", quick / "folder")
    os.symlink(quick / "folder", tree / "folder")
    found = letters(store, tree)
    assert (found[b"folder"], found[b"folder/file"]) == ("T", "D")


def test_a_fifo_in_place_of_a_file_does_not_hold_us_up(quick: Path) -> None:
    tree = quick / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    store = stores.make_store(quick / "store")
    record(store, tree)
    (tree / "file").unlink()
    os.mkfifo(tree / "file")
    assert letters(store, tree)[b"file"] == "T"


def test_a_file_that_ends_early(quick: Path) -> None:
    tree = quick / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(trees.pseudo_random("file", 50_000))
    store = stores.make_store(quick / "store")
    root = record(store, tree).version.version.root
    (entry,) = (item for item in stores.entries_of(store, root) if item.path == b"file")
    descriptor = os.open(tree / "file", os.O_RDONLY)
    with store.chunks() as chunks:
        assert same_content(descriptor, entry, chunks.get)
        os.truncate(tree / "file", 49_999)
        assert not same_content(descriptor, entry, chunks.get)
    os.close(descriptor)

"""Versions of a tree to go between, and pulls that are cut off on the way."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import stores, trees
from support.fuse import Cut, Fuse
from support.stores import bring, record, settle


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

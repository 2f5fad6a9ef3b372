"""Disks too small for what a pull brings."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import stores, trees
from support.fuse import Cut
from support.lines import Line, same
from support.stores import bring

from chunkstore.errors import (
    LocalError,
    TransferError,
)
from chunkstore.storage import ranges
from chunkstore.storage.backends.memory import FailingBackend


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
        patch.setattr("chunkstore.storage.chunks.WINDOW", 500_000)
        patch.setitem(ranges.plan_ranges.__kwdefaults__, "max_range", 500_000)
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

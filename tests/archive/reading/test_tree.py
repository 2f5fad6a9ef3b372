"""The table of paths: order, hardlinks, whatever bytes are in a name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkstore.archive.reading.tree import Tree
from chunkstore.errors import Corrupt, LocalError
from chunkstore.objects import manifest
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.names import sort_key

COMPONENT = st.one_of(
    st.binary(min_size=1, max_size=4).filter(
        lambda name: not set(name) & {0, ord("/")} and name not in (b".", b"..", b".imgstore")
    ),
    st.sampled_from([b"a", b"a-", b"a b", b"\xff" * 255, b"\x01"]),
)
PATH = st.lists(COMPONENT, min_size=1, max_size=4).map(b"/".join)


def regular(path: bytes, **more: object) -> Entry:
    return Entry(path, FILE, 0o644, 0, 0, 1, **more)  # type: ignore[arg-type]


def folder(path: bytes) -> Entry:
    return Entry(path, DIRECTORY, 0o755, 0, 0, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(paths=st.lists(PATH, unique=True, max_size=20), moved=PATH)
def test_any_paths_come_out_in_order(paths: list[bytes], moved: bytes, tmp_path: Path) -> None:
    with Tree(str(tmp_path)) as tree:
        tree.put(folder(b""))
        for path in paths:
            tree.put(folder(path))
        found = [entry.path for entry in tree.entries()]
        assert found == sorted(found, key=sort_key)
        assert set(paths) <= set(found)
        names = {path.split(b"/")[0] for path in found if path}
        assert dict(tree.names(b"")) == dict.fromkeys(names, DIRECTORY)
        for name in sorted(names)[:1]:
            below = [path for path in found if path == name or path.startswith(name + b"/")]
            target = b"moved" + moved
            if target.split(b"/")[0] in names:
                return
            tree.rename(name, target)
            now = {entry.path for entry in tree.entries()}
            assert {target + path[len(name) :] for path in below} <= now
            assert not now & set(below)
            tree.remove(target)
            assert len(list(tree.entries())) == len(found) - len(below) + target.count(b"/")
            manifest.build(tree.entries(), chunk_digest)
    assert os.listdir(tmp_path) == []


def test_groups_follow_the_inode(tmp_path: Path) -> None:
    with Tree(str(tmp_path)) as tree:
        tree.put(folder(b""))
        tree.put(regular(b"m", size=3))
        tree.link(b"z", b"m", 1)
        tree.link(b"a", b"z", 1)
        links = {entry.path: entry.link for entry in tree.entries()}
        assert links == {b"": b"", b"a": b"", b"m": b"a", b"z": b"a"}
        tree.put(regular(b"a", size=5))
        assert {entry.path: (entry.link, entry.size) for entry in tree.entries()} == {
            b"": (b"", 0),
            b"a": (b"", 5),
            b"m": (b"", 3),
            b"z": (b"m", 3),
        }
        tree.remove(b"m")
        tree.link(b"a", b"z", 1)
        assert [(entry.path, entry.link, entry.size) for entry in tree.entries()][1:] == [
            (b"a", b"", 3),
            (b"z", b"a", 3),
        ]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="table of paths"):
        Tree(str(tmp_path / "missing"))


def test_an_entry_without_a_directory_never_comes_out(tmp_path: Path) -> None:
    with Tree(str(tmp_path)) as tree:
        tree.put(folder(b""))
        tree.put(folder(b"a"))
        tree.layer = 2
        tree.put(regular(b"a/b"))
        tree.remove(b"a", before=2)
        with pytest.raises(Corrupt, match="a/b"):
            list(tree.entries())

"""Directories whose times say that they are as they were are not listed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import trees
from support.scanner import Scanner
from support.stores import settle

from chunkstore.worktree import scan as scanning


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were listed."""
    found: list[str] = []
    listdir = os.listdir

    def note(folder: Any) -> list[str]:
        if isinstance(folder, int):
            found.append(os.readlink(f"/proc/self/fd/{folder}"))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", note)
    return found


def test_only_changed_directories_are_listed(
    tree: Path, scanner: Scanner, lists: list[str]
) -> None:
    scanner()
    assert len(lists) == 6
    lists.clear()
    (tree / "b/4").write_bytes(b"other")
    assert scanner() == {b"b/4": "found"}
    assert lists == []
    (tree / "a/deep/new").write_bytes(b"")
    (tree / "c").chmod(0o700)
    assert scanner().keys() == {b"a/deep", b"a/deep/new", b"b/4", b"c"}
    assert lists == [str(tree / "a/deep"), str(tree / "c")]
    settle()
    scanner()
    lists.clear()
    (tree / "new").write_bytes(b"")
    assert scanner() == {b"": "found", b"new": "found"}
    assert lists == [str(tree)]


def test_a_directory_that_may_still_change_unseen_is_listed(
    tree: Path, scanner: Scanner, lists: list[str]
) -> None:
    (tree / "b/new").write_bytes(b"")
    scanner()
    lists.clear()
    assert scanner() == {b"b": "found", b"b/new": "found"}
    assert lists == [str(tree / "b")]


def test_a_name_that_comes_while_the_tree_is_walked_is_found_by_the_next_scan(
    tree: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the look at its directory, whose status is then kept as it was before."""
    scanner()
    stat = os.stat

    def look_and_add(path: Any, **options: Any) -> os.stat_result:
        if path == b"4":
            (tree / "b/late").write_bytes(b"")
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_and_add)
        assert scanner() == {}
    assert scanner() == {b"b": "found", b"b/late": "found"}


def test_where_times_of_directories_tell_little_all_are_listed(
    tree: Path, scanner: Scanner, lists: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "keeps_times", lambda _: False)
    scanner()
    lists.clear()
    assert scanner() == {}
    assert len(lists) == 6


@trees.needs_root
def test_a_lower_layer_that_changed_while_it_was_not_mounted(place: Path) -> None:
    """The times of an overlay's directory are those of its upper one."""
    trees.mount_tmpfs(place / "layers", "size=4m,mode=755")
    for name in ("lower/both", "upper/both", "work"):
        (place / "layers" / name).mkdir(parents=True)
    (place / "layers/lower/both/old").write_bytes(b"")
    (place / "layers/upper/both/own").write_bytes(b"")
    tree = place / "tree"
    tree.mkdir()
    options = ",".join(
        f"{kind}={place}/layers/{name}"
        for kind, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
    )
    command = ["mount", "-t", "overlay", "-o", options, "overlay", str(tree)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("overlays can't be mounted here")
    scanner = Scanner(tree, place / "cache")
    try:
        for _ in range(2):  # the first look at a merged directory leaves a mark on its upper one
            scanner()
            settle()
        scanner()
        assert scanner() == {}
        trees.unmount(tree)
        (place / "layers/lower/both/new").write_bytes(b"")
        subprocess.run(command, check=True)
        assert b"both/new" in scanner()
    finally:
        trees.unmount(tree)

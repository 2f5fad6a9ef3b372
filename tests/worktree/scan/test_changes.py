"""Which paths a scan yields: all at first, then those that changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.scanner import Scanner, everything
from support.stores import settle


def test_the_first_scan_finds_everything(tree: Path, scanner: Scanner) -> None:
    assert scanner().keys() == everything(tree)
    assert scanner.report.paths == len(everything(tree))


def test_an_unchanged_tree_yields_nothing_and_leaves_the_cache_alone(
    place: Path, scanner: Scanner
) -> None:
    scanner()
    before = (place / "cache").stat()
    assert scanner() == {}
    assert scanner() == {}
    after = (place / "cache").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(os.listdir(place)) == ["cache", "tree"]


def test_only_what_changed_is_found(tree: Path, scanner: Scanner) -> None:
    scanner()
    (tree / "a/deep/2").write_bytes(b"other")
    (tree / "b/5").chmod(0o700)
    os.utime(tree / "top", ns=(7, 7))
    assert scanner() == {b"a/deep/2": "found", b"b/5": "found", b"top": "found"}


def test_what_goes_while_it_is_looked_at_is_gone(
    tree: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner()
    (tree / "b/new").write_bytes(b"")
    listdir = os.listdir

    def list_and_remove(folder: int) -> list[str]:
        names = listdir(folder)
        if "5" in names:
            (tree / "b/5").unlink()
        return names

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", list_and_remove)
        found = scanner()
    assert found == {b"b": "found", b"b/5": "gone", b"b/new": "found"}
    assert scanner.report.errors == []


def test_what_goes_from_an_unchanged_directory_while_it_is_looked_at_is_gone(
    tree: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner()
    stat = os.stat

    def look_and_remove(path: Any, **options: Any) -> os.stat_result:
        if path == b"4":
            (tree / "b/5").unlink(missing_ok=True)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_and_remove)
        found = scanner()
    assert found == {b"b/5": "gone"}
    assert scanner.report.errors == []
    assert scanner() == {b"b": "found"}


def test_new_and_removed_paths(tree: Path, scanner: Scanner) -> None:
    scanner()
    (tree / "a/new").write_bytes(b"")
    shutil.rmtree(tree / "a/deep")
    (tree / "b/4").unlink()
    assert scanner() == {
        b"a": "found",
        b"a/deep": "gone",
        b"a/new": "found",
        b"b": "found",
        b"b/4": "gone",
    }
    settle()
    scanner()  # what was young
    assert scanner() == {}


@pytest.mark.parametrize("last", [False, True])
def test_a_removed_directory_wherever_it_stood(tree: Path, scanner: Scanner, last: bool) -> None:
    scanner()
    shutil.rmtree(tree / ("c" if last else "a"))
    assert scanner() == {b"": "found", b"c" if last else b"a": "gone"}


def test_changed_types(tree: Path, scanner: Scanner) -> None:
    scanner()
    shutil.rmtree(tree / "a/deep")
    (tree / "a/deep").write_bytes(b"a file now")
    (tree / "b/4").unlink()
    (tree / "b/4").mkdir()
    (tree / "b/4/inside").write_bytes(b"")
    found = scanner()
    assert found.keys() == {b"a", b"a/deep", b"b", b"b/4", b"b/4/inside"}
    assert set(found.values()) == {"found"}


def test_a_file_replaced_by_one_that_looks_alike(tree: Path, scanner: Scanner) -> None:
    scanner()
    status = (tree / "top").stat()
    (tree / "top.new").write_bytes(b"TOP")
    os.utime(tree / "top.new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(tree / "top.new", tree / "top")
    assert b"top" in scanner()


def test_a_change_hidden_behind_an_old_mtime(tree: Path, scanner: Scanner) -> None:
    scanner()
    status = (tree / "top").stat()
    (tree / "top").write_bytes(b"TOP")
    os.utime(tree / "top", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert b"top" in scanner()


def test_swapped_directories(tree: Path, scanner: Scanner) -> None:
    (tree / "c/4").write_bytes(b"b/4")
    (tree / "c/5").write_bytes(b"b/5")
    settle()
    scanner()
    os.rename(tree / "b", tree / "x")
    os.rename(tree / "c", tree / "b")
    os.rename(tree / "x", tree / "c")
    assert scanner().keys() >= {b"b", b"b/4", b"b/5", b"c", b"c/4", b"c/5"}

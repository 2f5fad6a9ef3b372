"""What is left out, and what can't or must not be entered."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import stores, trees
from support.scanner import Scanner, everything
from support.stores import record, settle
from support.variety import ODD_NAMES

from chunkstore.errors import LocalError


def test_excludes(tree: Path, scanner: Scanner) -> None:
    (tree / "b/x.log").write_bytes(b"")
    (tree / "x.log").write_bytes(b"")
    (tree / "b/deep").write_bytes(b"a file, not a directory")
    found = scanner(b"*.log", b"deep/", b"/c")
    assert found.keys() == everything(tree) - {
        *(b"b/x.log", b"x.log", b"c", b"a/deep", b"a/deep/2", b"a/deep/er", b"a/deep/er/3"),
    }


def test_the_state_directory_is_left_out_at_the_top_only(tree: Path, scanner: Scanner) -> None:
    (tree / ".imgstore").mkdir()
    (tree / ".imgstore/state").write_bytes(b"")
    (tree / "b/.imgstore").mkdir()
    found = scanner()
    assert b"b/.imgstore" in found
    assert not any(path.startswith(b".imgstore") for path in found)


@trees.needs_root
def test_a_mount_point_is_recorded_without_what_is_mounted(
    place: Path, tree: Path, scanner: Scanner
) -> None:
    trees.mount_tmpfs(tree / "mounted", "size=1m,mode=755")
    (tree / "mounted/inside").write_bytes(b"")
    found = scanner()
    assert b"mounted" in found
    assert b"mounted/inside" not in found
    assert [path for path, _ in scanner.report.warnings] == [b"mounted"]


@trees.needs_root
def test_what_a_mount_hides_is_gone_until_it_is_unmounted(tree: Path, scanner: Scanner) -> None:
    scanner()
    trees.mount_tmpfs(tree / "a", "size=1m,mode=755")
    assert scanner() == {b"a": "found", b"a/1": "gone", b"a/deep": "gone"}
    settle()
    scanner()
    assert scanner() == {}
    trees.unmount(tree / "a")
    found = scanner()
    assert found.keys() == {b"a", b"a/1", b"a/deep", b"a/deep/2", b"a/deep/er", b"a/deep/er/3"}


def test_sockets_are_warned_of_and_left_out(tree: Path, scanner: Scanner) -> None:
    os.mknod(tree / "b/s.sock", 0o140600)
    assert scanner()[b"b/s.sock"] == "gone"
    assert [path for path, _ in scanner.report.warnings] == [b"b/s.sock"]


def test_a_path_that_is_too_long_is_an_error(quick: Path) -> None:
    tree = quick / "tree"
    longest = trees.deep(tree, component=b"d" * 200, length=4095)
    folder = os.open(tree, os.O_RDONLY)
    for name in longest.split(b"/")[:-1]:
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    too_long = longest + b"f"
    os.close(os.open(too_long.rpartition(b"/")[2], os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    scanner = Scanner(tree, quick / "cache")
    assert longest in scanner()
    assert [path for path, _ in scanner.report.errors] == [too_long]
    with pytest.raises(LocalError, match="longer than 4095"):
        record(stores.make_store(quick / "store"), tree)


def test_the_longest_paths_are_found(quick: Path) -> None:
    for number, (component, length) in enumerate(((b"d" * 255, 4095), (b"d", 4095))):
        tree = quick / f"tree {number}"
        path = trees.deep(tree, component=component, length=length)
        assert len(path) == 4095
        scanner = Scanner(tree, quick / "cache")
        assert scanner()[path] == "found"
        assert scanner.report.errors == []


def test_odd_names_come_through_whatever_the_locale_says(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    for name in ODD_NAMES:
        os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert Scanner(tree, place / "cache")().keys() == {b"", *ODD_NAMES}


@trees.needs("localedef")
def test_names_in_a_locale_that_is_not_unicode(place: Path) -> None:
    made = subprocess.run(
        ["localedef", "-c", "-i", "de_DE", "-f", "ISO-8859-1", str(place / "de_DE.ISO-8859-1")],
        capture_output=True,
        check=False,
    )
    if not (place / "de_DE.ISO-8859-1").is_dir():
        pytest.skip(f"can't make a locale: {made.stderr.decode()[:80]}")
    tree = place / "tree"
    tree.mkdir()
    for name in ODD_NAMES:
        os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    script = """
import sys, time
from chunkstore.fsio import Directory
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.scan import Scan
assert sys.getfilesystemencoding() == "iso8859-1", sys.getfilesystemencoding()
cache = WorktreeCache(sys.argv[2], spool=None)
scan = Scan(Directory(sys.argv[1]), cache, Patterns(), now=time.time_ns())
print([item.path for item in scan])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tree), str(place / "cache")],
        env={
            "PYTHONPATH": str(stores.PROJECT),
            "LOCPATH": str(place),
            "LC_ALL": "de_DE.ISO-8859-1",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        check=True,
    )
    assert set(ast.literal_eval(done.stdout.decode())) == {b"", *ODD_NAMES}

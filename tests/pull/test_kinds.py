"""Updates that turn any kind of thing into any other: types, links, ACLs, flags."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest
from support import stores, trees
from support.lines import Line, fill, same
from support.stores import bring

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

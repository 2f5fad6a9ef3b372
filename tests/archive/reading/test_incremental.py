"""Incremental archives of GNU tar: a full one and the ones after it, against its own unpacking."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import stores, trees
from support.tarballs import END, block, file, folder, padded, pax

from chunkstore.archive.reading import dumpdir
from chunkstore.errors import Corrupt
from chunkstore.importing import import_archives

PACK = ["tar", "-C", "tree", "-cf", "{archive}", "--listed-incremental=snapshot"]
UNPACK = ["tar", "-xpf", "../{archive}", "--listed-incremental=/dev/null"]


def call(command: list[str], archive: str, place: Path) -> None:
    words = [word.format(archive=archive) for word in command]
    done = subprocess.run(words, cwd=place, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def start(tree: Path) -> None:
    for name in ("a/one", "a/two", "b/c/deep", "b/c/deeper", "swap/x/1", "swap/y/2", "kind/f", "z"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / "kind/d").mkdir()
    os.link(tree / "a/one", tree / "linked")


def edit(tree: Path) -> None:
    """Removes, renames, trades names, changes kinds."""
    (tree / "a/one").unlink()
    (tree / "a").rename(tree / "renamed")
    (tree / "b/c").rename(tree / "moved")
    (tree / "swap/x").rename(tree / "swap/t")
    (tree / "swap/y").rename(tree / "swap/x")
    (tree / "swap/t").rename(tree / "swap/y")
    (tree / "kind/f").unlink()
    (tree / "kind/f").mkdir()
    (tree / "kind/f/inside").write_text("inside")
    (tree / "kind/d").rmdir()
    (tree / "kind/d").write_text("file")
    (tree / "new").mkdir()
    (tree / "new/file").write_text("new")


def edit_again(tree: Path) -> None:
    shutil.rmtree(tree / "moved")
    (tree / "renamed").rename(tree / "new/a")
    (tree / "z").write_text("changed")
    (tree / "b").rmdir()


@pytest.mark.parametrize("form", ["gnu", "posix"])
@trees.needs_root
@trees.needs("tar")
def test_what_gnu_tar_unpacks(form: str, place: Path) -> None:
    tree, theirs = place / "tree", place / "theirs"
    tree.mkdir()
    theirs.mkdir()
    store = stores.make_store(place / "store")
    names = []
    for number, change in enumerate((start, edit, edit_again)):
        # It takes what is as young as its snapshot for changed.
        time.sleep(1.1)
        change(tree)
        names.append(f"{number}.tar")
        call([*PACK, f"--format={form}", "."], names[-1], place)
    reports = import_archives(
        store, "web", [str(place / name) for name in names], now=time.time_ns()
    )
    assert [report.is_new for report in reports] == [True] * 3
    for number, name in enumerate(names):
        call(UNPACK, name, theirs)
        ours = place / f"ours{number}"
        stores.restore(store, f"web~{2 - number}", ours)
        assert trees.differences(trees.facts(theirs), trees.facts(ours)) == []
    assert trees.differences(trees.facts(tree), trees.facts(theirs), ignore=("mtime",)) == []


def lay(place: Path, *archives: bytes) -> list[str]:
    """The paths that archives laid over each other leave."""
    store = stores.make_store(place / "store")
    files = []
    for number, data in enumerate(archives):
        files.append(place / f"{number}.tar")
        files[-1].write_bytes(data)
    reports = import_archives(store, "web", list(map(str, files)), now=time.time_ns())
    found = stores.entries_of(store, reports[-1].version.version.root)
    return [os.fsdecode(item.path) for item in found if item.path]


def listed(name: bytes, listing: bytes) -> bytes:
    head = block(name, flavour=b"D", size=len(listing), mode=0o755)
    return head + padded(listing)


FULL = folder() + folder(b"a/") + file(b"a/f", b"f") + folder(b"b/") + file(b"g", b"g") + END


@pytest.mark.parametrize(
    ("listing", "left"),
    [
        (b"Da\0Db\0Ng\0\0", ["a", "a/f", "b", "g"]),
        (b"Da\0Ng\0\0", ["a", "a/f", "g"]),
        (b"\0", []),
        (b"Na\0Db\0Dg\0\0", ["b"]),
        (b"Ra\0Tb/a\0Db\0Ng\0\0", ["b", "b/a", "b/a/f", "g"]),
        (
            b"Ra\0Tnew/deep/a\0Db\0Dnew\0Ng\0\0",
            ["b", "g", "new", "new/deep", "new/deep/a", "new/deep/a/f"],
        ),
        (b"X.\0Ra\0T\0Rb\0Ta\0R\0Tb\0Da\0Db\0Ng\0\0", ["a", "b", "b/f", "g"]),
        (b"R./a/\0T./c/\0Dc\0Ng\0\0", ["c", "c/f", "g"]),
    ],
)
def test_listings(place: Path, listing: bytes, left: list[str]) -> None:
    assert lay(place, FULL, listed(b"./", listing) + END) == left


def test_a_listing_in_pax(place: Path) -> None:
    upper = pax((b"GNU.dumpdir", b"Da\0\0")) + folder() + END
    assert lay(place, FULL, upper) == ["a", "a/f"]


def test_a_listing_of_a_directory_that_is_new_removes_nothing(place: Path) -> None:
    assert lay(place, FULL, listed(b"new/", b"\0") + END) == ["a", "a/f", "b", "g", "new"]


@pytest.mark.parametrize(
    "listing",
    [
        b"Da",
        b"Da\0Qx\0\0",
        b"Da/b\0\0",
        b"D\0\0",
        b"Ra\0\0",
        b"Ra\0Da\0Tc\0\0",
        b"Tb\0\0",
        b"Ra\0Ra\0Tc\0\0",
        b"Ra\0T../b\0\0",
        b"R../../etc\0Tb\0\0",
        b"R/\0Tb\0\0",
        b"Ra\0T.\0\0",
        b"Rmissing\0Tc\0\0",
        b"Ra\0Tb\0\0",
        b"Ra\0Ta/x\0\0",
        b"Ra\0T\0Da\0\0",
        b"Ra\0Tg/x\0\0",
        b"Da\0\0more\0",
        b"",
    ],
)
def test_listings_that_make_no_sense(place: Path, listing: bytes) -> None:
    with pytest.raises(Corrupt):
        lay(place, FULL, listed(b"./", listing) + END)


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"Ya", b"Db", b"Rx", b"Ty", b"X.", b""])).map(b"\0".join)
)
def test_any_listing(data: bytes) -> None:
    try:
        found = dumpdir.parse(data, "test")
    except Corrupt:
        return
    assert all(b"/" not in name and name for name in found.names)
    assert all(b".." not in path.split(b"/") for pair in found.renamed for path in pair)

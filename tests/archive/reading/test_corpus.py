"""Archives of other programs, in every format they know: what GNU tar unpacks is what we import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stores, trees
from support.variety import make_variety

from chunkstore.importing import ImportReport, import_archives
from chunkstore.objects import delta
from chunkstore.objects.entry import FIFO
from chunkstore.storage.store import Store

PYTHON_WRITER = """
import os, sys, tarfile

def plain(member):
    # It writes 1e-09 seconds as just that, which nobody else reads.
    member.mtime = member.mtime if abs(member.mtime) > 1 else 1
    return member

with tarfile.open(sys.argv[1], "w", format=getattr(tarfile, sys.argv[3])) as archive:
    for folder, folders, files in os.walk(sys.argv[2]):
        for name in folders + files:
            path = os.path.join(folder, name)
            try:
                archive.add(path, os.path.relpath(path, sys.argv[2]), False, filter=plain)
            except ValueError:
                pass  # what this format has no room for
"""

GNU = ["tar", "-C", "{tree}", "-cf", "{archive}"]
RICH = ["--xattrs", "--xattrs-include=*", "--acls"]
BSD = ["bsdtar", "-C", "{tree}", "-cf", "{archive}"]
PYTHON = [sys.executable, "-c", PYTHON_WRITER, "{archive}", "{tree}"]

MAKERS: dict[str, list[str]] = {
    "gnu v7": [*GNU, "--format=v7", "."],
    "gnu ustar": [*GNU, "--format=ustar", "."],
    "gnu oldgnu": [*GNU, "--format=oldgnu", "-S", "."],
    "gnu gnu": [*GNU, "--format=gnu", "-S", "."],
    "gnu posix 0.0": [*GNU, "--format=posix", "-S", "--sparse-version=0.0", *RICH, "."],
    "gnu posix 0.1": [*GNU, "--format=posix", "-S", "--sparse-version=0.1", *RICH, "."],
    "gnu posix 1.0": [*GNU, "--format=posix", "-S", "--sparse-version=1.0", *RICH, "."],
    "gnu posix acls": [*GNU, "--format=posix", "--acls", "."],
    "gnu posix global": [*GNU, "--format=posix", "--pax-option=globexthdr.name=g,mtime=1.5", "."],
    "gnu volume": [*GNU, "--format=gnu", "-b1", "--sort=name", "-V", "a label", "."],
    # It leaves out a fifo, and writes a hardlink to it.
    "bsdtar v7": [*BSD, "--format=v7", "--exclude=./links/*fifo", "--exclude=*device", "."],
    "bsdtar ustar": [*BSD, "--format=ustar", "."],
    "bsdtar gnutar": [*BSD, "--format=gnutar", "."],
    "bsdtar pax": [*BSD, "--format=pax", "--acls", "--xattrs", "."],
    "bsdtar sparse": [*BSD, "--format=pax", "--read-sparse", "--acls", "--xattrs", "."],
    "busybox": ["busybox", "tar", "-C", "{tree}", "-cf", "{archive}", "."],
    "python ustar": [*PYTHON, "USTAR_FORMAT"],
    "python gnu": [*PYTHON, "GNU_FORMAT"],
    "python pax": [*PYTHON, "PAX_FORMAT"],
}
UNPACK = [
    *("tar", "-xpSf", "{archive}", "-C", "{into}", "--numeric-owner", "--delay-directory-restore"),
    *RICH,
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All of the variety that any tar can take: no sockets, nothing immutable, little to read."""
    tree = tmp_path_factory.mktemp("zoo") / "tree"
    make_variety(tree)
    (tree / "sparse/huge").unlink()  # formats without holes would write all of it
    for path in tree.rglob("*"):
        if path.is_file() or path.is_dir():
            trees.set_flags_if_possible(path, "")
    for path in tree.rglob("*"):
        if path.is_socket():
            path.unlink()
    yield tree
    trees.remove_tree(tree.parent)


def call(command: list[str], **places: Path) -> str:
    words = [word.format(**places) for word in command]
    done = subprocess.run(
        words, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    )
    return (done.stdout + done.stderr).decode(errors="replace")


def bring(store: Store, *archives: Path) -> list[ImportReport]:
    return import_archives(store, "web", list(map(str, archives)), now=time.time_ns())


@pytest.mark.parametrize("maker", MAKERS)
@trees.needs_root
@trees.needs("tar", "bsdtar", "busybox", "getfattr")
def test_what_gnu_tar_unpacks(maker: str, zoo: Path, place: Path) -> None:
    archive, ours, theirs = place / "image.tar", place / "ours", place / "theirs"
    call(MAKERS[maker], archive=archive, tree=zoo)
    theirs.mkdir()
    said = call(UNPACK, archive=archive, into=theirs)
    store = stores.make_store(place / "store")
    [report] = bring(store, archive)
    stores.restore(store, "web", ours)
    # GNU tar takes bsdtar's names of attributes, which are those of a URL, as they stand.
    ignored = ("xattrs",) if "bsdtar" in maker else ()
    differences = trees.differences(trees.facts(theirs), trees.facts(ours), ignore=ignored)
    if maker.startswith("python"):  # which has no member for the top
        differences = [line for line in differences if not line.startswith("b'' ")]
    assert differences == [], said[-2000:]
    assert report.archive.members > 100


@pytest.mark.parametrize("maker", ["gnu posix 1.0", "bsdtar pax"])
@trees.needs_root
@trees.needs("tar", "bsdtar", "getfattr")
def test_what_was_packed(maker: str, zoo: Path, place: Path) -> None:
    """All that was in the tree, where the format has room for it: no flags with GNU tar."""
    archive = place / "image.tar"
    call(MAKERS[maker], archive=archive, tree=zoo)
    store = stores.make_store(place / "store")
    bring(store, archive)
    stores.restore(store, "web", place / "ours")
    ignored = ("data",) if "bsdtar" in maker else ("flags",)
    found = trees.differences(trees.facts(zoo), trees.facts(place / "ours"), ignore=ignored)
    # GNU tar and bsdtar make copies of what is neither file nor symlink and has several names.
    # And bsdtar writes -0.5 seconds as -1.5.
    special = re.compile(r".*(fifo|null|device|again)' group: |b'times/.* [234]' mtime: -")
    assert [line for line in found if special.match(line) is None] == []


@trees.needs_root
@trees.needs("tar")
def test_a_commit_of_the_tree_is_the_same_version(zoo: Path, place: Path) -> None:
    archive = place / "image.tar"
    call(MAKERS["gnu posix 1.0"], archive=archive, tree=zoo)
    store = stores.make_store(place / "store")
    committed = stores.record(store, zoo, "other").version.version
    [report] = bring(store, archive)
    with store.chunks() as chunks:
        differences = delta.diff(committed.root, report.version.version.root, chunks.get)
        changed = [
            (old, new)
            for old, new in differences
            if old is None or (old._replace(flags=0, link=b"") != new and old.kind != FIFO)
        ]
    assert changed == []
    assert report.written.chunks < 200  # nodes of the manifest, since flags differ

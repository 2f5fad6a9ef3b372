"""Manifests that lie, and what local users plant where a pull will write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from support import trees
from support.forge import Forge
from support.stores import bring

from chunkstore.errors import (
    ChunkstoreError,
    Corrupt,
    LocalError,
    NotFound,
    TransferError,
)
from chunkstore.objects import entry as entries
from chunkstore.storage.backends.memory import FailingBackend


@pytest.fixture
def canary(place: Path) -> Iterator[Path]:
    """A directory outside the target that must stay as it is."""
    path = place / "canary"
    path.mkdir()
    (path / "file").write_bytes(b"canary")
    (path / "setuid").write_bytes(b"")
    (path / "setuid").chmod(0o755)
    before = trees.facts(path)
    yield path
    assert trees.facts(path) == before


BAD_PATHS = [
    *(b"..", b"../canary/new", b"a/../../canary/new", b"a/..", b".", b"a/.", b"./a"),
    *(b"/canary", b"/", b"a//b", b"a/", b"a\0b", b"x" * 256, b"a/" + b"x" * 256),
    *(b"/".join([b"d" * 250] * 17), b".imgstore", b".imgstore/state.sqlite", b"\0"),
]


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("first", [True, False])
def test_paths_no_tree_has_are_refused(place: Path, canary: Path, path: bytes, first: bool) -> None:
    forge, node = Forge(), place / "node"
    before = None
    if not first:
        forge.publish(forge.directory(b""), forge.directory(b"a"))
        bring(forge.backend, "web", node)
        before = trees.facts(node)
    forge.publish(forge.directory(b""), forge.directory(b"a"), forge.file(path, b"evil"))
    with pytest.raises(Corrupt):
        bring(forge.backend, "web", node)
    if before is not None:
        assert trees.facts(node) == before
    else:
        assert os.listdir(node) == [".imgstore"]


def hostile(forge: Forge, canary: Path) -> dict[str, list[entries.Entry]]:
    """Manifests each of whose paths is honest, but not all of them together."""
    outside = os.fsencode(canary)
    root = forge.directory(b"")
    link = forge.symlink(b"link", outside)
    return {
        "file below a symlink": [root, link, forge.file(b"link/new", b"evil")],
        "file over one below a symlink": [root, link, forge.file(b"link/file", b"evil")],
        "directory below a symlink": [root, link, forge.directory(b"link/new")],
        "fifo below a symlink": [root, link, forge.fifo(b"link/new")],
        "file below a file": [root, forge.file(b"f", b"x"), forge.file(b"f/new", b"evil")],
        "file without a directory": [root, forge.file(b"nowhere/new", b"evil")],
        "deep file without a directory": [root, forge.file(b"no/where/new", b"evil")],
        "hardlink to a symlink outside": [
            *(root, forge.symlink(b"a", outside + b"/file")),
            forge.file(b"b", b"evil", link=b"a", flags=0x10, mode=0o4777, uid=5),
        ],
        "hardlink below a symlink": [
            *(root, link),
            forge.file(b"m", b"evil", link=b"link/file", mode=0o4777, flags=0x10),
        ],
        "hardlink to a directory": [
            *(root, forge.directory(b"a")),
            forge.file(b"b", b"evil", link=b"a"),
        ],
        "hardlink to nothing": [root, forge.file(b"b", b"evil", link=b"a")],
        "hardlink to the root": [root, forge.file(b"b", b"evil")._replace(link=b"")],
        "hardlink to a fifo": [
            *(root, forge.fifo(b"a")),
            forge.file(b"b", b"evil", link=b"a", flags=0x10),
        ],
        "flags on a fifo": [root, forge.fifo(b"a", flags=0x10)],
        "flags on a symlink": [root, forge.symlink(b"a", outside + b"/file", flags=0x10)],
        "no root": [forge.file(b"a", b"evil")],
        "wrong length": [root, forge.file(b"a", b"evil")._replace(size=5)],
        "content that is nowhere": [
            root,
            forge.file(b"a")._replace(size=4, content=bytes(31) + b"\1" + b"\4" + bytes(7)),
        ],
        "chunk too long": [
            root,
            forge.file(b"a")._replace(
                size=1 << 40, content=bytes(31) + b"\1" + (1 << 40).to_bytes(8, "little")
            ),
        ],
    }


NAMES = list(hostile(Forge(), Path("/canary")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.timeout(30)
def test_manifests_that_are_hostile_as_a_whole(
    place: Path, canary: Path, name: str, first: bool
) -> None:
    forge, node = Forge(), place / "node"
    if not first:
        forge.publish(forge.directory(b""), forge.file(b"old", b"old"))
        bring(forge.backend, "web", node)
    items = hostile(forge, canary)[name]
    forge.publish(*items)
    with suppress(Corrupt, LocalError, NotFound):
        bring(forge.backend, "web", node)
        assert name in ("hardlink to the root", "flags on a fifo", "flags on a symlink")
    inodes = {(canary / path).stat().st_ino for path in ("file", "setuid")}
    for path in node.rglob("*"):
        assert path.lstat().st_ino not in inodes, f"{path} is the canary"


@pytest.mark.parametrize("first", [True, False])
def test_a_planted_symlink_is_not_written_through(place: Path, canary: Path, first: bool) -> None:
    """A local user who may write in the tree puts links where the pull is about to write."""
    forge, node = Forge(), place / "node"
    root = forge.directory(b"")
    forge.publish(root, forge.directory(b"d"), forge.file(b"d/file", b"one"))
    if first:
        with pytest.raises(TransferError):
            bring(_CutOff(forge.backend), "web", node)
    else:
        bring(forge.backend, "web", node)
        forge.publish(
            *(root, forge.directory(b"d"), forge.file(b"d/file", b"two")),
            forge.file(b"d/setuid", b"new", mode=0o4755),
        )
    shutil.rmtree(node / "d", ignore_errors=True)
    os.symlink(canary, node / "d")
    with pytest.raises(ChunkstoreError) if not first else nullcontext():
        bring(forge.backend, "web", node)


class _CutOff(FailingBackend):
    """Delivers the manifest and no content."""

    packs = 0

    def get(self, name: str, start: int, stop: int) -> bytes:
        self.packs += name.endswith(".pack")
        if self.packs > 1:
            raise TransferError("cut off")
        return super().get(name, start, stop)


def test_a_state_directory_somebody_else_planted(place: Path, canary: Path) -> None:
    forge, node = Forge(), place / "node"
    forge.publish(forge.directory(b""))
    node.mkdir()
    os.symlink(canary, node / ".imgstore")
    with pytest.raises(LocalError, match="not a directory of ours"):
        bring(forge.backend, "web", node)

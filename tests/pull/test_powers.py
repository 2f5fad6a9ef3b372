"""Programs with powers: one that goes keeps none of them, whoever has linked to it."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import fuse, trees
from support.forge import Forge
from support.stores import bring

from chunkstore.objects.entry import Entry
from chunkstore.pull import recover

pytestmark = trees.needs_root

CAPABILITY = (b"security.capability", struct.pack("<5I", 0x02000001, 0x2400, 0, 0, 0))
POWERS = stat.S_ISUID | stat.S_ISGID

KINDS = {
    "setuid": {"mode": 0o4755},
    "setgid": {"mode": 0o2755, "gid": 33},
    "both": {"mode": 0o6711, "uid": 7},
    "capable": {"mode": 0o755, "xattrs": (CAPABILITY,)},
    "immutable": {"mode": 0o4755, "flags": 0x10},
}
FATES = ("replaced", "removed", "dressed", "turned", "linked anew", "folder gone")


def is_powerful(path: Path) -> bool:
    names = os.listxattr(path, follow_symlinks=False)
    return bool(path.lstat().st_mode & POWERS) or "security.capability" in names


def old(forge: Forge, **fields: object) -> list[Entry]:
    return [
        *(forge.directory(b""), forge.directory(b"bin"), forge.file(b"bin/other", b"other")),
        *(forge.directory(b"lib"), forge.file(b"lib/tool", b"old", **fields)),
    ]


def new(forge: Forge, fate: str, **fields: object) -> list[Entry]:
    root, folder = forge.directory(b""), forge.directory(b"bin")
    other, lib = forge.file(b"bin/other", b"other"), forge.directory(b"lib")
    plain: dict[str, object] = {"mode": 0o755}
    return {
        "replaced": [root, folder, other, lib, forge.file(b"lib/tool", b"new", **fields)],
        "removed": [root, folder, other, lib],
        "dressed": [root, folder, other, lib, forge.file(b"lib/tool", b"old", **plain)],
        "turned": [root, folder, other, lib, forge.directory(b"lib/tool")],
        "linked anew": [
            *(root, folder, other, lib),
            forge.file(b"lib/tool", b"other", link=b"bin/other"),
        ],
        "folder gone": [root, folder, other],
    }[fate]


class Links:
    """A node with a program that a local user has linked to, outside of the tree and inside."""

    def __init__(self, place: Path, fields: dict[str, object]) -> None:
        self.forge, self.node = Forge(), place / "node"
        trees.remove_tree(self.node)
        trees.remove_tree(place / "kept")
        self.forge.publish(*old(self.forge, **fields))
        bring(self.forge.backend, "web", self.node)
        flags = fields.get("flags", 0)
        if flags:
            trees.set_flags(self.node / "lib/tool", "")
        (place / "kept").mkdir()
        self.links = [place / "kept/outside", self.node / "bin/mine"]
        for link in self.links:
            os.link(self.node / "lib/tool", link)
        if flags:
            trees.set_flags(self.node / "lib/tool", "i")
        assert all(map(is_powerful, self.links))

    def pull(self) -> None:
        bring(self.forge.backend, "web", self.node)

    def check(self) -> None:
        for link in self.links:
            assert link.read_bytes() == b"old"
            assert not is_powerful(link), link
        assert not any(name.startswith(b"old-") for name in _everywhere(self.node))


def _everywhere(node: Path) -> Iterator[bytes]:
    for _, folders, files in os.walk(os.fsencode(node)):
        yield from (*folders, *files)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fate", FATES)
def test_links_to_what_goes_lose_its_powers(place: Path, kind: str, fate: str) -> None:
    if kind == "immutable" and not trees.has_flags(place):
        pytest.skip("no inode flags on this file system")
    links = Links(place, KINDS[kind])
    links.forge.publish(*new(links.forge, fate, **KINDS[kind]))
    links.pull()
    links.check()
    tool = links.node / "lib/tool"
    if fate == "replaced":
        assert is_powerful(tool)
    else:
        assert not os.path.lexists(tool) or not is_powerful(tool)


@pytest.mark.parametrize("kind", ["setuid", "capable"])
@pytest.mark.parametrize("fate", ["replaced", "removed", "turned", "folder gone"])
def test_however_it_is_interrupted(quick: Path, kind: str, fate: str) -> None:
    if kind == "capable" and not _keeps_capabilities(quick):
        pytest.skip("no file capabilities on this file system")
    limit = 0
    while True:
        links = Links(quick, KINDS[kind])
        links.forge.publish(*new(links.forge, fate, **KINDS[kind]))
        if not fuse.cut_off(limit, links.pull):
            break
        recover(str(links.node))
        links.pull()
        links.check()
        limit += 1
    assert limit > 10


def _keeps_capabilities(place: Path) -> bool:
    (place / "probe").write_bytes(b"")
    try:
        os.setxattr(place / "probe", *CAPABILITY)
    except OSError:
        return False
    return True


def test_interrupted_and_without_its_journal(quick: Path) -> None:
    """The old file waits aside for its powers to be taken, and nothing says so any more."""
    limit = 0
    found = 0
    while True:
        links = Links(quick, KINDS["setuid"])
        links.forge.publish(*new(links.forge, "replaced", mode=0o4755))
        if not fuse.cut_off(limit, links.pull):
            break
        journal = links.node / ".imgstore/journal"
        if journal.exists():
            found += 1
            journal.write_bytes(b"damaged")
        links.pull()
        links.check()
        limit += 1
    assert found > 3


def group(forge: Forge, *, old_first: bool, salt: bytes) -> list[Entry]:
    """A program under three names, the first of which comes and goes."""
    leader = b"a" if old_first else b"b"
    names = [b"a", b"b", b"c"] if old_first else [b"b", b"c"]
    return [
        forge.directory(b""),
        *(
            forge.file(name, b"same", mode=0o4755, link=b"" if name == leader else leader)
            for name in names
        ),
        forge.file(b"d", salt, mode=0o755),
    ]


def test_names_that_the_image_keeps_do_not_lose_them(quick: Path) -> None:
    forge, node = Forge(), quick / "node"
    root, first = forge.directory(b""), forge.file(b"a", b"same", mode=0o4755)
    second = forge.file(b"b", b"same", mode=0o4755, link=b"a")
    third = forge.file(b"c", b"same", mode=0o4755, link=b"a")
    for items in (
        [root, first, second, third],
        [root, first, second],
        [root, first, second, forge.file(b"c", b"other", mode=0o4755)],
        [root, first, forge.file(b"b", b"other")],
        [root, first, second, third],
        [root, first],
    ):
        forge.publish(*items)
        bring(forge.backend, "web", node)
        for item in items[1:]:
            status = (node / os.fsdecode(item.path)).stat()
            assert stat.S_IMODE(status.st_mode) == item.mode, item.path
            assert status.st_nlink == 1 + sum(
                other.path != item.path and (other.link or other.path) == (item.link or item.path)
                for other in items[1:]
            )


@pytest.mark.parametrize("old_first", [True, False])
def test_a_group_whose_first_name_comes_or_goes(quick: Path, old_first: bool) -> None:
    forge, node = Forge(), quick / "node"
    forge.publish(*group(forge, old_first=old_first, salt=b"one"))
    bring(forge.backend, "web", node)
    os.link(node / "b", quick / "outside")
    forge.publish(*group(forge, old_first=not old_first, salt=b"two"))
    bring(forge.backend, "web", node)
    assert not is_powerful(quick / "outside")
    assert is_powerful(node / "b")
    assert is_powerful(node / "c")
    assert (node / "b").stat().st_ino == (node / "c").stat().st_ino


def test_a_link_that_comes_at_the_last_moment(quick: Path) -> None:
    """Between the look at a file and its end, also where nothing of ours is that could hold it."""
    forge, node = Forge(), quick / "node"
    root, folder = forge.directory(b""), forge.directory(b"mounted")
    tool = forge.file(b"mounted/tool", b"old", mode=0o4755)
    node.mkdir()
    (node / "mounted").mkdir()
    trees.mount_tmpfs(node / "mounted", "size=1m")
    forge.publish(root, folder, tool)
    bring(forge.backend, "web", node)
    forge.publish(root, folder)
    real = os.unlink

    def unlink(name: bytes, *arguments: object, dir_fd: int | None = None) -> None:
        if name == b"tool":
            os.link(node / "mounted/tool", node / "mounted/kept")
        real(name, *arguments, dir_fd=dir_fd)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.worktree.apply.os.unlink", unlink)
        bring(forge.backend, "web", node)
    assert (node / "mounted/kept").read_bytes() == b"old"
    assert not is_powerful(node / "mounted/kept")

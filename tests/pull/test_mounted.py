"""Mounts inside a tree: updates across them, what is left alone, what is said before a change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fuse, trees
from support.canary import Canary
from support.forge import Forge
from support.stores import bring

from chunkstore.errors import Conflict, LocalError
from chunkstore.objects.entry import Entry
from chunkstore.pull import recover
from chunkstore.worktree import restore
from chunkstore.worktree.preload import everything

pytestmark = trees.needs_root

Mount = Callable[..., None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount something until the test ends, or skip the test where that is not allowed."""
    mounted: list[Path] = []

    def call(point: Path, *arguments: str) -> None:
        run = ["mount", *arguments, str(point)]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"can't mount here: {done.stderr.strip()}")
        mounted.append(point)
        subprocess.run(["mount", "--make-private", str(point)], check=True)

    yield call
    for point in reversed(mounted):
        if subprocess.run(["umount", str(point)], check=False).returncode:
            subprocess.run(["umount", "-l", str(point)], check=False)


def disk(mount: Mount, point: Path, kind: str, place: Path) -> None:
    """A fresh file system of a kind at a mount point."""
    if kind == "tmpfs":
        mount(point, "-t", "tmpfs", "-o", "size=64m", "none")
        return
    if kind == "bind":
        # The device number is that of the tree: only the mount tells them apart.
        source = place / f"source {point.name}"
        source.mkdir()
        mount(point, "--bind", str(source))
        return
    image = place / f"{point.name}.{kind}"
    with open(image, "wb") as file:
        file.truncate(320 << 20 if kind == "xfs" else 64 << 20)
    make = subprocess.run(
        [f"mkfs.{kind}", "-q", str(image)], capture_output=True, text=True, check=False
    )
    if make.returncode:
        pytest.skip(f"can't make {kind}: {make.stderr.strip()}")
    mount(point, "-o", "loop", str(image))


class Node:
    """A node with file systems mounted inside, and versions made by hand."""

    def __init__(self, place: Path) -> None:
        self.path = place / "node"
        self.forge = Forge()
        self.items: tuple[Entry, ...] = ()

    def publish(self, *items: Entry) -> None:
        self.items = items
        self.forge.publish(*items)

    def pull(self, **options: object):  # type: ignore[no-untyped-def]
        return bring(self.forge.backend, "web", self.path, **options)

    def check(self, *skipped: str) -> None:
        """Everything is as the version says, also the links; nothing of ours is left behind."""
        expected = {os.fsdecode(item.path): item for item in self.items if item.path}
        found = {
            os.path.relpath(path, self.path)
            for path in self.path.rglob("*")
            if not any(part in (".imgstore", "lost+found") for part in path.parts)
        }
        assert found - set(skipped) == expected.keys() - set(skipped)
        for name in sorted(expected.keys() - set(skipped)):
            path, item = self.path / name, expected[name]
            status = path.lstat()
            assert status.st_mode & 0o7777 == item.mode, name
            assert status.st_mtime_ns == item.mtime, name
            assert (status.st_uid, status.st_gid) == (item.uid, item.gid), name

    def content(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def same_but_for_the_state(one: dict[bytes, trees.Facts], other: dict[bytes, trees.Facts]) -> bool:
    """The node's own directory, when it is new, moves the time of the top."""
    lines = trees.differences(one, other)
    return not [line for line in lines if not line.startswith("b'' mtime")]


@pytest.fixture
def node(place: Path) -> Node:
    return Node(place)


def first(forge: Forge) -> list[Entry]:
    file, folder = forge.file, forge.directory
    large = trees.pseudo_random("kernel", 200_000)
    return [
        *(folder(b""), file(b"a", b"a"), folder(b"boot"), file(b"boot/kernel", large)),
        *(folder(b"boot/sub"), file(b"boot/sub/map", b"map")),
        *(file(b"boot/tool", b"tool", mode=0o4755), folder(b"srv")),
        *(file(b"srv/data", b"data"), file(b"srv/linked", b"data", link=b"srv/data")),
        file(b"z", b"z"),
    ]


def second(forge: Forge) -> list[Entry]:
    """Files move from one mount to another, groups reach across them, kinds change."""
    file, folder = forge.file, forge.directory
    large = trees.pseudo_random("kernel", 200_000)
    return [
        *(folder(b""), folder(b"a"), file(b"a/kernel", large), folder(b"boot", mode=0o750)),
        *(file(b"boot/data", b"data"), file(b"boot/linked", b"data", link=b"boot/data")),
        *(file(b"boot/sub", b"no directory now"), file(b"boot/tool", b"new", mode=0o4755)),
        *(folder(b"srv"), file(b"srv/across", b"data", link=b"boot/data")),
        *(file(b"srv/again", b"data", link=b"boot/data"), file(b"srv/kernel", large, flags=0x40)),
        forge.symlink(b"z", b"boot"),
    ]


KINDS = ("tmpfs", "bind", "ext4", "xfs")


def with_mounts(node: Node, mount: Mount, place: Path, kind: str) -> None:
    for name in ("boot", "srv"):
        (node.path / name).mkdir(parents=True)
        disk(mount, node.path / name, kind if name == "boot" else "tmpfs", place)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_across_file_systems(
    place: Path, node: Node, mount: Mount, kind: str
) -> None:
    with_mounts(node, mount, place, kind)
    node.publish(*second(node.forge))
    report = node.pull()
    assert report.is_first
    node.check()
    for version in (first, second, first, second):
        node.publish(*version(node.forge))
        report = node.pull()
        node.check()
        assert report.fetched_bytes < 100_000
        assert report.saved == []
    # Of a group that reaches across, each file system has one file of its own.
    inodes = {name: (node.path / name).stat() for name in ("boot/data", "srv/across", "srv/again")}
    assert os.path.samestat(inodes["srv/across"], inodes["srv/again"])
    assert not os.path.samestat(inodes["srv/across"], inodes["boot/data"])
    assert node.content("srv/across") == b"data"
    assert (node.path / "boot/data").stat().st_nlink == 2


def test_interrupted_across_file_systems(quick: Path, mount: Mount) -> None:
    node = Node(quick)
    with_mounts(node, mount, quick, "tmpfs")
    node.publish(*first(node.forge))
    node.pull()
    node.publish(*second(node.forge))
    total = fuse.changes_of(node.pull)
    node.publish(*first(node.forge))
    node.pull()
    cuts = 0
    for limit in range(0, total, 3):
        node.publish(*first(node.forge))
        node.pull(mirror=True)
        node.publish(*second(node.forge))
        cuts += fuse.cut_off(limit, node.pull)
        recover(str(node.path))
        node.pull()
        node.check()
    assert cuts > 20


def test_a_first_installation_into_mounted_file_systems(
    place: Path, node: Node, mount: Mount
) -> None:
    (node.path / "boot/efi").mkdir(parents=True)
    disk(mount, node.path / "boot", "ext4", place)
    (node.path / "boot/efi").mkdir()
    disk(mount, node.path / "boot/efi", "tmpfs", place)
    file, folder = node.forge.file, node.forge.directory
    node.publish(
        *(folder(b""), folder(b"boot", mode=0o700), folder(b"boot/efi", mode=0o711)),
        *(file(b"boot/efi/loader", b"efi"), file(b"boot/kernel", b"kernel")),
    )
    node.pull()
    node.check()
    assert os.stat(node.path / "boot").st_dev != os.stat(node.path).st_dev


@pytest.mark.parametrize("what", ["made", "dressed", "removed", "directory", "first"])
def test_a_read_only_mount_is_named_before_anything_changes(
    place: Path, node: Node, mount: Mount, what: str
) -> None:
    (node.path / "boot").mkdir(parents=True)
    disk(mount, node.path / "boot", "tmpfs", place)
    file, folder = node.forge.file, node.forge.directory
    same = [folder(b""), file(b"a", b"one"), folder(b"boot")]
    node.publish(*same, folder(b"boot/d"), file(b"boot/f", b"one"))
    if what != "first":
        node.pull()
    subprocess.run(["mount", "-o", "remount,ro", str(node.path / "boot")], check=True)
    if what == "made":
        more = [folder(b"boot/d"), file(b"boot/f", b"two")]
    elif what == "dressed":
        more = [folder(b"boot/d"), file(b"boot/f", b"one", mode=0o600)]
    elif what == "removed":
        more = [folder(b"boot/d")]
    else:
        more = [folder(b"boot/d", mode=0o700), file(b"boot/f", b"one")]
    node.publish(folder(b""), file(b"a", b"two"), folder(b"boot"), *more)
    before = trees.facts(node.path)
    with pytest.raises(LocalError, match="boot.*read-only"):
        node.pull()
    assert same_but_for_the_state(before, trees.facts(node.path))
    # What lies elsewhere can be changed.
    if what != "first":
        node.publish(
            *(folder(b""), file(b"a", b"three"), folder(b"boot"), folder(b"boot/d")),
            file(b"boot/f", b"one"),
        )
        node.pull()
        assert node.content("a") == b"three"


@pytest.mark.parametrize("version", ["update", "first"])
def test_a_full_mount_is_named_before_anything_changes(
    node: Node, mount: Mount, version: str
) -> None:
    (node.path / "boot").mkdir(parents=True)
    mount(node.path / "boot", "-t", "tmpfs", "-o", "size=1m", "none")
    file, folder = node.forge.file, node.forge.directory
    node.publish(folder(b""), file(b"a", b"one"), folder(b"boot"))
    if version == "update":
        node.pull()
    large = [file(b"boot/%d" % n, trees.pseudo_random(n, 250_000)) for n in range(9)]
    before = trees.facts(node.path)
    node.publish(folder(b""), file(b"a", b"two"), folder(b"boot"), *large)
    with pytest.raises(LocalError, match="no space.*boot"):
        node.pull()
    assert same_but_for_the_state(before, trees.facts(node.path))


def test_what_is_mounted_over_a_file_is_left_alone(place: Path, node: Node, mount: Mount) -> None:
    file, folder = node.forge.file, node.forge.directory
    node.publish(
        *(folder(b""), file(b"gone", b"one"), file(b"group", b"g"), file(b"hosts", b"one")),
        *(file(b"other", b"g", link=b"group"), file(b"stays", b"one")),
    )
    node.pull()
    (place / "mine").write_bytes(b"mine")
    (place / "same").write_bytes(b"g")
    for name, source in (("hosts", "mine"), ("gone", "mine"), ("group", "same")):
        mount(node.path / name, "--bind", str(place / source))
    before = {name: (place / name).stat().st_ctime_ns for name in ("mine", "same")}
    node.publish(
        *(folder(b""), file(b"group", b"g"), file(b"hosts", b"two", mode=0o600)),
        *(file(b"more", b"g", link=b"group"), file(b"other", b"g", link=b"group")),
        file(b"stays", b"two"),
    )
    report = node.pull()
    assert {path for path, _ in report.left_alone} == {b"hosts", b"gone", b"group"}
    assert node.content("stays") == b"two"
    assert node.content("hosts") == node.content("gone") == b"mine"
    assert node.content("more") == b"g"
    assert (place / "mine").read_bytes() == b"mine"
    assert {name: (place / name).stat().st_ctime_ns for name in before} == before


@pytest.mark.parametrize("kind", ["proc", "sysfs", "devpts"])
def test_kernel_file_systems_are_left_alone(node: Node, mount: Mount, kind: str) -> None:
    (node.path / "k").mkdir(parents=True)
    mount(node.path / "k", "-t", kind, kind)
    mode = (node.path / "k").stat().st_mode
    file, folder = node.forge.file, node.forge.directory
    node.publish(folder(b""), folder(b"k", mode=0o700), file(b"k/null", b"x"), file(b"z", b"1"))
    node.pull()
    node.publish(folder(b""), folder(b"k", mode=0o711), file(b"k/null", b"y"), file(b"z", b"2"))
    report = node.pull(mirror=True)
    assert report.left_alone == [(b"k", kind)]
    assert node.content("z") == b"2"
    assert (node.path / "k").stat().st_mode == mode
    node.publish(folder(b""), file(b"z", b"3"))
    node.pull(mirror=True)
    assert (node.path / "k").is_mount()
    assert node.content("z") == b"3"


@pytest.mark.parametrize("where", ["m", "above"])
@pytest.mark.parametrize("instead", ["file", "symlink"])
def test_a_directory_that_something_is_mounted_on_must_stay_one(
    place: Path, node: Node, mount: Mount, where: str, instead: str
) -> None:
    file, folder = node.forge.file, node.forge.directory
    node.publish(
        *(folder(b""), file(b"a", b"one"), folder(b"above"), folder(b"above/m"), folder(b"m")),
    )
    node.pull()
    point = node.path / ("m" if where == "m" else "above/m")
    disk(mount, point, "tmpfs", place)
    new = file(where.encode(), b"x") if instead == "file" else node.forge.symlink(b"m", b"a")
    new = new._replace(path=where.encode())
    others = [folder(b"m")] if where == "above" else [folder(b"above"), folder(b"above/m")]
    items = sorted([folder(b""), file(b"a", b"two"), new, *others])
    node.publish(*items)
    before = trees.facts(node.path)
    with pytest.raises(Conflict, match="mounted"):
        node.pull()
    assert trees.facts(node.path) == before
    subprocess.run(["umount", str(point)], check=True)
    node.pull()
    assert node.content("a") == b"two"


def test_a_mount_point_that_the_image_has_no_more_stays(
    place: Path, node: Node, mount: Mount
) -> None:
    file, folder = node.forge.file, node.forge.directory
    node.publish(folder(b""), folder(b"m"), file(b"m/f", b"one"), file(b"z", b"one"))
    (node.path / "m").mkdir(parents=True)
    disk(mount, node.path / "m", "tmpfs", place)
    node.pull()
    (node.path / "m/mine").write_bytes(b"mine")
    node.publish(folder(b""), file(b"z", b"two"))
    for options in ({}, {"mirror": True}):
        node.pull(**options)
        assert (node.path / "m").is_mount()
        assert not (node.path / "m/f").exists()
        assert node.content("z") == b"two"
    assert not list((node.path / "m").glob(".imgstore*"))


@pytest.mark.parametrize("form", ["open", "another's", "symlink", "file"])
def test_somebody_has_made_our_directory_at_a_mount_point(
    place: Path, node: Node, mount: Mount, form: str
) -> None:
    (node.path / "tmp").mkdir(parents=True)
    disk(mount, node.path / "tmp", "tmpfs", place)
    file, folder = node.forge.file, node.forge.directory
    node.publish(folder(b""), file(b"a", b"one"), folder(b"tmp", mode=0o1777), file(b"tmp/f", b"1"))
    node.pull()
    planted = node.path / "tmp/.imgstore-new"
    (place / "elsewhere").mkdir(0o700)
    (place / "elsewhere/precious").write_bytes(b"")
    if form == "symlink":
        os.symlink(place / "elsewhere", planted)
    elif form == "file":
        planted.write_bytes(b"")
    else:
        planted.mkdir(0o755 if form == "open" else 0o700)
        planted.chmod(0o777 if form == "open" else 0o700)
        (planted / "0").write_bytes(b"mine")
        if form == "another's":
            os.chown(planted, 12345, 12345)
    before = trees.facts(node.path)
    node.publish(folder(b""), file(b"a", b"two"), folder(b"tmp", mode=0o1777), file(b"tmp/f", b"2"))
    with pytest.raises(LocalError):
        node.pull()
    assert trees.facts(node.path) == before
    assert os.listdir(place / "elsewhere") == ["precious"]


def test_what_is_saved_on_another_file_system_goes_through_no_link(
    place: Path, node: Node, mount: Mount, canary: Canary
) -> None:
    """It stays beside its old place, under a name that somebody could know beforehand."""
    file, folder = node.forge.file, node.forge.directory
    (node.path / "m").mkdir(parents=True)
    disk(mount, node.path / "m", "tmpfs", place)
    node.publish(folder(b""), folder(b"m"), file(b"m/d", b"one"), file(b"m/f", b"one"))
    node.pull()
    for name in ("f", "d"):
        (node.path / "m" / name).write_bytes(b"mine")
        planted = node.path / f"m/.imgstore-saved-now-{name}"
        os.symlink(canary.path / ("file" if name == "f" else "private"), planted)
    node.publish(folder(b""), folder(b"m"), file(b"m/d", b"two"), file(b"m/f", b"two"))
    report = node.pull(stamp="now")
    assert {path for path, _ in report.saved} == {b"m/d", b"m/f"}
    for _, where in report.saved:
        assert (node.path / os.fsdecode(where)).read_bytes() == b"mine"
        assert not (node.path / os.fsdecode(where)).is_symlink()


def test_a_link_where_a_file_is_just_being_copied_to(
    place: Path, node: Node, mount: Mount, canary: Canary
) -> None:
    """Whoever owns the directory puts it there once the old name was seen to be free."""
    file, folder = node.forge.file, node.forge.directory
    node.publish(folder(b""), folder(b"m"), file(b"m/f", b"one"))
    node.pull()
    node.publish(folder(b""), folder(b"m"), file(b"m/f", b"two", mode=0o4755))
    real = restore.make_file

    def late() -> None:
        everything()
        disk(mount, node.path / "m", "tmpfs", place)
        patch.setattr(restore, "make_file", made)

    def made(folder: int, name: bytes, *arguments: Any) -> int:
        os.symlink(canary.path / "file", name, dir_fd=folder)
        return real(folder, name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.pull.change.everything", late)
        with pytest.raises(LocalError, match="File exists"):
            node.pull()
    canary.check()
    recover(str(node.path))
    assert node.content("m/f") == b"two"


def test_a_mount_that_comes_late_and_the_links_that_wait_in_it(
    place: Path, node: Node, mount: Mount, canary: Canary
) -> None:
    """Files are copied across then, under names that somebody could know beforehand."""
    file, folder = node.forge.file, node.forge.directory
    node.publish(folder(b""), folder(b"m"), file(b"m/f", b"one"), file(b"m/g", b"one"))
    node.pull()
    node.publish(
        *(folder(b""), folder(b"m"), file(b"m/f", b"two", mode=0o4755)),
        file(b"m/g", b"two", mode=0o4711),
    )

    def late() -> None:
        everything()
        disk(mount, node.path / "m", "tmpfs", place)
        for number in range(4):
            os.symlink(canary.path / "file", node.path / f"m/.imgstore-{number}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.pull.change.everything", late)
        node.pull()
    for name, mode in (("f", 0o4755), ("g", 0o4711)):
        assert node.content(f"m/{name}") == b"two"
        assert (node.path / "m" / name).stat().st_mode & 0o7777 == mode

"""Swapping a tree: old or new at every moment, back again, and nobody else's hand in it."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import mounted, trees
from support.disks import cut_power
from support.trees import needs, needs_root

from chunkstore import fsio
from chunkstore.errors import Conflict, LocalError, NotFound
from chunkstore.worktree.clone import clone_tree
from chunkstore.worktree.swap import Swap, check_swappable


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "image"
    make(path, "old")
    return path


def make(path: Path, word: str) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner/file").write_bytes(word.encode() * 1000)
    (path / "version").write_text(word)


def version(path: Path) -> str:
    """Which tree this is; all of it must be of one version."""
    word = (path / "version").read_text()
    assert (path / "inner/file").read_bytes() == word.encode() * 1000
    return word


def beside(tree: Path) -> Path:
    return tree.parent / f".{tree.name}.imgstore"


def renew(tree: Path, word: str) -> None:
    """What a pull does: a clone beside the tree, changed, and swapped in."""
    with Swap(str(tree)) as swap:
        with swap.begin() as new:
            clone_tree(swap.tree, new)
            for path in ("version", "inner/file"):
                data = word.encode() * (1000 if path == "inner/file" else 1)
                Path(swap.next_path, path).write_bytes(data)
        swap.complete()


def go_back(tree: Path) -> None:
    with Swap(str(tree)) as swap:
        swap.rollback()


def test_there_and_back_again(tree: Path) -> None:
    before = trees.open_descriptors()
    tree.chmod(0o751)
    renew(tree, "new")
    assert (version(tree), version(beside(tree) / "previous")) == ("new", "old")
    assert tree.stat().st_mode & 0o777 == 0o751
    go_back(tree)
    assert (version(tree), version(beside(tree) / "previous")) == ("old", "new")
    go_back(tree)
    assert (version(tree), version(beside(tree) / "previous")) == ("new", "old")
    renew(tree, "newer")
    assert (version(tree), version(beside(tree) / "previous")) == ("newer", "new")
    assert os.listdir(beside(tree)) == ["previous"]
    assert trees.open_descriptors() == before


def test_nothing_to_go_back_to(tree: Path) -> None:
    with pytest.raises(NotFound, match="no tree to go back to"):
        go_back(tree)
    check_swappable(str(tree))
    assert not beside(tree).exists()


def test_no_tree(place: Path) -> None:
    with pytest.raises(NotFound, match="there is no"):
        check_swappable(str(place / "nothing"))
    (place / "file").write_bytes(b"")
    with pytest.raises(LocalError, match="Not a directory"):
        check_swappable(str(place / "file"))


def test_a_tree_named_by_a_link_is_swapped_itself(tree: Path) -> None:
    os.symlink(tree, tree.parent / "link")
    renew(tree.parent / "link", "new")
    assert version(tree) == "new"
    assert (tree.parent / "link").is_symlink()


def test_giving_up(tree: Path) -> None:
    with Swap(str(tree)) as swap:
        swap.begin().close()
        swap.discard()
    assert not beside(tree).exists()
    assert version(tree) == "old"


def test_a_name_too_long_for_another_beside_it(place: Path) -> None:
    make(place / ("n" * 245), "old")
    renew(place / ("n" * 245), "new")
    assert version(place / ("n" * 245)) == "new"
    (place / ("n" * 246)).mkdir()
    with pytest.raises(LocalError, match="too long"):
        check_swappable(str(place / ("n" * 246)))


# Where a swap is refused, before anything is made


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    points: list[str] = []

    def do(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)
        points.append(arguments[-1])

    yield do
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], check=True)


def test_the_root() -> None:
    with pytest.raises(Conflict, match="/ can't be swapped"):
        check_swappable("/")


@needs_root
def test_the_root_by_another_name(place: Path, mount: Callable[..., None]) -> None:
    (place / "root").mkdir()
    mount("--bind", "/", str(place / "root"))
    with pytest.raises(Conflict, match=r"is /, which|is a mount point"):
        check_swappable(str(place / "root"))


@needs_root
@pytest.mark.parametrize("how", ["tmpfs", "bind", "itself"])
def test_a_mount_point(tree: Path, how: str, mount: Callable[..., None]) -> None:
    (tree.parent / "elsewhere").mkdir()
    source = tree if how == "itself" else tree.parent / "elsewhere"
    mount(*(["-t", "tmpfs", "none"] if how == "tmpfs" else ["--bind", str(source)]), str(tree))
    with pytest.raises(Conflict, match="image is a mount point"):
        check_swappable(str(tree))
    assert not beside(tree).exists()


@needs_root
@pytest.mark.parametrize("how", ["tmpfs", "bind", "file"])
def test_a_mount_inside(tree: Path, how: str, mount: Callable[..., None]) -> None:
    point = tree / ("version" if how == "file" else "inner")
    (tree.parent / "elsewhere").mkdir()
    source = tree.parent / "elsewhere" if how == "bind" else tree / "inner/file"
    mount(*(["-t", "tmpfs", "none"] if how == "tmpfs" else ["--bind", str(source)]), str(point))
    with pytest.raises(Conflict, match=f"{point.name} is mounted inside"):
        check_swappable(str(tree))
    assert not beside(tree).exists()


@needs_root
@pytest.mark.parametrize("where", ["old", "new"])
def test_a_mount_that_comes_meanwhile(tree: Path, where: str, mount: Callable[..., None]) -> None:
    (tree.parent / "elsewhere").mkdir()
    with Swap(str(tree)) as swap:
        with swap.begin() as new:
            clone_tree(swap.tree, new)
        point = Path(swap.next_path if where == "new" else tree, "inner")
        mount("--bind", str(tree.parent / "elsewhere"), str(point))
        with pytest.raises(Conflict, match="inner is mounted inside"):
            swap.complete()
    assert (tree / "version").read_text() == "old"


def test_a_tree_that_was_replaced_meanwhile(tree: Path) -> None:
    with Swap(str(tree)) as swap:
        with swap.begin() as new:
            clone_tree(swap.tree, new)
        tree.rename(tree.parent / "aside")
        make(tree, "another")
        with pytest.raises(Conflict, match="was replaced"):
            swap.complete()
    assert version(tree) == "another"


@needs_root
@needs("btrfs")
def test_a_subvolume(quick: Path) -> None:
    with mounted.disk(quick, "btrfs") as disk:
        create = ["btrfs", "subvolume", "create", str(disk / "image")]
        subprocess.run(create, check=True, capture_output=True)
        with pytest.raises(Conflict, match="is a subvolume"):
            check_swappable(str(disk / "image"))


@needs_root
def test_what_is_immutable(tree: Path) -> None:
    trees.set_flags(tree, "i")
    with pytest.raises(Conflict, match="it is immutable"):
        check_swappable(str(tree))
    trees.set_flags(tree, "")
    trees.set_flags(tree.parent, "a")
    try:
        with pytest.raises(Conflict, match="its folder is immutable"):
            check_swappable(str(tree))
    finally:
        trees.set_flags(tree.parent, "")


@needs_root
def test_a_new_tree_that_is_immutable(tree: Path) -> None:
    with Swap(str(tree)) as swap:
        with swap.begin() as new:
            clone_tree(swap.tree, new)
            trees.set_flags(swap.next_path, "id")
        swap.complete()
    assert trees.get_flags(tree) == trees.CHATTR["i"] | trees.CHATTR["d"]
    trees.set_flags(tree, "")


@needs_root
def test_a_file_system_that_is_read_only(quick: Path) -> None:
    with mounted.disk(quick, "tmpfs") as disk:
        make(disk / "image", "old")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(LocalError, match="can't be written to"):
            check_swappable(str(disk / "image"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_can_not_exchange(
    tree: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fsio, "exchange", refuse)
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(tree)], capture_output=True, text=True, check=True
    ).stdout.split("/")[0]
    with pytest.raises(LocalError, match=rf"\({kind[:3]}.*\) that can't exchange"):
        check_swappable(str(tree))
    assert not beside(tree).exists()


# Who could meddle


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "tree_owner", "refusal"),
    [
        (0, 0o755, 0, None),
        (0, 0o755, 1234, None),
        (0, 0o1777, 0, None),
        (0, 0o1777, 1234, "belongs to another user, who could put"),
        (0, 0o777, 0, "others can write"),
        (0, 0o775, 0, "others can write"),
        (1234, 0o755, 0, "belongs to another user, who could replace"),
        (1234, 0o1777, 0, "belongs to another user, who could replace"),
    ],
)
def test_the_folder_decides(
    tree: Path, owner: int, mode: int, tree_owner: int, refusal: str | None
) -> None:
    os.chown(tree, tree_owner, 0)
    os.chown(tree.parent, owner, 0)
    tree.parent.chmod(mode)
    if refusal is None:
        renew(tree, "new")
        assert version(tree) == "new"
    else:
        with pytest.raises(Conflict, match=refusal):
            check_swappable(str(tree))
        assert not beside(tree).exists()


@needs_root
@needs("setfacl")
def test_an_acl_that_lets_others_write(tree: Path) -> None:
    subprocess.run(["setfacl", "-m", "u:1234:rwx", str(tree.parent)], check=True)
    with pytest.raises(Conflict, match="others can write"):
        check_swappable(str(tree))


@needs_root
@pytest.mark.parametrize("how", ["link", "owner", "mode", "file"])
@pytest.mark.parametrize("act", ["begin", "settle", "rollback"])
def test_what_is_planted_beside_it(tree: Path, how: str, act: str) -> None:
    planted = beside(tree)
    outside = tree.parent / "outside"
    make(outside / "next", "outside")
    make(outside / "previous", "outside")
    outside.chmod(0o700)
    if how == "link":
        os.symlink(outside, planted)
    elif how == "file":
        planted.write_bytes(b"")
    else:
        outside.rename(planted)
        outside = planted
        planted.chmod(0o700 if how == "owner" else 0o755)
        if how == "owner":
            os.chown(planted, 1234, 1234)
    found = trees.facts(outside)
    with pytest.raises(Conflict, match="not a directory of ours alone"), Swap(str(tree)) as swap:
        getattr(swap, act)()
    assert trees.facts(outside) == found
    assert version(tree) == "old"


@needs_root
@needs("setpriv", "setfacl")
def test_nobody_else_gets_at_what_lies_beside_it(tree: Path) -> None:
    """The previous tree may hold a program that was replaced because it gave root to everybody."""
    os.chmod(tree.parent, 0o2755)
    subprocess.run(["setfacl", "-d", "-m", "u:65534:rwx", str(tree.parent)], check=True)
    tree.chmod(0o755)
    renew(tree, "new")
    assert stat.S_IMODE(beside(tree).stat().st_mode) == 0o700
    look = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "stat"]
    for path, is_allowed in ((tree / "version", True), (beside(tree) / "previous", False)):
        done = subprocess.run([*look, str(path)], capture_output=True, check=False)
        assert (done.returncode == 0) is is_allowed


# Interruptions


class Killed(BaseException):
    """Nothing that runs after it counts: the process is gone."""


class Killer:
    """Ends everything at the n-th call that changes something, before it or after it."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, *, is_before: bool) -> None:
        self.left = number
        self.is_before = is_before
        self.is_dead = False
        for module, name in (
            *((os, name) for name in ("mkdir", "rmdir", "unlink", "rename")),
            *((fsio, name) for name in ("exchange", "sync_filesystem")),
        ):
            patch.setattr(module, name, self._deadly(getattr(module, name)))

    def _deadly(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.is_dead or (self.left < 0 and self.is_before):
                self.is_dead = True
                raise Killed
            result = real(*arguments, **options)
            if self.left < 0:
                self.is_dead = True
                raise Killed
            return result

        return call


@pytest.mark.parametrize("is_before", [True, False])
def test_killed_at_any_call(quick: Path, is_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for number in range(1000):
        tree = quick / f"image {number}"
        make(tree, "oldest")
        renew(tree, "old")
        with monkeypatch.context() as patch:
            killer = Killer(patch, number, is_before=is_before)
            try:
                renew(tree, "new")
            except Killed:
                pass
        found = version(tree)
        with Swap(str(tree)) as swap:
            swap.settle()
            assert swap.has_previous
        before = version(beside(tree) / "previous")
        # Settling finishes what was swapped, clears away what was not, and swaps nothing itself.
        assert (version(tree), before) == (found, {"old": "oldest", "new": "old"}[found])
        assert os.listdir(beside(tree)) == ["previous"]
        seen.add(found)
        renew(tree, "newest")
        assert (version(tree), version(beside(tree) / "previous")) == ("newest", found)
        go_back(tree)
        assert version(tree) == found
        if not killer.is_dead:
            break
    else:
        pytest.fail("it never came to an end")
    assert seen == {"old", "new"}
    assert number > 15


@needs_root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("act", ["complete", "rollback"])
def test_a_power_cut_right_afterwards(quick: Path, kind: str, act: str) -> None:
    image = mounted.image_of(quick, kind)
    for _ in range(3):
        with mounted.mounted(quick, "-o", "loop", str(image)) as disk:
            tree = disk / "image"
            if not tree.exists():
                make(tree, "old")
            old = version(tree)
            expected = "newer" if old == "new" else "new"
            renew(tree, expected)
            if act == "rollback":
                expected = old
                go_back(tree)
            cut_power(disk)
        with mounted.mounted(quick, "-o", "loop", str(image)) as disk:
            assert version(disk / "image") == expected
            assert os.listdir(beside(disk / "image")) == ["previous"]
            version(beside(disk / "image") / "previous")


# The system call


def test_exchange_without_the_library_function(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        syscall = ctypes.CDLL(None, use_errno=True).syscall

    make(tree.parent / "other", "other")
    monkeypatch.setattr(fsio, "_libc", Bare())
    folder = os.open(tree.parent, os.O_RDONLY)
    fsio.exchange(folder, b"image", folder, b"other")
    assert version(tree) == "other"
    with pytest.raises(FileNotFoundError):
        fsio.exchange(folder, b"image", folder, b"nothing")
    monkeypatch.setattr(fsio, "_RENAMEAT2", {})
    with pytest.raises(OSError) as caught:
        fsio.exchange(folder, b"image", folder, b"other")
    assert caught.value.errno == errno.ENOSYS
    os.close(folder)

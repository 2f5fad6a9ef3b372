"""Edits of a tree, each on a base of its own, for archives of the difference to bring about."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

Edit = Callable[[Path], None]
SCENARIOS: dict[str, tuple[Edit, Edit]] = {}
DELETING = {
    *("things_go", "odd_names_go", "leader_goes", "all_but_one_go", "everything_goes"),
    *("a_directory_is_emptied", "members_change_places"),
}


def scenario(base: Edit) -> Callable[[Edit], Edit]:
    def register(edit: Edit) -> Edit:
        SCENARIOS[edit.__name__] = (base, edit)
        return edit

    return register


def write(place: Path, content: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


def plain(tree: Path) -> None:
    for path in ("a", "etc/hosts", "etc/passwd", "usr/lib/x/1", "usr/lib/x/2", "usr/lib/y/1"):
        write(tree / path, f"content of {path}\n")
    (tree / "usr/share/doc").mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def oddly_named(tree: Path) -> None:
    for name in ("-rf", "--", "a b/*", "n\nl"):
        write(tree / name, "odd\n")


def linked(tree: Path) -> None:
    plain(tree)
    write(tree / "b/leader", "shared\n")
    for name in ("b/member", "c/member", "d"):
        (tree / name).parent.mkdir(exist_ok=True)
        os.link(tree / "b/leader", tree / name)


def replace(place: Path, content: str) -> None:
    """As a package manager does it: a new inode."""
    place.unlink()
    place.write_text(content)


@scenario(plain)
def content_changes(tree: Path) -> None:
    (tree / "etc/hosts").write_text("other and longer than before\n")
    (tree / "a").write_text("")


@scenario(plain)
def things_appear(tree: Path) -> None:
    write(tree / "opt/new/deep/file", "new\n")
    (tree / "usr/share/doc/README").symlink_to("nowhere")
    (tree / "usr/empty").mkdir()
    write(tree / "-rf", "not an option\n")


@scenario(plain)
def things_go(tree: Path) -> None:
    (tree / "a").unlink()
    shutil.rmtree(tree / "usr/lib/x")
    (tree / "usr/share/doc").rmdir()
    (tree / "lib").unlink()
    (tree / "fifo").unlink()
    (tree / "null").unlink()


@scenario(oddly_named)
def odd_names_go(tree: Path) -> None:
    for name in ("-rf", "--", "a b/*"):
        (tree / name).unlink()
    write(tree / "n\nl2", "stays")
    (tree / "n\nl").unlink()
    (tree / os.fsdecode(b"bad\xff")).write_text("new")


@scenario(plain)
def a_directory_is_emptied(tree: Path) -> None:
    (tree / "usr/lib/x/1").unlink()
    (tree / "usr/lib/x/2").unlink()


@scenario(plain)
def only_metadata_changes(tree: Path) -> None:
    (tree / "etc/hosts").chmod(0o600)
    os.chown(tree / "etc/passwd", 7, 8)
    (tree / "etc/passwd").chmod(0o4711)
    (tree / "usr/lib").chmod(0o2775)
    os.utime(tree / "a", (5, 5))
    os.utime(tree / "usr/share", (6, 6))
    os.chown(tree / "lib", 3, 4, follow_symlinks=False)
    os.chown(tree / "fifo", 3, 4)
    (tree / "null").chmod(0o600)


@scenario(plain)
def kinds_change(tree: Path) -> None:
    shutil.rmtree(tree / "usr/lib/x")
    (tree / "usr/lib/x").symlink_to("y")
    shutil.rmtree(tree / "usr/lib/y")
    (tree / "usr/lib/y").write_text("a file now\n")
    (tree / "a").unlink()
    write(tree / "a/file", "in a directory now\n")
    (tree / "lib").unlink()
    write(tree / "lib/file", "in a directory that was a symlink\n")
    replace(tree / "null", "a file that was a device\n")
    (tree / "fifo").unlink()
    (tree / "fifo").symlink_to("a")
    (tree / "etc/hosts").unlink()
    (tree / "etc/hosts").symlink_to("passwd")
    shutil.rmtree(tree / "usr/share/doc")
    os.mkfifo(tree / "usr/share/doc")


def with_changed_kinds(tree: Path) -> None:
    plain(tree)
    kinds_change(tree)


@scenario(with_changed_kinds)
def kinds_change_back(tree: Path) -> None:
    (tree / "usr/lib/x").unlink()
    write(tree / "usr/lib/x/1", "a directory again\n")
    (tree / "etc/hosts").unlink()
    write(tree / "etc/hosts", "was a symlink, and passwd is not to be written to\n")
    shutil.rmtree(tree / "a")
    (tree / "a").symlink_to("etc")
    shutil.rmtree(tree / "lib")
    (tree / "lib").symlink_to("usr/lib")


@scenario(plain)
def symlink_target_changes(tree: Path) -> None:
    (tree / "lib").unlink()
    (tree / "lib").symlink_to("usr/share")


@scenario(plain)
def device_number_changes(tree: Path) -> None:
    (tree / "null").unlink()
    os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 5))


@scenario(linked)
def leader_content_changes(tree: Path) -> None:
    (tree / "b/leader").write_text("changed through one name\n")


@scenario(linked)
def leader_metadata_changes(tree: Path) -> None:
    (tree / "d").chmod(0o600)


@scenario(linked)
def a_name_is_added(tree: Path) -> None:
    os.link(tree / "b/leader", tree / "z-new")
    os.link(tree / "etc/hosts", tree / "etc/hosts-again")


@scenario(linked)
def a_name_comes_before_the_leader(tree: Path) -> None:
    os.link(tree / "b/leader", tree / "aa-new")


@scenario(linked)
def leader_goes(tree: Path) -> None:
    (tree / "b/leader").unlink()


@scenario(linked)
def all_but_one_go(tree: Path) -> None:
    for name in ("b/leader", "b/member", "d"):
        (tree / name).unlink()


@scenario(linked)
def a_member_leaves_with_the_same_content(tree: Path) -> None:
    status = (tree / "c/member").stat()
    replace(tree / "c/member", "shared\n")
    os.utime(tree / "c/member", ns=(status.st_mtime_ns, status.st_mtime_ns))


@scenario(linked)
def a_member_leaves_with_other_content(tree: Path) -> None:
    replace(tree / "b/member", "my own\n")


@scenario(linked)
def the_leader_leaves(tree: Path) -> None:
    replace(tree / "b/leader", "my own\n")


@scenario(linked)
def all_part(tree: Path) -> None:
    for number, name in enumerate(("b/leader", "b/member", "c/member", "d")):
        replace(tree / name, "shared\n" if number % 2 else f"{number}\n")


@scenario(linked)
def files_become_one(tree: Path) -> None:
    for name in ("a", "etc/passwd", "b/member"):
        (tree / name).unlink()
        os.link(tree / "etc/hosts", tree / name)


@scenario(linked)
def members_change_places(tree: Path) -> None:
    write(tree / "e/leader", "second group\n")
    for name in ("b/member", "z"):
        (tree / name).unlink(missing_ok=True)
        os.link(tree / "e/leader", tree / name)
    (tree / "a").unlink()
    os.link(tree / "d", tree / "a")


@scenario(linked)
def links_change_kind(tree: Path) -> None:
    (tree / "d").unlink()
    (tree / "d").symlink_to("b/leader")
    shutil.rmtree(tree / "c")
    os.link(tree / "b/leader", tree / "c")
    (tree / "b/member").unlink()
    (tree / "b/member").mkdir()


@scenario(plain)
def special_files_are_linked(tree: Path) -> None:
    os.link(tree / "fifo", tree / "fifo-again")
    os.link(tree / "null", tree / "null-again")


@scenario(plain)
def everything_goes(tree: Path) -> None:
    for place in tree.iterdir():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


@scenario(plain)
def nothing_happens(_: Path) -> None:
    pass


def settled(tree: Path) -> None:
    """Times in the past, a different one for each path, so that none is right by chance."""
    for number, (folder, folders, files) in enumerate(os.walk(tree, topdown=False)):
        for offset, name in enumerate(files + folders):
            place = os.path.join(folder, name)
            if os.path.islink(place) or name in files:
                age = 1_600_000_000 + number * 1000 + offset
                os.utime(place, (age, age), follow_symlinks=False)
        os.utime(folder, (1_500_000_000 + number, 1_500_000_000 + number))

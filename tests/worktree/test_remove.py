"""Removing a tree: all of it, and nothing that is not of it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import trees
from support.trees import needs_root
from support.variety import make_variety

from chunkstore import fsio
from chunkstore.errors import Conflict
from chunkstore.fsio import Directory
from chunkstore.worktree import remove
from chunkstore.worktree.remove import remove_tree


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def removed(path: Path) -> bool:
    with opened(path.parent) as folder:
        remove_tree(folder, os.fsencode(path.name))
    return not os.path.lexists(path)


def test_everything_is_removed(place: Path) -> None:
    make_variety(place / "tree")
    before = trees.open_descriptors()
    assert removed(place / "tree")
    assert trees.open_descriptors() == before
    assert removed(place / "tree")


def test_what_is_no_directory(place: Path) -> None:
    (place / "outside").mkdir()
    (place / "outside/file").write_bytes(b"")
    os.symlink("outside", place / "link")
    (place / "file").write_bytes(b"")
    assert removed(place / "link")
    assert removed(place / "file")
    assert (place / "outside/file").exists()


def test_links_are_not_followed(place: Path) -> None:
    (place / "outside").mkdir()
    (place / "outside/file").write_bytes(b"")
    (place / "tree/inner").mkdir(parents=True)
    os.symlink(place / "outside", place / "tree/link")
    os.symlink(place / "outside/file", place / "tree/inner/link")
    assert removed(place / "tree")
    assert (place / "outside/file").exists()


def test_paths_of_any_depth(quick: Path) -> None:
    (quick / "tree").mkdir()
    folder = os.open(quick / "tree", os.O_RDONLY)
    for _ in range(900):
        os.mkdir("level", dir_fd=folder)
        below = os.open("level", os.O_RDONLY, dir_fd=folder)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.close(folder)
        folder = below
    os.close(folder)
    assert removed(quick / "tree")


@needs_root
def test_what_is_immutable_at_every_level(place: Path) -> None:
    (place / "tree/a/b").mkdir(parents=True)
    (place / "tree/a/b/file").write_bytes(b"")
    os.symlink("file", place / "tree/a/b/link")
    for path, letters in (("a/b/file", "i"), ("a/b", "a"), ("a", "i"), ("", "ia")):
        trees.set_flags(place / "tree" / path, letters)
    assert removed(place / "tree")


@needs_root
def test_a_name_elsewhere_keeps_its_flags(place: Path) -> None:
    (place / "tree").mkdir()
    (place / "elsewhere").write_bytes(b"kept")
    os.link(place / "elsewhere", place / "tree/file")
    trees.set_flags(place / "elsewhere", "i")
    assert removed(place / "tree")
    assert trees.get_flags(place / "elsewhere") == trees.CHATTR["i"]
    assert (place / "elsewhere").read_bytes() == b"kept"


@needs_root
def test_the_folder_is_not_changed(place: Path) -> None:
    (place / "folder/tree").mkdir(parents=True)
    (place / "folder").chmod(0o751)
    trees.set_flags(place / "folder/tree", "i")
    trees.set_flags(place / "folder", "d")
    assert removed(place / "folder/tree")
    assert (place / "folder").stat().st_mode & 0o7777 == 0o751
    assert trees.get_flags(place / "folder") == trees.CHATTR["d"]


@needs_root
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("how", ["tmpfs", "bind"])
def test_a_mount_is_not_entered(
    place: Path, how: str, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere/file").write_bytes(b"")
    (place / "tree/a/point").mkdir(parents=True)
    (place / "tree/a/point/below").write_bytes(b"")
    what = ["-t", "tmpfs", "none"] if how == "tmpfs" else ["--bind", str(place / "elsewhere")]
    point = str(place / "tree/a/point")

    def mount() -> None:
        subprocess.run(["mount", *what, point], check=True)
        if how == "tmpfs":
            Path(point, "file").write_bytes(b"")

    if is_late:
        # Once the list of mounts has been looked at, and the directory found not empty.
        real = remove._clear

        def late(tree: Directory, path: bytes, mount_id: bytes) -> Iterator[bytes]:
            if path == b"a/point":
                mount()
            return real(tree, path, mount_id)

        monkeypatch.setattr(remove, "_clear", late)
    else:
        mount()
    try:
        with pytest.raises(Conflict, match="point"):
            removed(place / "tree")
        assert Path(point, "file").exists()
    finally:
        subprocess.run(["umount", point], check=True)
    assert (place / "elsewhere/file").exists()


def test_a_user_who_moves_things_about(quick: Path) -> None:
    (quick / "outside/inner").mkdir(parents=True)
    for number in range(50):
        (quick / f"outside/inner/{number}").write_bytes(b"")
        (quick / f"outside/{number}").write_bytes(b"")
    os.symlink(quick / "outside", quick / "link")
    stop = threading.Event()
    swaps = [0]

    def race() -> None:
        with opened(quick) as beside:
            while not stop.is_set():
                try:
                    with opened(quick / "tree") as top:
                        for number in range(10):
                            fsio.exchange(top, b"%d" % number, beside, b"link")
                            fsio.exchange(top, b"%d" % number, beside, b"link")
                            swaps[0] += 1
                except OSError:
                    pass

    thread = threading.Thread(target=race)
    thread.start()
    try:
        for _ in range(60):
            for number in range(10):
                with suppress(OSError):  # the other may be at work on what was left there
                    (quick / f"tree/{number}/inner").mkdir(parents=True)
                    for inner in range(20):
                        (quick / f"tree/{number}/inner/{inner}").write_bytes(b"")
            with suppress(Conflict):  # it came back each time
                assert removed(quick / "tree")
            if not (quick / "link").is_symlink():
                trees.remove_tree(quick / "link")
                with suppress(FileExistsError):  # it has just been put back
                    os.symlink(quick / "outside", quick / "link")
    finally:
        stop.set()
        thread.join()
    assert swaps[0] > 100
    assert len(list((quick / "outside").iterdir())) == 51
    assert len(list((quick / "outside/inner").iterdir())) == 50

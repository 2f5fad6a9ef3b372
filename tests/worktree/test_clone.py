"""Cloning a tree: all comes along, nothing is shared for writing, nothing outside is touched."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import mounted, trees
from support.trees import needs, needs_root

from chunkstore import fsio
from chunkstore.errors import Conflict, LocalError
from chunkstore.fsio import Directory
from chunkstore.worktree import duplicate
from chunkstore.worktree.clone import clone_tree
from chunkstore.worktree.original import Source
from chunkstore.worktree.twin import CloneReport

MIB = 1 << 20


@pytest.fixture(scope="module", params=["plain", "tmpfs", "ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(
        tempfile.mkdtemp(prefix="imgstore-test-", dir=None if request.param == "plain" else memory)
    )
    try:
        with mounted.disk(folder, request.param) as path:
            yield path
    finally:
        trees.remove_tree(folder)


@pytest.fixture
def here(disk: Path) -> Iterator[Path]:
    """A directory for the test on one of the file systems."""
    path = Path(tempfile.mkdtemp(dir=disk))
    yield path
    trees.remove_tree(path)


class At:
    """A progress that does something once so many paths are cloned, or at each of them."""

    def __init__(self, action: Callable[[], None], *, after: int | None = None) -> None:
        self.action = action
        self.after = after
        self.files = 0
        self.size = 0
        self.expected = (0, 0)

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        self.expected = (files, size)

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        self.size += size
        self.files += files
        if self.after is None or (files and self.files == self.after):
            self.action()


def clone(
    source: Path, target: Path, progress: At | None = None, leave_out: tuple[bytes, ...] = ()
) -> CloneReport:
    target.mkdir(mode=0o700, exist_ok=True)
    with Directory(str(source)) as old, Directory(str(target)) as new:
        return clone_tree(old, new, leave_out=leave_out, progress=progress)


# What comes along


def test_everything_comes_along(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted.variety(here / "old", monkeypatch)
    before = trees.open_descriptors()
    watched = At(lambda: None)
    report = clone(here / "old", here / "new", watched)
    trees.assert_same(here / "old", here / "new")
    assert report.shortfalls.kinds == {}
    assert (report.sockets, report.vanished) == (1, 0)
    assert report.paths == len(trees.facts(here / "old"))
    assert watched.expected == (watched.files, watched.size)
    assert watched.files == report.paths + report.sockets
    assert trees.open_descriptors() == before


def test_content_is_shared_where_that_is_possible(here: Path, disk: Path) -> None:
    (here / "old").mkdir()
    (here / "old/file").write_bytes(trees.pseudo_random("shared", 300_000))
    trees.sparse_file(here / "old/sparse", MIB, (500_000, b"x" * 4096))
    report = clone(here / "old", here / "new")
    mounted = Path("/proc/self/mounts").read_text().replace("\\040", " ")
    on_disk = f"{disk} xfs " in mounted or f"{disk} btrfs " in mounted
    if on_disk:
        assert (report.reflinked_files, report.reflinked_bytes) == (2, 300_000 + MIB)
        assert (report.copied_files, report.copied_bytes) == (0, 0)
    elif f"{disk} tmpfs " in mounted or f"{disk} ext4 " in mounted:
        assert (report.reflinked_files, report.copied_files) == (0, 2)
        assert 300_000 < report.copied_bytes <= 300_000 + 8192
    trees.assert_same(here / "old", here / "new")


def test_writing_in_place_changes_one_tree_only(here: Path) -> None:
    (here / "old").mkdir()
    (here / "old/file").write_bytes(b"before" * 10_000)
    os.link(here / "old/file", here / "old/linked")
    clone(here / "old", here / "new")
    with open(here / "new/file", "r+b") as file:
        file.write(b"CHANGED")
    os.chmod(here / "new/file", 0o600)
    assert (here / "old/file").read_bytes() == b"before" * 10_000
    assert (here / "new/linked").read_bytes().startswith(b"CHANGED")


def test_times_of_reading_are_kept_on_both_sides(place: Path) -> None:
    (place / "old").mkdir()
    (place / "old/mailbox").write_bytes(b"unread")
    os.utime(place / "old/mailbox", ns=(1_000_000_000_000_000_001, 1_200_000_000_000_000_002))
    clone(place / "old", place / "new")
    for side in ("old", "new"):
        status = (place / side / "mailbox").stat()
        assert status.st_atime_ns == 1_000_000_000_000_000_001
        assert status.st_mtime_ns == 1_200_000_000_000_000_002


def test_paths_of_any_depth(quick: Path) -> None:
    (quick / "old").mkdir()
    folder = os.open(quick / "old", os.O_RDONLY)
    for _ in range(900):
        os.mkdir("level", dir_fd=folder)
        below = os.open("level", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=folder))
    os.close(folder)
    report = clone(quick / "old", quick / "new")
    assert report.paths == 902
    assert trees.differences(trees.facts(quick / "old"), trees.facts(quick / "new")) == []


@needs_root
@needs("setfacl")
def test_nothing_is_handed_down_by_the_folder(place: Path, variety: Path) -> None:
    folder = place / "folder"
    folder.mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx,g:99:rwx", str(folder)], check=True)
    os.chown(folder, 0, 4321)
    folder.chmod(0o2755)
    trees.set_flags(folder, "dA")
    clone(variety, folder / "new")
    trees.assert_same(variety, folder / "new")


def test_names_at_the_top_are_left_out(place: Path) -> None:
    (place / "old/.imgstore").mkdir(parents=True)
    (place / "old/.imgstore/state").write_bytes(b"state")
    (place / "old/sub/.imgstore").mkdir(parents=True)
    (place / "new/.imgstore").mkdir(parents=True)
    clone(place / "old", place / "new", leave_out=(b".imgstore",))
    assert list((place / "new/.imgstore").iterdir()) == []
    assert (place / "new/sub/.imgstore").is_dir()
    clone(place / "old/.imgstore", place / "new/.imgstore")
    assert (place / "new/.imgstore/state").read_bytes() == b"state"
    assert trees.facts(place / "old") == trees.facts(place / "new")


@needs_root
@needs("btrfs")
def test_a_file_that_is_not_copied_on_write(quick: Path) -> None:
    with mounted.disk(quick, "btrfs") as disk:
        (disk / "old").mkdir()
        (disk / "old/database").write_bytes(b"")
        trees.set_flags(disk / "old/database", "C")
        (disk / "old/database").write_bytes(b"rows" * 5000)
        report = clone(disk / "old", disk / "new")
        assert trees.get_flags(disk / "new/database") == trees.CHATTR["C"]
        assert report.reflinked_files == 1
        trees.assert_same(disk / "old", disk / "new")


# What is refused before anything is made


def test_a_target_that_is_not_empty(place: Path) -> None:
    (place / "old").mkdir()
    (place / "new/mine").mkdir(parents=True)
    with pytest.raises(Conflict, match="mine"):
        clone(place / "old", place / "new")


@needs_root
@pytest.mark.parametrize("how", ["tmpfs", "bind", "file"])
def test_a_mount_inside(place: Path, how: str) -> None:
    point = place / "old/sub/a point"
    (place / "old/sub").mkdir(parents=True)
    (place / "old/afile").write_bytes(b"")
    (place / "elsewhere").mkdir()
    (place / "secret").write_bytes(b"")
    point.write_bytes(b"") if how == "file" else point.mkdir()
    what = {
        "tmpfs": ["-t", "tmpfs", "none"],
        "bind": ["--bind", str(place / "elsewhere")],
        "file": ["--bind", str(place / "secret")],
    }
    subprocess.run(["mount", *what[how], str(point)], check=True)
    try:
        with pytest.raises(Conflict, match="old/sub/a point is mounted inside"):
            clone(place / "old", place / "new")
    finally:
        subprocess.run(["umount", str(point)], check=True)
    assert list((place / "new").iterdir()) == []


@needs_root
@pytest.mark.parametrize("how", ["tmpfs", "bind"])
def test_a_mount_that_comes_meanwhile(place: Path, how: str) -> None:
    (place / "old/sub/inner").mkdir(parents=True)
    (place / "old/file").write_bytes(b"")
    (place / "elsewhere").mkdir()
    (place / "elsewhere/secret").write_bytes(b"")
    what = ["-t", "tmpfs", "none"] if how == "tmpfs" else ["--bind", str(place / "elsewhere")]
    point = str(place / "old/sub/inner")

    def mount() -> None:
        subprocess.run(["mount", *what, point], check=True)

    try:
        with pytest.raises(Conflict, match="old/sub/inner is a mount"):
            clone(place / "old", place / "new", At(mount, after=1))
    finally:
        subprocess.run(["umount", point], check=True)
    assert not (place / "new/sub/inner/secret").exists()


@needs_root
@needs("btrfs")
def test_a_subvolume_inside(quick: Path) -> None:
    with mounted.disk(quick, "btrfs") as disk:
        (disk / "old").mkdir()
        make = ["btrfs", "subvolume", "create", str(disk / "old/sub")]
        subprocess.run(make, check=True, capture_output=True)
        with pytest.raises(Conflict, match="old/sub is a mount or a subvolume"):
            clone(disk / "old", disk / "new")
        assert list((disk / "new").iterdir()) == []


@needs_root
@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_no_room(quick: Path, what: str) -> None:
    size = "size=3m" if what == "bytes" else "size=30m,nr_inodes=20"
    with mounted.mounted(quick, "-t", "tmpfs", "-o", size, "none") as disk:
        (disk / "old").mkdir()
        for number in range(12):
            (disk / f"old/{number}").write_bytes(bytes(150_000))
        with pytest.raises(LocalError, match=r"no (space|inodes).*1[0-9]+.* are needed") as caught:
            clone(disk / "old", disk / "new")
        assert caught.value.errno == errno.ENOSPC
        assert list((disk / "new").iterdir()) == []


def test_another_file_system(quick: Path, place: Path) -> None:
    if quick.stat().st_dev == place.stat().st_dev:
        pytest.skip("needs two file systems")
    (place / "old").mkdir()
    with pytest.raises(Conflict, match="another file system"):
        clone(place / "old", quick / "new")


# A tree that does not hold still


def test_what_vanishes_is_left_out(place: Path) -> None:
    (place / "old").mkdir()
    for number in range(20):
        (place / f"old/{number}").write_bytes(b"")
        (place / f"old/directory {number}").mkdir()

    def remove() -> None:
        for path in (place / "old").iterdir():
            path.rmdir() if path.is_dir() else path.unlink()

    report = clone(place / "old", place / "new", At(remove, after=5))
    made = list((place / "new").iterdir())
    assert 5 <= len(made) < 40
    assert all(path.is_file() for path in made)
    assert report.vanished > 0


def test_a_listing_that_names_things_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel may, when a directory changes while it is read."""
    (place / "old/inner/below").mkdir(parents=True)
    for folder in ("old", "old/inner", "old/inner/below"):
        (place / folder / "file").write_bytes(folder.encode())
        os.link(place / folder / "file", place / folder / "linked")
        os.symlink("file", place / folder / "link")
        os.mkfifo(place / folder / "fifo")
    real = Source.list

    def twice(self: Source, folder: int, path: bytes) -> Iterator[os.DirEntry[str]]:
        for entry in real(self, folder, path):
            yield entry
            yield entry

    monkeypatch.setattr(Source, "list", twice)
    clone(place / "old", place / "new")
    trees.assert_same(place / "old", place / "new")


def test_what_is_replaced_by_another_type_is_cloned_as_that(place: Path) -> None:
    (place / "old").mkdir()
    for number in range(9):
        (place / f"old/{number}").write_bytes(b"file")

    def replace() -> None:
        for number in range(9):
            (place / f"old/{number}").unlink()
            if number % 2:
                os.symlink("/nowhere", place / f"old/{number}")
            else:
                os.mkfifo(place / f"old/{number}")

    report = clone(place / "old", place / "new", At(replace, after=1))
    assert report.vanished == 0
    forms = {stat.S_IFMT(path.lstat().st_mode) for path in (place / "new").iterdir()}
    assert len(list((place / "new").iterdir())) == 9
    assert forms >= {stat.S_IFLNK, stat.S_IFIFO}


@pytest.mark.parametrize("how", ["truncate", "grow"])
@pytest.mark.parametrize("quick_copy", [True, False])
def test_a_file_that_changes_its_length(
    place: Path, how: str, quick_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicate, "_PIECE", 65536)
    monkeypatch.setattr(duplicate, "_BLOCK", 65536)
    if not quick_copy:
        monkeypatch.setattr(os, "copy_file_range", _refused)
    (place / "old").mkdir()
    data = trees.pseudo_random("changing", 500_000)
    path = place / "old/file"
    path.write_bytes(data)
    modes = set()

    def change() -> None:
        modes.add(stat.S_IMODE((place / "new/file").stat().st_mode))
        os.truncate(path, 100_000 if how == "truncate" else 900_000)

    path.chmod(0o644)
    report = clone(place / "old", place / "new", At(change))
    assert (place / "new/file").read_bytes() == (data[:100_000] if how == "truncate" else data)
    assert report.copied_bytes == (100_000 if how == "truncate" else 500_000)
    # Nobody else may read, or run, a file that is not complete.
    assert 0o600 in modes


def _refused(*_: object) -> int:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_without_copy_file_range(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", _refused)
    (place / "old").mkdir()
    (place / "old/file").write_bytes(trees.pseudo_random("slow", 3 * MIB + 17))
    trees.sparse_file(place / "old/sparse", 9 * MIB, (MIB, b"x" * 4096), (5 * MIB, b"y" * 9000))
    clone(place / "old", place / "new")
    trees.assert_same(place / "old", place / "new")


def test_an_inode_number_that_is_used_again(place: Path) -> None:
    """A hardlinked file must not get the content, and owner, of one that had its number before."""
    mine = place / "old/mine"
    mine.mkdir(parents=True)
    (mine / "a").write_bytes(b"mine")
    os.link(mine / "a", place / "old/mine again")
    (place / "old/other").mkdir()
    number = (mine / "a").stat().st_ino
    theirs = []

    def reuse() -> None:
        (mine / "a").unlink()
        (place / "old/mine again").unlink()
        for attempt in range(3000):
            path = mine / f"theirs {attempt}"
            path.write_bytes(b"theirs")
            if path.stat().st_ino == number:
                os.link(path, place / "old/other/theirs")
                theirs.append(path)
                return
            path.unlink()

    clone(place / "old", place / "new", At(reuse, after=1))
    if not theirs:
        pytest.skip("this file system does not use inode numbers again at once")
    assert (place / "new/other/theirs").read_bytes() == b"theirs"


def test_the_target_is_closed_until_it_is_complete(place: Path) -> None:
    (place / "old/inner").mkdir(parents=True)
    (place / "old/inner/file").write_bytes(b"")
    (place / "old").chmod(0o755)
    (place / "new").mkdir(mode=0o755)
    modes = []
    watch = At(lambda: modes.append(stat.S_IMODE((place / "new").stat().st_mode)))
    clone(place / "old", place / "new", watch)
    assert set(modes) == {0o700}
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o755


# Somebody who moves things about in the source


@pytest.mark.parametrize("what", ["directory", "file", "inner"])
def test_no_link_is_followed_out_of_the_source(place: Path, what: str) -> None:
    (place / "outside/inner").mkdir(parents=True)
    (place / "outside/secret").write_bytes(b"secret")
    (place / "outside/inner/secret").write_bytes(b"secret")
    (place / "old/target/inner").mkdir(parents=True)
    for number in range(3):
        (place / f"old/{number}").write_bytes(b"")
        (place / f"old/target/{number}").write_bytes(b"")
    (place / "old/leaf").write_bytes(b"")

    def swap() -> None:
        if what == "file":
            if not (place / "new/leaf").exists():
                (place / "old/leaf").unlink()
                os.symlink(place / "outside/secret", place / "old/leaf")
            return
        os.rename(place / "old/target", place / "aside")
        os.symlink(place / "outside", place / "old/target")

    # The third path below `target` is when `inner` has been listed and is about to be opened.
    clone(place / "old", place / "new", At(swap, after=6 if what == "inner" else 1))
    assert _secrets(place / "new") == []


def _secrets(root: Path) -> list[str]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and Path(path).read_bytes() == b"secret":
                found.append(path)
    return found


def test_a_racing_user_gets_nothing_in_or_out(quick: Path) -> None:
    (quick / "outside").mkdir()
    for number in range(5):
        (quick / f"outside/{number}").write_bytes(b"secret")
    outside = trees.facts(quick / "outside")
    tree = quick / "old"
    for number in range(150):
        folder = tree / f"{number % 10}" / f"{number}"
        folder.mkdir(parents=True)
        for inner in range(5):
            (folder / f"{inner}").write_bytes(b"")
    for number in range(10):
        os.symlink(quick / "outside", quick / f"link {number}")
    stop = threading.Event()
    swaps = [0]
    attempts = 0

    def race() -> None:
        top, beside = os.open(tree, os.O_RDONLY), os.open(quick, os.O_RDONLY)
        while not stop.is_set():
            for number in range(10):
                fsio.exchange(top, b"%d" % number, beside, b"link %d" % number)
                swaps[0] += 1
        os.close(top)
        os.close(beside)

    thread = threading.Thread(target=race)
    thread.start()
    try:
        # On a busy machine the other thread gets its turn only after many clones.
        while attempts < 40 or (swaps[0] <= 1000 and attempts < 400):
            clone(tree, quick / f"new {attempts}")
            attempts += 1
    finally:
        stop.set()
        thread.join()
    assert swaps[0] > 1000
    for attempt in range(attempts):
        assert _secrets(quick / f"new {attempt}") == []
    assert trees.facts(quick / "outside") == outside

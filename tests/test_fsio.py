"""Durable replacement and confined opening, by the kernel's own call and by the fallback."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import program, trees
from support.strace import needs_strace

from chunkstore import fsio
from chunkstore.fsio import Directory

OPENERS = {"openat2": fsio._openat2, "walk": fsio._walk_open}


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of opening a path below a directory."""
    name: str = request.param
    if name == "openat2" and not fsio._has_openat2():
        pytest.skip("this kernel or sandbox has no openat2")
    monkeypatch.setattr(fsio, "_confined_open", OPENERS[name])
    return name


@pytest.fixture
def tree(quick: Path) -> Path:
    path = quick / "tree"
    (path / "a/b").mkdir(parents=True)
    (path / "a/b/file").write_bytes(b"inside")
    (quick / "outside").mkdir()
    (quick / "outside/file").write_bytes(b"outside")
    return path


# Writing


class Calls:
    """Notes the system calls that matter for durability, and fails one of them if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fail: str = "") -> None:
        self.log: list[str] = []
        self.fail = fail
        for name in ("write", "fsync", "rename", "unlink"):
            monkeypatch.setattr(os, name, self._noted(name, getattr(os, name)))

    def _noted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            what = name
            if name == "fsync":
                mode = os.fstat(arguments[0]).st_mode
                what = "fsync directory" if stat.S_ISDIR(mode) else "fsync file"
            self.log.append(what)
            if what == self.fail:
                raise OSError(errno.EIO, "failed on purpose")
            return real(*arguments, **options)

        return call


def test_a_file_is_durable_before_its_name_and_the_name_before_the_return(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    fsio.write_durably(str(quick / "name"), b"content")
    assert calls.log == ["write", "fsync file", "rename", "fsync directory"]
    calls.log.clear()
    (quick / "moved").write_bytes(b"x")
    calls.log.clear()
    fsio.move_durably(str(quick / "moved"), str(quick / "name"))
    assert calls.log == ["fsync file", "rename", "fsync directory"]


@pytest.mark.parametrize("step", ["write", "fsync file", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    quick: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = quick / "name"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        Calls(patch, fail=step)
        with pytest.raises(OSError, match="on purpose"):
            fsio.write_durably(str(path), b"new")
    assert os.listdir(quick) == ["name"]
    assert path.read_bytes() == b"old"


def test_a_failure_of_the_last_sync_is_told(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Calls(patch, fail="fsync directory")
        with pytest.raises(OSError, match="on purpose"):
            fsio.write_durably(str(quick / "name"), b"new")
    assert os.listdir(quick) == ["name"]


def test_interrupted_from_the_keyboard(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fsio.write_durably(str(quick / "name"), b"new")
    assert os.listdir(quick) == []


def test_a_new_file_replaces_the_inode(quick: Path) -> None:
    path = quick / "name"
    path.write_bytes(b"old")
    os.link(path, quick / "other link")
    fsio.write_durably(str(path), b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert (quick / "other link").read_bytes() == b"old"
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


def test_paths_without_a_directory(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quick)
    fsio.write_durably("name", b"content")
    fsio.move_durably("name", "other")
    assert (quick / "other").read_bytes() == b"content"


def test_short_writes_are_continued(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
        fsio.write_durably(str(quick / "name"), b"0123456789")
    assert (quick / "name").read_bytes() == b"0123456789"


def test_short_reads_are_continued(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (quick / "name").write_bytes(b"0123456789")
    real = os.pread
    descriptor = os.open(quick / "name", os.O_RDONLY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda file, size, start: real(file, min(size, 3), start))
        assert fsio.read_at(descriptor, 1, 9) == b"12345678"
        assert fsio.read_at(descriptor, 8, 100) == b"89"
        assert fsio.read_at(descriptor, 50, 100) == b""
        assert fsio.read_at(descriptor, 5, 5) == b""
    os.close(descriptor)


def test_fresh_names_are_fresh_in_threads_and_children() -> None:
    names: list[str] = []

    def take() -> None:
        names.extend(fsio.fresh_name() for _ in range(500))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 4000


def test_syncing_what_is_not_open() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        fsio.sync_filesystem(987654)


# Opening


def test_paths_inside_are_opened(opener: str, tree: Path) -> None:
    with Directory(str(tree)) as directory:
        with fsio.opened(directory, b"a/b/file") as descriptor:
            assert os.read(descriptor, 100) == b"inside"
        for path in (b"", b".", b"a", b"a/b"):
            descriptor = directory.open_directory(path)
            assert os.path.samestat(os.fstat(descriptor), os.stat(os.fsencode(tree) + b"/" + path))
            os.close(descriptor)
        descriptor = directory.open(b"a/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize(
    "path",
    [
        *(b"..", b"../outside/file", b"a/../../outside/file", b"/etc/passwd", b"/"),
        *(b"link", b"link/file", b"a/link/file", b"a/b/up/outside/file", b"inner/b/file"),
        *(b"a/b/absolute", b"dangling", b"self/fd"),
    ],
)
def test_no_path_leads_through_a_link_or_outside(opener: str, tree: Path, path: bytes) -> None:
    os.symlink(tree.parent / "outside", tree / "link")
    os.symlink("../../outside", tree / "a/link")
    os.symlink("../../..", tree / "a/b/up")
    os.symlink("a", tree / "inner")
    os.symlink(tree.parent / "outside/file", tree / "a/b/absolute")
    os.symlink("nowhere", tree / "dangling")
    os.symlink("/proc/self", tree / "self")
    before = sorted(os.listdir(tree.parent / "outside"))
    with Directory(str(tree)) as directory:
        for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY, os.O_WRONLY | os.O_CREAT):
            assert refusal(directory, path, flags) in (
                *(errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ENOENT),
                errno.EISDIR,
            )
    assert sorted(os.listdir(tree.parent / "outside")) == before
    assert not (tree / "nowhere").exists()


def refusal(directory: Directory, path: bytes, flags: int = os.O_RDONLY) -> int | None:
    """Why a path is not opened; None when it is."""
    try:
        os.close(directory.open(path, flags))
    except OSError as error:
        return error.errno
    return None


def test_magic_links_are_links(opener: str) -> None:
    with Directory("/proc/self") as directory:
        assert refusal(directory, b"cwd") == errno.ELOOP
        assert refusal(directory, b"root/etc") in (errno.ELOOP, errno.ENOTDIR)


def test_a_directory_that_is_a_link_when_it_is_opened_first(tree: Path) -> None:
    """The top is the caller's own word and may be a link; what is below may not."""
    os.symlink(tree, tree.parent / "to tree")
    with Directory(str(tree.parent / "to tree")) as directory:
        os.close(directory.open(b"a/b/file"))


def exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, flag = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), flag):
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.fixture
def swapping(tree: Path) -> Iterator[list[int]]:
    """A directory that becomes a link to outside and back, all the time; counts the swaps."""
    os.symlink(tree.parent / "outside", tree / "swap")
    try:
        exchange(tree / "a/b", tree / "swap")
    except OSError:
        pytest.skip("names can't be exchanged on this file system")
    count = [0]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            exchange(tree / "a/b", tree / "swap")
            count[0] += 1

    thread = threading.Thread(target=swap)
    thread.start()
    yield count
    stop.set()
    thread.join()


def test_a_racing_swap_never_leads_outside(opener: str, tree: Path, swapping: list[int]) -> None:
    opened = refused = 0
    with Directory(str(tree)) as directory:
        while (opened < 300 or refused < 300) and opened + refused < 60_000:
            try:
                descriptor = directory.open(b"a/b/file")
            except OSError as error:
                refused += error.errno in (errno.ELOOP, errno.ENOTDIR)
                continue
            assert os.read(descriptor, 100) == b"inside"
            os.close(descriptor)
            opened += 1
    assert swapping[0] > 100
    assert opened > 10
    assert refused > 10


def test_a_leased_file_is_refused_after_a_while_and_not_waited_for_at_full_speed(
    quick: Path,
) -> None:
    """With O_NONBLOCK the kernel answers EAGAIN for as long as another holds a lease."""
    (quick / "leased").write_bytes(b"x")
    holder = os.open(quick / "leased", os.O_RDWR)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        pytest.skip("no leases on this file system")
    try:
        with Directory(str(quick)) as directory, pytest.raises(BlockingIOError):
            directory.open(b"leased", os.O_RDONLY | os.O_NONBLOCK)
    finally:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(holder)
        signal.signal(signal.SIGIO, before)


def test_closing_gives_the_descriptor_back(tree: Path) -> None:
    before = trees.open_descriptors()
    with Directory(str(tree)) as directory:
        for path in (b"a/b/file", b"nowhere/at/all", b"a/nowhere", b".."):
            for open_ in OPENERS.values():
                with suppress(OSError):
                    os.close(open_(directory.descriptor, path, os.O_RDONLY, 0))
    assert trees.open_descriptors() == before


def test_the_type_of_a_file_system_is_what_stat_says(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/proc"), Path("/sys")):
        said = subprocess.run(
            ["stat", "-f", "-c", "%t", str(path)], capture_output=True, check=True
        )
        with Directory(str(path)) as directory:
            assert fsio.file_system_magic(directory.descriptor) == int(said.stdout, 16)
    assert fsio.file_system_magic(-1) == 0


@needs_strace
def test_directories_are_made_durable(quick: Path) -> None:
    """Each name is on disk before the next directory is made below it."""
    script = "import sys; from chunkstore import fsio; fsio.make_directories(sys.argv[1])"
    log = quick / "log"
    subprocess.run(
        [
            *("strace", "-y", "-o", str(log), "-e", "trace=mkdir,fsync"),
            *(sys.executable, "-c", script, str(quick / "a/b")),
        ],
        env=program.environment(),
        check=True,
    )
    calls = re.findall(r'(?m)^(mkdir|fsync)\((?:"|\d+<)(.*?)[">]', log.read_text())
    assert [(name, path) for name, path in calls if path.startswith(str(quick))] == [
        ("mkdir", str(quick / "a")),
        ("fsync", str(quick)),
        ("mkdir", str(quick / "a/b")),
        ("fsync", str(quick / "a")),
    ]


def test_directories_that_are_there(quick: Path) -> None:
    fsio.make_directories(str(quick))
    (quick / "file").touch()
    for path in (quick / "file", quick / "file/below"):
        with pytest.raises(OSError, match="Not a directory"):
            fsio.make_directories(str(path))


@pytest.mark.parametrize("offset", [None, 0, 5])
@pytest.mark.parametrize("most", [1, 3, 4, 7, 11, 100])
def test_several_buffers_by_a_system_that_stops_short(
    quick: Path, monkeypatch: pytest.MonkeyPatch, most: int, offset: int | None
) -> None:
    buffers = [b"abc", memoryview(b"d"), b"", b"efgh", b"ijk"]
    whole = b"abcdefghijk"
    real, real_at = os.writev, os.pwritev

    def some(buffers: list[bytes]) -> list[bytes]:
        return [b"".join(buffers)[:most]]

    monkeypatch.setattr(os, "writev", lambda to, data: real(to, some(data)))
    monkeypatch.setattr(os, "pwritev", lambda to, data, at: real_at(to, some(data), at))
    descriptor = os.open(quick / "file", os.O_WRONLY | os.O_CREAT)
    try:
        fsio.write_many(descriptor, buffers, offset)
        fsio.write_many(descriptor, [])
    finally:
        os.close(descriptor)
    assert (quick / "file").read_bytes() == bytes(offset or 0) + whole

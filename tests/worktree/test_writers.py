"""Files whose bytes are written by threads: whole when they are handed on, closed when all ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mounted, trees

from chunkstore import fsio
from chunkstore.worktree.early import STEP, EarlySync
from chunkstore.worktree.restore import Content
from chunkstore.worktree.writers import LARGE, MAX_WAITING, Writers

MIB = 1 << 20


@pytest.fixture
def folder(quick: Path) -> Iterator[int]:
    descriptor = os.open(quick, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def parts(data: bytes, size: int = 50_000) -> Content:
    for start in range(0, len(data), size):
        part = data[start : start + size]
        yield memoryview(part), len(part)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "size", [0, 1, LARGE - 1, LARGE, LARGE + 1, MIB, 3 * MIB + 7, MAX_WAITING + MIB]
)
def test_a_file_is_whole_when_it_is_handed_on(folder: int, quick: Path, size: int) -> None:
    data = trees.pseudo_random("data", size)
    found = []

    def done(descriptor: int) -> None:
        found.append(os.pread(os.open(quick / "file", os.O_RDONLY), size + 1, 0))
        assert os.fstat(descriptor).st_size == size

    with Writers() as writers:
        writers.make(folder, b"file", parts(data), size, done)
    assert found == [data]


def test_small_and_large_ones_all_come_out_and_nothing_stays_open(folder: int, quick: Path) -> None:
    before = descriptors()
    files = {f"{n}": trees.pseudo_random(n, n % 7 * LARGE // 3 + n) for n in range(300)}
    done: list[int] = []
    with Writers() as writers:
        for name, data in files.items():
            writers.make(folder, name.encode(), parts(data), len(data), done.append)
            assert descriptors() < before + 100
    assert len(done) == len(files)
    assert descriptors() == before
    assert {path.name: path.read_bytes() for path in quick.iterdir()} == files


def test_holes_stay_holes(folder: int, quick: Path) -> None:
    data = trees.pseudo_random("data", LARGE)

    def content() -> Content:
        yield None, 5 * MIB
        yield data, len(data)
        yield None, 3 * MIB
        yield data, len(data)
        yield None, 9 * MIB

    size = 17 * MIB + 2 * LARGE
    with Writers() as writers:
        writers.make(folder, b"file", content(), size, lambda _: None)
    found = (quick / "file").read_bytes()
    assert found == b"".join(
        bytes(length) if part is None else bytes(part) for part, length in content()
    )
    assert (quick / "file").stat().st_blocks * 512 < 3 * LARGE


def test_many_files_of_nothing_but_holes_are_not_all_open(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no bytes that could wait, but are behind a file whose bytes do."""
    real = fsio.write_many

    def slow(*arguments: object) -> None:
        time.sleep(0.5)
        real(*arguments)  # type: ignore[arg-type]

    before = descriptors()
    with Writers() as writers:
        monkeypatch.setattr(fsio, "write_many", slow)
        writers.make(folder, b"a", parts(bytes(LARGE)), LARGE, lambda _: None)
        for number in range(500):
            writers.make(folder, b"%d" % number, [(None, LARGE)], LARGE, lambda _: None)
            assert descriptors() < before + 100


def make(folder: int, done: list[int]) -> None:
    with Writers() as writers:
        for number in range(9):
            writers.make(folder, b"%d" % number, parts(bytes(MIB)), MIB, done.append)


def test_a_full_disk_ends_it(quick: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    with mounted.mounted(quick, "-t", "tmpfs", "-o", "size=4m", "none") as place:
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        before = descriptors()
        done: list[int] = []
        try:
            with pytest.raises(OSError) as caught:
                make(folder, done)
            assert caught.value.errno == errno.ENOSPC
            assert len(done) <= 4
            assert descriptors() == before
        finally:
            os.close(folder)


def test_a_descriptor_stays_as_long_as_somebody_writes_to_it(
    folder: int, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the number would be another file's by then, and that one get the bytes."""
    real = fsio.write_many
    begun, go_on = threading.Event(), threading.Event()
    states: list[bool] = []

    def slow(descriptor: int, *arguments: object) -> None:
        begun.set()
        go_on.wait(20)
        states.append(is_open(descriptor))
        real(descriptor, *arguments)  # type: ignore[arg-type]

    def content() -> Content:
        yield bytes(2 * MIB), 2 * MIB
        assert begun.wait(20)
        threading.Timer(0.2, go_on.set).start()
        raise ValueError("damaged")

    monkeypatch.setattr(fsio, "write_many", slow)
    with pytest.raises(ValueError, match="damaged"), Writers() as writers:
        writers.make(folder, b"file", content(), 4 * MIB, lambda _: None)
    assert states == [True]
    assert (quick / "file").stat().st_size == 2 * MIB


def test_what_the_disk_says_early_is_passed_on(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of a failed write once: who asks again hears that all is well."""
    asked: list[int] = []

    def failing(descriptor: int) -> None:
        asked.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fsio, "sync_filesystem", failing)
    early = EarlySync(folder)
    early.wrote(STEP - 1)
    early.finish()
    assert asked == []
    early.wrote(1)
    with pytest.raises(OSError) as caught:
        early.finish()
    early.close()
    assert caught.value.errno == errno.EIO
    assert asked == [folder]

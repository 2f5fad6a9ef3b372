"""`pull --atomic` and `rollback` from the outside: one tree or the other, and nothing lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Live


@pytest.fixture
def live(place: Path) -> Live:
    live = Live(place)
    (live.tree / "etc").mkdir()
    for name in ("one", "two", "etc/conf", "etc/other"):
        (live.tree / name).write_bytes(b"version 0")
    live.install()
    return live


def edit(live: Live, number: int) -> None:
    stores.settle()
    for name in ("one", "two"):
        (live.tree / name).write_bytes(b"version %d" % number)
    live.commit()


def test_there_and_back(live: Live) -> None:
    (live.node / "mine").write_bytes(b"mine")
    (live.node / "etc/other").write_bytes(b"changed here")
    old = trees.facts(live.node)
    inode = (live.node / "one").stat().st_ino
    descriptor = os.open(live.node, os.O_RDONLY)
    edit(live, 1)
    live.pull("--atomic")
    assert (live.node / "one").read_bytes() == b"version 1"
    assert (live.node / "mine").read_bytes() == b"mine"
    assert (live.node / "etc/other").read_bytes() == b"changed here"
    kept = os.open("one", os.O_RDONLY, dir_fd=descriptor)
    assert os.fstat(kept).st_ino == inode
    assert os.read(kept, 20) == b"version 0"
    os.close(kept)
    os.close(descriptor)
    (live.place / "store").rename(live.place / "unreachable")
    back = live.run("rollback", live.node)
    assert "put back" in back.lines[0]
    assert trees.differences(old, trees.facts(live.node)) == []
    live.run("rollback", live.node)
    assert (live.node / "one").read_bytes() == b"version 1"
    (live.place / "unreachable").rename(live.place / "store")
    live.pull("--atomic")
    verified = live.run("verify", live.node, code=1)
    assert verified.changes == ["M\tetc/other", "?\tmine"]


def test_in_place_it_goes_back_by_the_version(live: Live) -> None:
    edit(live, 1)
    live.pull()
    live.run("rollback", live.node)
    assert (live.node / "one").read_bytes() == b"version 0"
    live.run("rollback", live.node)
    assert (live.node / "one").read_bytes() == b"version 1"
    edit(live, 2)
    live.pull("--atomic")
    edit(live, 3)
    live.pull()
    # The tree beside is older than the version before: that one comes from the remote.
    live.run("rollback", live.node)
    assert (live.node / "one").read_bytes() == b"version 2"
    live.pull()
    assert (live.node / "one").read_bytes() == b"version 3"


def test_nothing_to_go_back_to(live: Live) -> None:
    assert "no version before" in live.run("rollback", live.node, code=3).err


def test_whoever_looks_sees_one_version(live: Live) -> None:
    """Through a directory that is opened once, both files are of one version."""
    stop = threading.Event()
    mixed: list[object] = []
    looks = [0]

    def look() -> None:
        while not stop.is_set():
            try:
                top = os.open(live.node, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                mixed.append("missing")
                return
            try:
                found = []
                for name in ("one", "two"):
                    file = os.open(name, os.O_RDONLY, dir_fd=top)
                    found.append(os.read(file, 20))
                    os.close(file)
                if len(set(found)) > 1:
                    mixed.append(found)
            except FileNotFoundError:
                pass  # the tree before the last is being removed
            finally:
                os.close(top)
            looks[0] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(1, 9):
            edit(live, number)
            live.pull("--atomic")
    finally:
        stop.set()
        thread.join()
    assert mixed == []
    assert looks[0] > 8


PULLER = """
from chunkstore.objects.names import parse_layers
from chunkstore.pull import PullOptions, Trust, pull
from chunkstore.storage.backends.local import LocalBackend
import lz4.block, zstandard

def work(store, node):
    options = PullOptions(atomic=True, trust=Trust.FIRST)
    pull(LocalBackend(store), parse_layers("web"), node, location=store, options=options)
"""


def test_killed_at_random_moments(live: Live) -> None:
    killed = 0
    with stores.Workers(PULLER) as workers:
        for number in range(1, 25):
            edit(live, number)
            wait = 0.004 * number
            killed += workers.run(live.store.root, live.node, kill_after=wait)
            found = {(live.node / name).read_bytes() for name in ("one", "two")}
            assert len(found) == 1
            assert found.pop() in (b"version %d" % number, b"version %d" % (number - 1))
            live.pull("--atomic")
            live.is_image()
    assert killed > 3
    beside = set(os.listdir(live.place / ".node.imgstore"))
    assert beside == {"previous"}


@trees.needs_root
def test_where_trees_can_not_be_exchanged(live: Live) -> None:
    edit(live, 1)
    (live.node / "inside").mkdir()
    trees.mount_tmpfs(live.node / "inside", "size=1m")
    before = trees.facts(live.node)
    refused = live.pull("--atomic", code=7)
    assert "is mounted inside" in refused.err
    assert trees.differences(before, trees.facts(live.node)) == []
    trees.unmount(live.node / "inside")
    live.pull("--atomic")
    assert (live.node / "one").read_bytes() == b"version 1"

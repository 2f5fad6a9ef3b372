"""A local user who exchanges directories and links while root updates the tree they lie in."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support import stores, trees
from support.live import Live

from chunkstore import fsio

SWAPS = 100_000
NAMES = [f"d{number}" for number in range(6)]


def fill(tree: Path, version: int) -> None:
    for name in NAMES:
        (tree / name / "inner").mkdir(parents=True, exist_ok=True)
        for number in range(4):
            path = tree / name / "inner" / f"{number}"
            path.unlink(missing_ok=True)
            path.write_bytes(b"%d %d" % (version, number) * 50)
            path.chmod(0o640 + version)
        (tree / name / f"only {version}").write_bytes(b"only")
        (tree / name / f"only {1 - version}").unlink(missing_ok=True)
        (tree / name / "mode").write_bytes(b"the same")
        (tree / name / "mode").chmod(0o600 + version * 0o44)


def swap(node: Path, aside: Path, counter: Path) -> None:
    """Exchange directories of the tree with links that lead out of it, until killed."""
    top, beside = os.open(node, os.O_RDONLY), os.open(aside, os.O_RDONLY)
    descriptor = os.open(counter, os.O_WRONLY)
    done = 0
    while True:
        for name in NAMES:
            try:
                fsio.exchange(top, name.encode(), beside, name.encode())
                done += 1
            except OSError:
                pass
        os.pwrite(descriptor, b"%d" % done, 0)


def test_nothing_gets_out_through_a_hundred_thousand_swaps(quick: Path) -> None:
    live = Live(quick)
    specs = []
    for version in (0, 1):
        fill(live.tree, version)
        specs.append(f"{live.store.root}/web:{live.commit()[:16]}")
    canary = quick / "canary"
    (canary / "inner").mkdir(parents=True)
    for name in ("mode", "only 0", "only 1", "inner/0", "inner/1", "inner/new"):
        (canary / name).write_bytes(b"not the image's")
        (canary / name).chmod(0o4711)
    live.run("pull", specs[0], live.node)
    stores.settle()
    (quick / "aside").mkdir()
    for name in NAMES:
        os.symlink(canary, quick / "aside" / name)
    before = trees.facts(canary)
    counter = quick / "counter"
    counter.write_bytes(b"0")
    pid = os.fork()
    if not pid:
        try:
            swap(live.node, quick / "aside", counter)
        finally:
            os._exit(0)
    ended = []
    try:
        number = 0
        while number < 40 or (int(counter.read_bytes() or b"0") < SWAPS and number < 2000):
            number += 1
            pulled = live.run("pull", specs[number % 2], live.node, code=None)
            ended.append(pulled.code)
            assert pulled.code in (0, 3, 4, 7), pulled
            assert "fault in imgstore" not in pulled.err
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert int(counter.read_bytes()) >= SWAPS
    assert trees.differences(before, trees.facts(canary)) == []
    assert len(ended) >= 40

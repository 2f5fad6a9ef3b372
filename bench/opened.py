#!/usr/bin/env python3
"""How many files an update opens on a node, beside rsync: counted by strace, not timed.

    bench/opened.py BEFORE AFTER [--work DIR]

A node is installed from BEFORE and updated to AFTER, once by `imgstore pull` over HTTP and once by
an rsync client from a daemon. What counts is every successful open of something in the node's
tree: of the files that are there, and of new ones that are made.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peers import Imgstore, rsync
from servers import imgstore_server, rsync_daemon

IMGSTORE = [str(Path(sys.executable).with_name("imgstore"))]
_OPEN = re.compile(r"(?:\d+ +)?open(?:at2?)?\(.*\) = (\d+)<(.*)>$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/imgstore-opened"))
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    try:
        print(f"{'':10} {'opened to read':>16} {'made':>8} {'directories':>12}")
        for name, counts in (
            ("imgstore", _imgstore(options.work, options.before, options.after)),
            ("rsync", _rsync(options.work, options.before, options.after)),
        ):
            print(f"{name:10} {counts[0]:16,} {counts[1]:8,} {counts[2]:12,}")
    finally:
        shutil.rmtree(options.work, ignore_errors=True)


def _imgstore(work: Path, before: Path, after: Path) -> tuple[int, int, int]:
    store, node = work / "store", work / "node"
    own = Imgstore(IMGSTORE)
    subprocess.run(own.first(store, before).arguments, check=True, stdout=subprocess.DEVNULL)
    with imgstore_server(IMGSTORE, store) as server:
        pull = own.pull(f"http://127.0.0.1:{server.port}/web", node).arguments
        subprocess.run(pull, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(own.again(store, after).arguments, check=True, stdout=subprocess.DEVNULL)
        return _count(work, node, pull)


def _rsync(work: Path, before: Path, after: Path) -> tuple[int, int, int]:
    node = work / "rsynced"
    subprocess.run(["cp", "-a", str(before), str(node)], check=True)
    with rsync_daemon(work, {"after": after}) as server:
        source = f"rsync://127.0.0.1:{server.port}/after/"
        return _count(work, node, rsync(source, node, "--delete").arguments)


def _count(work: Path, node: Path, command: Sequence[str]) -> tuple[int, int, int]:
    """Files opened to be read, files made, and directories opened, below `node`."""
    log = work / "strace.log"
    trace = ["strace", "-f", "-y", "-qq", "-e", "trace=open,openat,openat2", "-o", str(log)]
    subprocess.run([*trace, *command], check=True, stdout=subprocess.DEVNULL)
    read = made = folders = 0
    state = f"{node}/.imgstore/"
    with open(log, errors="replace") as file:
        for line in file:
            found = _OPEN.match(line.rstrip())
            if found is None or not found[2].startswith(f"{node}/"):
                continue
            place = found[2]
            if place.startswith(state) and not place.startswith(f"{state}new/"):
                continue
            if "O_DIRECTORY" in line:
                folders += 1
            elif "O_CREAT" in line:
                made += 1
            else:
                read += 1
    return read, made, folders


if __name__ == "__main__":
    main()

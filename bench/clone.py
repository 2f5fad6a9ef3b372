"""What a second tree beside the first costs: `clone_tree` beside cp, in seconds and in space.

    sudo .venv/bin/python bench/clone.py TREE [--work DIR] [--runs N] [--disk KIND]...

TREE is copied to each disk, then cloned there by each contender in turn, N rounds. `plain` is the
file system of the work directory, `ext4` and `xfs` are made for it in a file there. Seconds are
until the command ends, then those of the `sync` after it; space is what `df` says more is taken
after that. "both" says that writing into a file of the clone, in place, changed the first tree too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Command, measure, run

GIB = 1 << 30
CONTENDERS = {
    "clone_tree": [sys.executable, __file__, "--clone"],
    "cp -a --reflink=auto": ["cp", "-a", "--reflink=auto"],
    "cp -a --reflink=never": ["cp", "-a", "--reflink=never"],
    "cp -al (hardlinks)": ["cp", "-al"],
}


def clone(source: str, target: str) -> None:
    from chunkstore.fsio import Directory
    from chunkstore.worktree.clone import clone_tree

    os.mkdir(target, 0o700)
    with Directory(source) as old, Directory(target) as new:
        report = clone_tree(old, new)
    print(report)


@contextmanager
def disk(work: Path, kind: str) -> Iterator[Path]:
    if kind == "plain":
        yield work
        return
    image, point = work / "image", work / "mounted"
    with open(image, "wb") as file:
        file.truncate(8 * GIB)
    run(Command([f"mkfs.{kind}", "-q", str(image)]))
    point.mkdir()
    run(Command(["mount", "-o", "loop", str(image), str(point)]))
    try:
        yield point
    finally:
        run(Command(["umount", str(point)]))
        point.rmdir()
        image.unlink()


def taken(place: Path) -> int:
    """The bytes that are taken on a file system."""
    room = os.statvfs(place)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def writing_changes_both(old: Path, new: Path) -> bool:
    """Write into the first file of a tree in place, and look whether the other tree saw it."""
    for folder, _, names in os.walk(new):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file() and path.stat().st_size > 4096:
                first = old / path.relative_to(new)
                before = first.read_bytes()
                with open(path, "r+b") as file:
                    file.write(bytes([before[0] ^ 1]))
                changed = first.read_bytes() != before
                with open(path, "r+b") as file:
                    file.write(before[:1])
                return changed
    raise SystemExit("the tree has no file to write into")


def rounds(place: Path, tree: Path, runs: int) -> None:
    old, new = place / "old", place / "new"
    run(Command(["cp", "-a", str(tree), str(old)]))
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    cpu: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    syncs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    space: dict[str, int] = {}
    both: dict[str, bool] = {}
    for _ in range(runs):
        for name, command in CONTENDERS.items():
            os.sync()
            before = taken(place)
            done = measure(Command([*command, str(old), str(new)]))
            begun = time.perf_counter()
            os.sync()
            syncs[name].append(time.perf_counter() - begun)
            seconds[name].append(done.wall)
            cpu[name].append(done.cpu)
            space[name] = taken(place) - before
            both[name] = writing_changes_both(old, new)
            run(Command(["rm", "-rf", str(new)]))
    run(Command(["rm", "-rf", str(old)]))
    base = statistics.median(seconds["cp -a --reflink=auto"])
    print(f"{'':24}{'s':>8}{'ratio':>7}{'CPU s':>8}{'sync s':>8}{'MB taken':>10}  in place")
    for name in CONTENDERS:
        wall = statistics.median(seconds[name])
        print(
            f"{name:24}{wall:8.2f}{wall / base:7.2f}{statistics.median(cpu[name]):8.2f}"
            f"{statistics.median(syncs[name]):8.2f}{space[name] / 1e6:10.1f}"
            f"  {'both' if both[name] else 'one'}"
        )


def main() -> None:
    if sys.argv[1:2] == ["--clone"]:
        clone(sys.argv[2], sys.argv[3])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("tree", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--disk", action="append", choices=["plain", "ext4", "xfs"])
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("needs root: owners, devices, mounts")
    work = Path(tempfile.mkdtemp(prefix="imgstore-clone-", dir=options.work))
    try:
        for kind in options.disk or ["plain", "ext4", "xfs"]:
            with disk(work, kind) as place:
                print(f"\n{kind}, {options.runs} rounds, load {os.getloadavg()[0]:.1f}")
                rounds(place, options.tree, options.runs)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()

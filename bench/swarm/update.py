"""The update that a crowd pulls: two versions of an image, and what else needs them.

Either of two real trees, an image before and after a dist-upgrade, from which every so many-th
changed file is taken until the packs of the update are as large as asked for; or of made-up files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
IMGSTORE = (sys.executable, "-m", "imgstore")

_TRIES = 4
_NEAR = 0.05


@dataclass(frozen=True)
class Update:
    """`store` holds both versions of `web`; `before` and `after` are their trees.

    `size` is what a node has to fetch, as packs and delta packs have it.
    """

    store: Path
    before: Path
    after: Path
    size: int


def make(place: Path, size: int, trees: tuple[Path, Path] | None) -> Update:
    """Make it at `place`, with an update of about `size` bytes."""
    weight = float(size)
    for _ in range(_TRIES):
        made = _make(place, weight, trees)
        if trees is None or abs(made.size / size - 1) < _NEAR:
            break
        # How much of it is new, and how far that compresses, shows only then.
        weight *= size / made.size
        shutil.rmtree(place)
    else:
        made = _make(place, weight, trees)
    return made


def _make(place: Path, size: float, trees: tuple[Path, Path] | None) -> Update:
    before, after = place / "before", place / "after"
    before.mkdir(parents=True)
    after.mkdir()
    if trees is None:
        _made_up(before, after, int(size))
    else:
        _chosen(before, after, size, trees)
    store = place / "store"
    for tree in (before, after):
        subprocess.run(
            [*IMGSTORE, "--store", str(store), "-q", "commit", "web", str(tree)], check=True
        )
    return Update(store, before, after, _moving(store, place / "node"))


def _moving(store: Path, node: Path) -> int:
    """The stored bytes that an update of a node takes."""
    first = [*IMGSTORE, "-q", "pull", "--trust-first", f"{store}/web:base", str(node)]
    subprocess.run(first, check=True)
    dry = [*IMGSTORE, "--json", "pull", "--dry-run", "--trust-first", f"{store}/web", str(node)]
    told = subprocess.run(dry, check=True, capture_output=True)
    shutil.rmtree(node)
    size: int = json.loads(told.stdout)["moving_bytes"]
    return size


def _made_up(before: Path, after: Path, size: int) -> None:
    chance = random.Random(size)
    for number in range(max(size // 200_000, 1)):
        for day, tree in enumerate((before, after), 20_000):
            path = tree / f"f{number}"
            path.write_bytes(chance.randbytes(min(200_000, size)))
            os.utime(path, (day * 86_400, day * 86_400))


def _chosen(before: Path, after: Path, size: float, trees: tuple[Path, Path]) -> None:
    changed = list(_changed(*trees))
    weight = sum(status.st_size for _, status in changed)
    # Packages compress to about a third.
    step = max(weight / (3 * size), 1.0)
    place = 0.0
    for number, (path, _) in enumerate(changed):
        if number < place:
            continue
        place += step
        for source, target in zip(trees, (before, after), strict=True):
            if (source / path).is_file() and not (source / path).is_symlink():
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / path, target / path)


def _changed(before: Path, after: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, names, files in os.walk(after):
        names.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                continue
            status, old = path.lstat(), before / path.relative_to(after)
            if not old.is_file() or old.lstat().st_mtime_ns != status.st_mtime_ns:
                yield path.relative_to(after), status

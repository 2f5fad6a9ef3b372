"""A store that versions come to, and what a collection must leave of them."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from chunkstore import gc, tags
from chunkstore.checkout import checkout
from chunkstore.commit import CommitReport
from chunkstore.gc import GcReport
from chunkstore.objects.documents import Version
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store
from support.stores import listing, make_store, record
from support.trees import Facts, facts

RANDOM = random.Random(11)

DAY = 24 * 3600 * 10**9

Snapshot = dict[bytes, Facts]


def noise(size: int) -> bytes:
    return RANDOM.randbytes(size)


def collect(store: Store, *, later: int = 0, **options: Any) -> GcReport:
    return gc.collect(store, now=time.time_ns() + later, **options)


def collect_elsewhere(root: str, **options: Any) -> GcReport:
    """As another process would."""
    with Store(root) as store:
        return collect(store, **options)


def read_back(store: Store, version: Version) -> Snapshot:
    place = Path(tempfile.mkdtemp(dir=Path(store.root).parent))
    try:
        checkout(store, version, str(place))
        return facts(place)
    finally:
        shutil.rmtree(place)


def assert_whole(store: Store) -> None:
    with Store(store.root) as other:
        assert verify_store(other).problems == ()


def pack_names(store: Store) -> set[str]:
    return {name for name in listing(store) if name.endswith(".pack")}


class Farm:
    """A store, a tree, and what the tree was like at each commit."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = make_store(place / "store")
        self.tree = place / "tree"
        self.tree.mkdir()
        self.history: list[tuple[CommitReport, Snapshot]] = []

    def write(self, name: str, size: int = 20_000) -> None:
        (self.tree / name).write_bytes(noise(size))

    def commit(self, image: str = "web", **options: object) -> CommitReport:
        report = record(self.store, self.tree, image, **options)
        self.history.append((report, facts(self.tree)))
        return report

    def line(self, count: int) -> None:
        """Versions that share one file and each replace another."""
        self.write("shared", 100_000)
        for _ in range(count):
            self.write("changing", 60_000)
            self.commit()
        tags.untag(self.store, "web", "base", now=1)

    def assert_kept(self, *numbers: int) -> None:
        with Store(self.store.root) as store:
            for number in numbers:
                report, then = self.history[number]
                assert read_back(store, report.version.version) == then

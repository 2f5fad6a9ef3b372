"""gc: among any sequence of commits, tags and removals, against a model."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from support.farm import Snapshot, collect, read_back
from support.stores import listing, make_store, record
from support.trees import facts

from chunkstore import tags
from chunkstore.errors import NotFound, Usage
from chunkstore.gc import collection
from chunkstore.objects.documents import Version
from chunkstore.objects.names import parse_spec
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store


class Sequences(RuleBasedStateMachine):
    """Commits, tags, removals and collections against a model of what must be there."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.place = Path(tempfile.mkdtemp(prefix="imgstore-test-", dir=memory))
        self.store = make_store(self.place / "store")
        self.trees = [self.place / f"tree{number}" for number in range(3)]
        for number, tree in enumerate(self.trees):
            tree.mkdir()
            (tree / "common").write_bytes(bytes([7]) * 3000 + b"common" * 500)
            (tree / "own").write_bytes(random.Random(number).randbytes(6000))
        self.versions: dict[bytes, tuple[Version, Snapshot]] = {}
        self.dropped: set[bytes] = set()
        self.number = 0
        self.many, collection.MANY = collection.MANY, 3

    def teardown(self) -> None:
        collection.MANY = self.many
        self.collect(None, 0)
        self.store.close()
        shutil.rmtree(self.place)

    images = st.sampled_from(["web", "db"])
    names = st.sampled_from(["golden", "old"])

    @rule(
        tree=st.integers(0, 2),
        file=st.integers(0, 3),
        seed=st.integers(0, 5),
        size=st.sampled_from([0, 10, 3000, 20_000]),
    )
    def write(self, tree: int, file: int, seed: int, size: int) -> None:
        """Few contents, so that the same comes back after it was dropped."""
        content = random.Random(seed).randbytes(size)
        (self.trees[tree] / f"file{file}").write_bytes(content)

    @rule(tree=st.integers(0, 2), file=st.integers(0, 3))
    def unlink(self, tree: int, file: int) -> None:
        with suppress(FileNotFoundError):
            (self.trees[tree] / f"file{file}").unlink()

    @rule(image=images, tree=st.integers(0, 2), fresh=st.booleans())
    def commit(self, image: str, tree: int, fresh: bool) -> None:
        if fresh:
            self.store.close()
            self.store = Store(self.store.root)
        report = record(self.store, self.trees[tree], image)
        found = report.version
        self.versions.setdefault(found.id, (found.version, facts(self.trees[tree])))
        # One that was dropped and recorded anew is there anew.
        self.dropped.discard(found.id)

    @precondition(lambda self: self.versions)
    @rule(image=images, back=st.integers(0, 3), name=names)
    def tag(self, image: str, back: int, name: str) -> None:
        with suppress(NotFound):
            tags.tag(self.store, parse_spec(f"{image}~{back}"), name, now=time.time_ns())

    @precondition(lambda self: self.versions)
    @rule(image=images, name=st.sampled_from(["golden", "old", "base"]))
    def untag(self, image: str, name: str) -> None:
        with suppress(NotFound):
            tags.untag(self.store, image, name, now=time.time_ns())

    @precondition(lambda self: self.versions)
    @rule(image=images)
    def remove(self, image: str) -> None:
        with suppress(NotFound, Usage):
            tags.remove(self.store, parse_spec(image), now=time.time_ns())

    @precondition(lambda self: self.versions)
    @rule(image=images)
    def remove_image(self, image: str) -> None:
        with suppress(NotFound):
            tags.remove_image(self.store, image)

    @precondition(lambda self: self.versions)
    @rule(keep=st.sampled_from([None, None, 1, 2, 3]), grace=st.sampled_from([0, 0, 3600]))
    def collect(self, keep: int | None, grace: float) -> None:
        kept = self.kept(keep)
        report = collect(self.store, keep=keep, grace=grace)
        self.dropped |= self.versions.keys() - kept
        assert report.versions_kept == len(kept)
        self.check(kept)
        if not grace:
            names = {layout.version(version_id) for version_id in kept}
            assert names == {name for name in listing(self.store) if name.startswith("versions/")}
            assert self.store.doomed() == {}

    def kept(self, keep: int | None) -> set[bytes]:
        """By the refs and the model's own history."""
        found = set()
        for image in self.store.images():
            for tag in self.store.ref(image).tags:
                limit = 10**6 if keep is None else keep if tag.name == "latest" else 1
                found |= set(self.line(tag.version)[:limit])
        return found

    def line(self, version_id: bytes) -> list[bytes]:
        found = [version_id]
        while (parent := self.versions[found[-1]][0].parent) and parent not in self.dropped:
            found.append(parent)
        return found

    def check(self, kept: set[bytes]) -> None:
        assert verify_store(self.store).problems == ()
        for version_id in kept:
            version, then = self.versions[version_id]
            assert read_back(self.store, version) == then


TestSequences = Sequences.TestCase

TestSequences.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

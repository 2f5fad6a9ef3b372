"""Commit: killed at random moments, or interrupted from the keyboard."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import record

from chunkstore.commit import commit
from chunkstore.objects.names import parse_spec
from chunkstore.storage.store import Store

COMMITTER = """
import time
from chunkstore.commit import commit
from chunkstore.objects import codec, pack
from chunkstore.objects.chunker import _library
from chunkstore.storage.store import Store
_library()
pack.TARGET_BYTES = 200_000

def work(store, tree):
    commit(Store(store), "web", tree, now=time.time_ns())
"""


def killed_commits(place: Path, rounds: int, seed: int) -> Iterator[bool]:
    """Kill commits at random moments; after each, the store must be whole and go on."""
    chance = random.Random(seed)
    tree = place / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(trees.pseudo_random("file", 700_000))
    store = stores.make_store(place / "store")
    with stores.Workers(COMMITTER) as workers:
        began = time.monotonic()
        workers.run(store.root, tree)
        whole = time.monotonic() - began
        for number in range(rounds):
            before = trees.facts(tree)
            old = store.resolve(parse_spec("web")).id
            (tree / f"file {number % 5}").write_bytes(trees.pseudo_random(number, 700_000))
            (tree / "folder/file").write_bytes(b"content %d" % number)
            after = trees.facts(tree)
            seconds = chance.uniform(0, whole)
            was_killed = workers.run(store.root, tree, kill_after=seconds)
            # Find out how long it takes here, today, to spread the shots over all of it.
            whole *= 1.15 if was_killed else 0.75
            fresh = Store(store.root)
            found = fresh.resolve(parse_spec("web")).id
            out = place / "out"
            stores.restore(fresh, "web", out)
            expected = before if found == old else after
            assert trees.differences(expected, trees.facts(out)) == []
            assert was_killed or found != old, "a commit that returned has recorded"
            trees.remove_tree(out)
            check_objects(fresh)
            report = record(fresh, tree)
            assert report.is_new == (found == old)
            stores.restore(fresh, "web", out)
            assert trees.differences(after, trees.facts(out)) == []
            trees.remove_tree(out)
            assert os.listdir(os.path.join(store.local, "spool")) == []
            fresh._drop("catalog", "_spare")
            fresh.backend.close()
            yield was_killed


def check_objects(store: Store) -> None:
    """No object is torn."""
    import blake3

    for pack_id in store.packs():
        data = Path(store.root, "packs", f"{pack_id.hex()}.pack").read_bytes()
        context = "imgstore 2026-11 pack"
        assert blake3.blake3(data, derive_key_context=context).digest() == pack_id
        store.own_index(pack_id)
    for name in store.backend.list("versions/"):
        store.version(bytes.fromhex(name.partition("/")[2]))


def test_killed_at_random_moments(quick: Path) -> None:
    killed = sum(killed_commits(quick, 20, seed=1))
    assert killed > 5, "most were killed at work"


@pytest.mark.campaign
def test_killed_at_random_moments_on_disk_for_long(place: Path) -> None:
    assert sum(killed_commits(place, 300, seed=2)) > 50


def test_interrupted_from_the_keyboard(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    (tree / "large").write_bytes(trees.pseudo_random("large", 30_000_000))

    class Impatient:
        def expect(self, *, files: int = 0, size: int = 0) -> None: ...

        def advance(self, *, files: int = 0, size: int = 0) -> None:
            if files and size:
                os.kill(os.getpid(), signal.SIGINT)

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        commit(store, "web", str(tree), now=time.time_ns(), progress=Impatient())
    assert threading.active_count() == threads
    assert store.images() == []
    assert os.listdir(os.path.join(store.local, "spool")) == []
    assert record(store, tree).is_new

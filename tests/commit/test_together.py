"""Commit: two at once, and readers beside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import record, settle

from chunkstore.errors import Conflict
from chunkstore.storage import lock
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.store import Store

HOLDER = """
import sys
from chunkstore.storage.store import Store
with Store(sys.argv[1]).locked("imgstore commit other"):
    print("ready", flush=True)
    sys.stdin.readline()
"""
"""Holds the store's lock until it is sent a line, or stdin ends."""


def test_a_second_writer_waits_and_says_for_whom(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    holder = stores.python(HOLDER, store.root, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    told: list[str] = []

    def waiting(whom: str) -> None:
        told.append(whom)
        assert holder.stdin is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()

    report = record(Store(store.root, waiting=waiting), tree)
    assert report.is_new
    assert len(told) == 1
    assert f"process {holder.pid} (imgstore commit other" in told[0]
    holder.communicate()


def test_a_second_writer_gives_up_in_the_end(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.make_store(place / "store")
    holder = stores.python(HOLDER, store.root, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    monkeypatch.setattr("chunkstore.storage.store.PATIENCE", 0.2)
    with pytest.raises(Conflict, match=f"process {holder.pid} .imgstore commit other"):
        record(store, tree)
    holder.kill()
    holder.communicate()
    assert record(store, tree).is_new, "the kernel lets go of a killed holder's lock"


def test_commits_side_by_side_all_come_through(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    script = """
import sys, time
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
for number in range(4):
    name = f"{sys.argv[3]} {number}"
    Path(sys.argv[2], name).write_bytes(name.encode() * 500)
    stores.record(Store(sys.argv[1]), Path(sys.argv[2]), sys.argv[4])
"""
    running = [
        stores.python(script, store.root, tree, writer, f"image{writer % 2}") for writer in range(3)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    for image in ("image0", "image1"):
        settle()
        record(store, tree, image)
        stores.restore(Store(store.root), image, place / image)
        trees.assert_same(tree, place / image)


def test_readers_need_no_lock(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    with lock.exclusive(os.path.join(store.local, "lock"), "something else", wait=0):
        other = Store(store.root)
        assert other.images() == ["web"]
        stores.restore(other, "web", place / "out")
        trees.assert_same(tree, place / "out")
        stores.bring(LocalBackend(store.root), "web", place / "node")

"""Commit: each object is on disk before what names it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
from support import stores, trees
from support.stores import record, settle

from chunkstore.storage.backends.local import LocalBackend


class Recording(LocalBackend):
    """A backend that notes what it is asked to write."""

    log: ClassVar[list[str]] = []

    def put(self, name: str, data: bytes) -> None:
        super().put(name, data)
        self.log.append(name)

    def put_file(self, name: str, path: str) -> None:
        super().put_file(name, path)
        self.log.append(name)


def kind(name: str) -> str:
    folder, _, last = name.partition("/")
    return last.rpartition(".")[2] if folder == "packs" else folder


def test_each_object_is_written_before_what_names_it(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkstore.objects.pack.TARGET_BYTES", 100_000)
    monkeypatch.setattr("chunkstore.storage.store.LocalBackend", Recording)
    Recording.log = []
    (tree / "large").write_bytes(trees.pseudo_random("large", 400_000))
    # Small frames, so that there is more than one pack.
    monkeypatch.setattr("chunkstore.objects.codec.MAX_FRAME", 50_000)
    store = stores.make_store(place / "store")
    Recording.log.clear()  # the first root document
    record(store, tree)
    kinds = [kind(name) for name in Recording.log]
    packs = kinds.count("pack")
    assert packs > 2
    assert kinds == ["pack", "idx", "torrent"] * packs + ["versions", "locate", "images"]
    settle()
    Recording.log.clear()
    (tree / "large").write_bytes(b"other")
    record(store, tree)
    assert [kind(name) for name in Recording.log] == [
        *("pack", "idx", "torrent"),
        *("versions", "locate", "images"),
    ]


@trees.needs("strace")
def test_each_object_is_on_disk_before_what_names_it(place: Path, tree: Path) -> None:
    """From outside: every rename into the store follows an fsync of that file and is followed by
    one of its directory before the next object appears."""
    store = stores.make_store(place / "store")
    script = """
import sys
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
assert stores.record(Store(sys.argv[1]), Path(sys.argv[2])).is_new
"""
    trace = place / "trace"
    calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2"
    search = os.pathsep.join([str(stores.PROJECT), str(stores.PROJECT / "tests")])
    import sys

    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-y", "-e", calls, "-o", str(trace)),
            *(sys.executable, "-c", script, store.root, str(tree)),
        ],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    events = []
    for line in trace.read_text().splitlines():
        call = line.split(None, 1)[1]
        if call.startswith("fsync("):
            events.append(("sync", call.partition("<")[2].partition(">")[0]))
        elif call.startswith("rename"):
            source, target = (part for part in call.split('"')[1::2])
            events.append(("rename", source, target))
    names = []
    for number, event in enumerate(events):
        if event[0] != "rename" or "/local/" in event[2]:
            continue
        _, source, target = event
        names.append(kind(os.path.relpath(target, store.root)))
        assert ("sync", source) in events[:number], f"{target} was renamed before it was durable"
        after = events[number + 1]
        assert after == ("sync", os.path.dirname(target)), f"{target} is not durable: {after}"
    assert names == ["pack", "idx", "torrent", "versions", "locate", "images"]

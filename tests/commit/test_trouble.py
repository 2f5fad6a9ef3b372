"""Commit: lost catalogs, full disks, stores that are read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import record, settle

from chunkstore.errors import LocalError
from chunkstore.storage.store import Store


def test_a_lost_or_damaged_catalog_loses_nothing(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    catalog = place / "store/local/catalog.sqlite"
    store._drop("catalog")
    good = catalog.read_bytes()
    damages = [None, b"", b"no database", good[: len(good) // 2]]
    damages += [good[:100] + bytes(len(good) - 100)]
    damages += [
        good[:start] + b"\xff" * 512 + good[start + 512 :] for start in range(0, len(good), 2048)
    ]
    for number, damage in enumerate(damages):
        for suffix in ("-wal", "-shm", ""):
            Path(f"{catalog}{suffix}").unlink(missing_ok=True)
        if damage is not None:
            catalog.write_bytes(damage)
        fresh = Store(store.root)
        stores.restore(fresh, "web", place / f"out {number}")
        assert trees.differences(trees.facts(tree), trees.facts(place / f"out {number}")) == []
        (tree / "top").write_bytes(b"edit %d" % number)
        # A store object that has not read anything yet, as in a new process.
        if damage is not None:
            fresh._drop("catalog")
            for suffix in ("-wal", "-shm"):
                Path(f"{catalog}{suffix}").unlink(missing_ok=True)
            catalog.write_bytes(damage)
        writer = Store(store.root)
        report = record(writer, tree)
        assert report.is_new
        stores.restore(Store(store.root), "web", place / f"new {number}")
        assert trees.differences(trees.facts(tree), trees.facts(place / f"new {number}")) == []
        for each in (fresh, writer):
            each._drop("catalog")
            each.backend.close()


@trees.needs_root
@pytest.mark.parametrize("size", ["400k", "700k", "1m", "1500k", "2m", "2500k"])
def test_a_full_disk_leaves_the_old_version(place: Path, size: str) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "first").write_bytes(b"first")
    trees.mount_tmpfs(place / "mount", "size=16m")
    store = stores.make_store(place / "mount/store")
    record(store, tree)
    store._drop("catalog")
    settle()
    shutil.copytree(tree, place / "before", copy_function=shutil.copy2)
    os.utime(place / "before", ns=(tree.stat().st_atime_ns, tree.stat().st_mtime_ns))
    (tree / "second").write_bytes(trees.pseudo_random("second", 2_000_000))
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place / "mount")], check=True)
    full = Store(store.root)
    said = ""
    try:
        assert record(full, tree).is_new
    except LocalError as error:
        said = str(error)
    assert said == "" or "o space left" in said or "full" in said
    is_recorded = not said
    full._drop("catalog")
    reader = Store(store.root)
    stores.restore(reader, "web", place / "out")
    trees.assert_same(tree if is_recorded else place / "before", place / "out")
    reader._drop("catalog")
    subprocess.run(["mount", "-o", "remount,size=32m", str(place / "mount")], check=True)
    roomy = Store(store.root)
    assert record(roomy, tree).is_new is not is_recorded
    stores.restore(roomy, "web", place / "again")
    trees.assert_same(tree, place / "again")
    for each in (store, full, reader, roomy):
        each._drop("catalog", "_spare")
        each.backend.close()


@trees.needs_root
def test_a_read_only_store_says_so(place: Path, tree: Path) -> None:
    trees.mount_tmpfs(place / "mount", "size=16m")
    store = stores.make_store(place / "mount/store")
    record(store, tree)
    store._drop("catalog")
    store.backend.close()
    subprocess.run(["mount", "-o", "remount,ro", str(place / "mount")], check=True)
    (tree / "new").write_bytes(b"")
    reader = Store(store.root)
    with pytest.raises(LocalError, match=r"[Rr]ead-only file system"):
        record(reader, tree)
    stores.restore(reader, "web", place / "out")
    assert not (place / "out/new").exists()
    reader._drop("catalog")
    reader.backend.close()

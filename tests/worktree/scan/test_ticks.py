"""Timestamps that can't be told apart."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support import stores, trees
from support.mounted import mounted
from support.scanner import Scanner, everything
from support.stores import record, settle

from chunkstore.worktree import listing
from chunkstore.worktree import scan as scanning


def coarse(monkeypatch: pytest.MonkeyPatch, tick: int = 10_000_000) -> None:
    """Timestamps as from a kernel that stamps files with the time of the last clock tick."""
    real = os.stat

    class Coarse:
        def __init__(self, status: os.stat_result) -> None:
            self._status = status

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._status, name)
            return value - value % tick if name in ("st_mtime_ns", "st_ctime_ns") else value

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        @staticmethod
        def stat(*arguments: Any, **options: Any) -> Any:
            return Coarse(real(*arguments, **options))

    monkeypatch.setattr(listing, "os", Os())


def test_a_second_write_within_one_tick_is_seen(
    monkeypatch: pytest.MonkeyPatch, tree: Path, scanner: Scanner
) -> None:
    tick = 1_000_000_000_000  # every test happens within one
    coarse(monkeypatch, tick)
    monkeypatch.setattr(scanning, "_RACY_NS", tick + 40_000_000)
    (tree / "top").write_bytes(b"one")
    scanner()
    (tree / "top").write_bytes(b"two")
    assert scanner()[b"top"] == "found"
    assert scanner()[b"top"] == "found", "it may still change"


def test_files_made_in_one_tick_are_told_apart_when_their_directories_are_swapped(
    monkeypatch: pytest.MonkeyPatch, tree: Path, scanner: Scanner
) -> None:
    tick = 1_000_000_000_000
    coarse(monkeypatch, tick)
    (tree / "c/4").write_bytes(b"c/4")
    later = time.time_ns() + 10 * tick
    scanner(now=later)
    os.rename(tree / "b", tree / "x")
    os.rename(tree / "c", tree / "b")
    os.rename(tree / "x", tree / "c")
    found = scanner(now=later)
    assert found[b"b/4"] == found[b"c/4"] == "found"


@trees.needs_root
@trees.needs("mkfs.ext4")
def test_a_second_write_within_a_second_is_seen_where_only_seconds_are_kept(place: Path) -> None:
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", str(image)], check=True, capture_output=True)
    with mounted(place, "-o", "loop", str(image)) as tree:
        file = tree / "file"
        file.write_bytes(b"one")
        scanner = Scanner(tree, place / "cache")
        while True:
            time.sleep(1 - time.time() % 1)
            file.write_bytes(b"one")
            settle()
            scanner()
            file.write_bytes(b"two")
            status = file.stat()
            assert status.st_ctime_ns % 10**9 == 0, "it keeps whole seconds"
            if time.time_ns() < status.st_ctime_ns + 10**9 * 9 // 10:
                break
        assert scanner()[b"file"] == "found"


def test_racing_writes_are_seen_by_the_next_commit(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    contents = [b"%05d" % number for number in range(12)]
    for content in contents:
        (tree / "top").write_bytes(content)
        report = record(store, tree)
        root = report.version.version.root
        (entry,) = [item for item in stores.entries_of(store, root) if item.path == b"top"]
        with store.chunks() as chunks:
            assert chunks.get(entry.content[:32]) == content


def test_young_files_are_looked_at_again_and_then_no_more(tree: Path, scanner: Scanner) -> None:
    (tree / "a/1").write_bytes(b"young")
    assert b"a/1" in scanner()
    settle()
    assert scanner() == {b"a/1": "found"}
    assert scanner() == {}


def test_files_from_the_future_are_never_believed(tree: Path, scanner: Scanner) -> None:
    early = time.time_ns() - 3600 * 10**9
    scanner(now=early)
    assert scanner(now=early).keys() == everything(tree)

"""verify: whole stores have no problems, and no false alarm is raised beside work."""

from __future__ import annotations

import errno
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.stores import make_store, record
from support.trees import needs
from support.verifying import by_name, entry_of, labels, look, noise, objects, path_of, spoil, text

from chunkstore import gc
from chunkstore.errors import LocalError
from chunkstore.objects.pack import (
    CHUNK,
    parse_index,
)
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import store as verify_module
from chunkstore.verify import verify_store

# A whole store


def test_a_whole_store_has_no_problems(copy: Store) -> None:
    report = verify_store(copy)
    assert report.problems == ()
    assert report.notes == ()
    assert report.versions == 4
    names = [name for name in objects(copy) if name.endswith(".pack")]
    assert report.packs == len(names) >= 4
    assert report.size == sum(path_of(copy, name).stat().st_size for name in names)
    indexes = [name for name in objects(copy) if name.endswith(".idx")]
    sizes = [len(parse_index(path_of(copy, name).read_bytes(), name).chunks) for name in indexes]
    assert report.chunks == sum(sizes) // CHUNK.size > 150


def test_an_empty_store_has_no_problems(quick: Path) -> None:
    with make_store(quick / "store"):
        report = look(quick / "store")
    assert (report.packs, report.versions, report.problems, report.notes) == (0, 0, (), ())


def test_nothing_is_written(copy: Store) -> None:
    def look() -> dict[str, tuple[int, int]]:
        found = {}
        for path in Path(copy.root).rglob("*"):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns)
        return found

    before = look()
    verify_store(copy)
    assert look() == before


def test_a_copy_of_the_public_part_is_whole_too(copy: Store) -> None:
    shutil.rmtree(path_of(copy, layout.LOCAL))
    assert look(copy.root).problems == ()


@needs("b3sum")
def test_names_of_packs_are_what_b3sum_says(copy: Store) -> None:
    for pack_id in copy.packs():
        path = path_of(copy, layout.pack(pack_id))
        command = ["b3sum", "--no-names", "--derive-key", "imgstore 2026-11 pack", str(path)]
        assert subprocess.check_output(command, text=True).strip() == pack_id.hex()


def test_progress_adds_up(copy: Store) -> None:
    class Watch:
        expected = advanced = (0, 0)

        def expect(self, *, files: int = 0, size: int = 0) -> None:
            assert self.expected == (0, 0)
            self.expected = (files, size)

        def advance(self, *, files: int = 0, size: int = 0) -> None:
            self.advanced = (self.advanced[0] + files, self.advanced[1] + size)

    watch = Watch()
    report = verify_store(copy, progress=watch)
    assert watch.expected == watch.advanced == (report.packs, report.size)


# Trouble on the way


def test_a_bad_sector_is_damage(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, digests = entry_of(copy, "web", b"big")
    frame = copy.places([digests[50]])[digests[50]].frame
    pack_id, position = frame.pack, frame.offset
    real = copy.backend.get

    def get(name: str, start: int, stop: int) -> bytes:
        if name == layout.pack(pack_id) and start <= position < stop:
            raise LocalError(f"can't read {name}: Input/output error", errno=errno.EIO)
        return real(name, start, stop)

    monkeypatch.setattr(copy.backend, "get", get)
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    assert "Input/output error" in problem.what
    assert f"{labels(copy, 'web')[0]} big" in problem.affected


def test_what_this_machine_refuses_is_no_damage(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = copy.backend.get

    def get(name: str, start: int, stop: int) -> bytes:
        if name.startswith(layout.PACKS):
            raise LocalError("too many open files", errno=errno.EMFILE)
        return real(name, start, stop)

    monkeypatch.setattr(copy.backend, "get", get)
    with pytest.raises(LocalError):
        verify_store(copy)


def _keep_busy(root: str, tree: Path, stop: threading.Event, errors: list[Exception]) -> None:
    """Commit and collect without pause, deleting at once."""
    number = 0
    try:
        while not stop.is_set():
            (tree / f"file{number % 7}").write_bytes(noise(20_000) + text(20_000))
            with Store(root) as store:
                record(store, tree, "busy")
                number += 1
                if number % 3 == 0:
                    gc.collect(store, keep=2, grace=0, now=time.time_ns())
            time.sleep(0.05)
    except Exception as error:
        errors.append(error)


def test_no_false_alarm_beside_commits_and_gc(
    copy: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store that is never at rest may need more looks than one that rests between commits.
    monkeypatch.setattr(verify_module, "_ATTEMPTS", 50)
    tree = quick / "busy"
    tree.mkdir()
    stop = threading.Event()
    errors: list[Exception] = []
    worker = threading.Thread(target=_keep_busy, args=(copy.root, tree, stop, errors))
    worker.start()
    try:
        for _ in range(12):
            assert look(copy.root).problems == ()
    finally:
        stop.set()
        worker.join()
    assert errors == []


def test_damage_in_a_store_that_never_rests_is_reported(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, digests = entry_of(copy, "web", b"big")
    pack_id = spoil(copy, digests[0])
    real = verify_module.look_around
    looks: list[int] = []

    def look_around(store: Store) -> object:
        looks.append(1)
        return real(store)._replace(doomed={"packs/x": len(looks)})

    monkeypatch.setattr(verify_module, "look_around", look_around)
    assert layout.pack(pack_id) in by_name(verify_store(copy))
    assert len(looks) < 10


def test_a_pack_that_comes_later_is_no_false_alarm(
    copy: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that ends between the lists and the look at the versions."""
    tree = quick / "later"
    tree.mkdir()
    (tree / "file").write_bytes(noise(50_000))
    looks: list[int] = []
    real = verify_module.look_around

    def look_around(store: Store) -> object:
        found = real(store)
        if not looks:
            with Store(store.root) as other:
                record(other, tree, "db")
                gc.collect(other, keep=1, grace=0, now=time.time_ns())
        looks.append(1)
        return found

    monkeypatch.setattr(verify_module, "look_around", look_around)
    report = verify_store(copy)
    assert report.problems == ()
    assert len(looks) == 2

"""gc: what stays, what goes, and how packs are rewritten."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.farm import DAY, Farm, assert_whole, collect, pack_names
from support.stores import listing, make_store

from chunkstore import tags
from chunkstore.errors import Conflict, NotFound, Usage
from chunkstore.gc import GcReport, collection
from chunkstore.objects import chunklist, documents, manifest
from chunkstore.objects.names import parse_spec
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store

# What stays and what goes


def test_nothing_goes_while_tags_reach_it(farm: Farm) -> None:
    farm.line(4)
    before = listing(farm.store)
    report = collect(farm.store, grace=0)
    assert report == GcReport(
        versions_kept=4,
        versions_dropped=0,
        packs_kept=4,
        packs_doomed=0,
        packs_repacked=0,
        packs_written=0,
        packs_deleted=0,
        leftovers=0,
        freed=0,
        pending=0,
        written=0,
    )
    # Only hints may have been made more exact: no pack, version or ref was written.
    after = listing(farm.store)
    assert before.keys() == after.keys()
    assert {n: f for n, f in before.items() if "locate" not in n}.items() <= after.items()
    assert_whole(farm.store)


def test_an_empty_store_is_collected(quick: Path) -> None:
    with make_store(quick / "store") as store:
        assert collect(store).versions_kept == 0


def test_keep_drops_older_history_and_what_only_it_needs(farm: Farm) -> None:
    farm.line(5)
    size = sum(path.stat().st_size for path in Path(farm.store.root, "packs").iterdir())
    report = collect(farm.store, keep=2, grace=0)
    assert (report.versions_kept, report.versions_dropped) == (2, 3)
    assert len(list(farm.store.history(farm.history[-1][0].version.id))) == 2
    left = sum(path.stat().st_size for path in Path(farm.store.root, "packs").iterdir())
    # The packs of two versions, and not the first, in which the shared file lies.
    assert left < size - 120_000
    # `freed` also counts the versions' records and hints.
    assert 0 <= size + report.written - left - report.freed + 3000 < 3000
    farm.assert_kept(3, 4)
    for report_, _ in farm.history[:3]:
        with pytest.raises(NotFound):
            farm.store.version(report_.version.id)
    assert_whole(farm.store)


def test_keep_spares_what_is_tagged_without_its_history(farm: Farm) -> None:
    farm.line(5)
    tags.tag(farm.store, parse_spec("web~2"), "golden", now=2)
    assert collect(farm.store, keep=2, grace=0).versions_kept == 3
    farm.assert_kept(2, 3, 4)
    assert_whole(farm.store)


def test_without_keep_a_tag_keeps_its_history(farm: Farm) -> None:
    farm.line(3)
    tags.tag(farm.store, parse_spec("web~1"), "golden", now=2)
    tags.remove(farm.store, parse_spec("web"), now=3)
    assert collect(farm.store, grace=0).versions_kept == 2
    farm.assert_kept(0, 1)
    assert_whole(farm.store)


def test_a_removed_image_goes_and_the_others_stay(farm: Farm) -> None:
    farm.line(2)
    farm.write("other")
    farm.commit("db")
    tags.remove_image(farm.store, "web")
    report = collect(farm.store, grace=0)
    assert (report.versions_kept, report.versions_dropped) == (1, 2)
    farm.assert_kept(2)
    assert_whole(farm.store)


def test_dropped_history_stays_dropped_for_a_gc_that_keeps_all(farm: Farm) -> None:
    farm.line(4)
    collect(farm.store, keep=2)
    # The records are still there, for pulls under way; history ends before them all the same.
    assert len(list(farm.store.history(farm.history[-1][0].version.id))) == 2
    assert collect(farm.store).versions_kept == 2
    with pytest.raises(NotFound):
        farm.store.resolve(parse_spec("web~2"))
    assert collect(farm.store, later=2 * DAY).versions_kept == 2
    assert_whole(farm.store)


def test_a_negative_keep_is_refused(farm: Farm) -> None:
    with pytest.raises(Usage):
        collect(farm.store, keep=-1)


def test_keep_nothing_keeps_the_tagged(farm: Farm) -> None:
    farm.line(3)
    assert collect(farm.store, keep=0, grace=0).versions_kept == 1
    farm.assert_kept(2)


def test_a_dry_run_changes_nothing_and_says_the_same(farm: Farm) -> None:
    farm.line(5)
    before = listing(farm.store, local=False)
    said = collect(farm.store, keep=1, grace=0, dry_run=True)
    assert listing(farm.store, local=False) == before
    assert farm.store.doomed() == {}
    done = collect(farm.store, keep=1, grace=0)
    for name in ("versions_kept", "versions_dropped", "packs_doomed", "packs_repacked", "freed"):
        assert getattr(said, name) == getattr(done, name), name
    assert said.packs_deleted == done.packs_deleted > 0


# Packs


def test_a_pack_mostly_garbage_is_rewritten_and_shrinks(farm: Farm) -> None:
    for number in range(10):
        farm.write(f"file{number}", 50_000)
    farm.commit()
    for number in range(8):
        (farm.tree / f"file{number}").unlink()
    farm.commit()
    tags.untag(farm.store, "web", "base", now=1)
    report = collect(farm.store, keep=1, grace=0)
    assert report.packs_repacked == report.packs_written == 1
    assert report.written < 130_000
    assert report.freed > 350_000
    farm.assert_kept(1)
    assert_whole(farm.store)


def test_a_pack_mostly_needed_is_left_alone(farm: Farm) -> None:
    for number in range(10):
        farm.write(f"file{number}", 50_000)
    farm.commit()
    (farm.tree / "file3").unlink()
    farm.commit()
    tags.untag(farm.store, "web", "base", now=1)
    report = collect(farm.store, keep=1, grace=0)
    assert (report.packs_repacked, report.packs_kept) == (0, 2)


def test_many_small_packs_become_one(farm: Farm) -> None:
    farm.line(collection.MANY)
    report = collect(farm.store, grace=0)
    assert report.packs_repacked == collection.MANY
    assert (report.packs_written, report.packs_kept) == (1, 1)
    assert len(pack_names(farm.store)) == 1
    farm.assert_kept(*range(collection.MANY))
    assert_whole(farm.store)
    again = collect(farm.store, grace=0)
    assert (again.packs_repacked, again.packs_deleted) == (0, 0)


def test_chunks_of_one_commit_stay_together_in_tree_order(farm: Farm) -> None:
    """A node one version behind reads one run, and the first installation tree order."""
    farm.line(collection.MANY)
    collect(farm.store, grace=0)
    (pack_id,) = farm.store.packs()
    order = {d: at for at, (d, *_) in enumerate(farm.store.own_index(pack_id).places())}
    seen: set[bytes] = set()
    with farm.store.chunks() as chunks:
        content = []
        for report, _ in farm.history:
            root = report.version.version.root
            fresh = [
                digest
                for entry in manifest.walk(root, chunks.get)
                for digest, _ in chunklist.walk(entry, chunks.get)
                if digest not in seen
            ]
            seen |= set(fresh)
            content += fresh
    assert [order[digest] for digest in content] == list(range(len(content)))


def test_hints_name_exactly_the_packs_a_version_needs_newest_first(farm: Farm) -> None:
    farm.line(4)
    wanted = {}
    for report, _ in farm.history:
        # The same by way of each chunk.
        root = report.version.version.root
        with farm.store.chunks() as chunks:
            needed = {root.digest}
            for entry in manifest.walk(root, chunks.get):
                needed |= set(chunklist.nodes(entry, chunks.get))
                needed |= {digest for digest, _ in chunklist.walk(entry, chunks.get)}
        wanted[report.version.id] = set(farm.store.catalog.packs_of(needed).values())
    # A hint that names all there is, as a commit writes it that found none.
    every = [farm.store.pack_use(pack_id) for pack_id in farm.store.packs()]
    for version_id in wanted:
        farm.store.backend.put(
            layout.locate(version_id), documents.encode_locate(version_id, every)
        )
    collect(farm.store)
    newest = [farm.store.locate(report.version.id)[0].pack for report, _ in farm.history]
    assert len(set(newest)) == 4
    for position, (report, _) in enumerate(farm.history):
        uses = farm.store.locate(report.version.id)
        assert {use.pack for use in uses} == wanted[report.version.id]
        recent = newest[: position + 1]
        assert next(use.pack for use in uses if use.pack in recent) == recent[-1]
        assert uses == [farm.store.pack_use(use.pack) for use in uses]


def test_lost_hints_are_written_again(farm: Farm) -> None:
    farm.line(2)
    for name in listing(farm.store):
        if name.startswith("locate/") or name.endswith(".idx"):
            Path(farm.store.root, name).unlink()
    assert verify_store(farm.store).problems
    collect(farm.store)
    assert_whole(farm.store)


# Leftovers


def test_leftovers_of_killed_writers_are_swept(farm: Farm) -> None:
    farm.line(2)
    root = Path(farm.store.root)
    garbage = [
        root / "packs" / ".new-1-1-aa",
        root / "versions" / ".new-1-2-aa",
        root / "images" / "web" / ".new-1-3-aa",
        root / "packs" / f"{'0' * 64}.idx",
        root / "packs" / f"{'0' * 64}.torrent",
        root / "locate" / ("1" * 64),
        root / "local" / "spool" / "pack-1-1",
    ]
    for path in garbage:
        path.write_bytes(b"x")
    young = root / "packs" / ".new-1-4-aa"
    young.write_bytes(b"x")
    os.utime(young, (time.time() + 3600,) * 2)
    report = collect(farm.store, grace=0)
    assert report.leftovers == 6
    assert [path for path in garbage if path.exists()] == []
    # What may still be written is left: refs and torrents need no lock.
    assert young.exists()
    farm.assert_kept(0, 1)


def test_versions_no_ref_came_to_name_go(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.line(1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "change_ref", _raise(Conflict("killed here")))
        farm.write("changing")
        with pytest.raises(Conflict):
            farm.commit()
    report = collect(farm.store, grace=0)
    assert (report.versions_kept, report.versions_dropped, report.packs_deleted) == (1, 1, 1)
    farm.assert_kept(0)
    assert_whole(farm.store)


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail

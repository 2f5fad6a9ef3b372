"""Garbage collection: what is needed stays, what is not goes, and nobody is cut off on the way."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from support.stores import listing, make_store, record
from support.trees import Facts, facts

from chunkstore import gc, tags
from chunkstore.checkout import checkout
from chunkstore.commit import CommitReport
from chunkstore.errors import ChunkstoreError, Conflict, Corrupt, NotFound, Usage
from chunkstore.gc import GcReport, collection
from chunkstore.objects import chunklist, documents, manifest
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import Version
from chunkstore.objects.names import parse_spec
from chunkstore.storage import chunks as chunks_module
from chunkstore.storage import layout
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.repository import RemoteLocator, Repository
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store

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


@pytest.fixture
def farm(quick: Path) -> Iterator[Farm]:
    made = Farm(quick)
    with made.store:
        yield made


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


# Grace


def test_doomed_objects_stay_readable_until_the_grace_time_is_over(farm: Farm) -> None:
    farm.line(4)
    before = listing(farm.store)
    report = collect(farm.store, keep=1)
    assert report.versions_dropped == 3
    assert report.packs_doomed > 0 < report.pending
    assert (report.packs_deleted, report.freed) == (0, 0)
    assert before.keys() <= listing(farm.store).keys()
    farm.assert_kept(0, 1, 2, 3)
    assert_whole(farm.store)
    # Not yet, and the time it was doomed is not counted anew.
    assert collect(farm.store, later=DAY // 2).freed == 0
    assert collect(farm.store, later=DAY - 60 * 10**9).freed == 0
    last = collect(farm.store, later=DAY + 60 * 10**9)
    assert last.packs_deleted == report.packs_doomed
    assert (last.freed, last.pending) == (report.pending, 0)
    farm.assert_kept(3)
    assert farm.store.doomed() == {}
    assert_whole(farm.store)


def test_a_lost_list_of_the_doomed_costs_a_grace_time_and_no_object(farm: Farm) -> None:
    farm.line(3)
    doomed = collect(farm.store, keep=1).packs_doomed
    Path(farm.store.local, "doomed").write_bytes(b"\xff\0 nonsense\npacks/x\n 12\n")
    assert farm.store.doomed() == {"": 12}
    Path(farm.store.local, "doomed").unlink()
    farm.assert_kept(0, 1, 2)
    report = collect(farm.store, keep=1, later=2 * DAY)
    assert (report.packs_deleted, report.packs_doomed) == (0, doomed)


def test_a_needed_pack_on_the_list_of_the_doomed_is_kept(farm: Farm) -> None:
    """Whatever the list says, what is needed is found out anew."""
    farm.line(3)
    farm.store.doom({name: 1 for name in listing(farm.store) if name.startswith(("pa", "ve"))})
    report = collect(farm.store, grace=0)
    # History behind the tagged version ends where the list says so; that much it decides.
    assert report.versions_kept == 1
    assert (report.packs_kept, report.packs_deleted) == (2, 1)
    farm.assert_kept(2)
    assert_whole(farm.store)


# Commits beside and after


def _drop_content(farm: Farm) -> tuple[bytes, set[str]]:
    """Let gc doom the pack of a file that is then written again, and name what is doomed."""
    farm.line(1)
    content = noise(60_000)
    (farm.tree / "back").write_bytes(content)
    farm.commit()
    (farm.tree / "back").unlink()
    farm.commit()
    collect(farm.store, keep=1)
    doomed = {name for name in farm.store.doomed() if name.startswith("packs/")}
    assert doomed
    return content, doomed


def test_a_commit_does_not_rely_on_doomed_packs(farm: Farm) -> None:
    content, doomed = _drop_content(farm)
    (farm.tree / "back").write_bytes(content)
    report = farm.commit()
    assert report.raw >= len(content)
    named = {layout.pack(use.pack) for use in farm.store.locate(report.version.id)}
    assert named.isdisjoint(doomed)
    assert doomed <= farm.store.doomed().keys()
    collect(farm.store, keep=1, later=2 * DAY)
    assert doomed.isdisjoint(pack_names(farm.store))
    farm.assert_kept(-1)
    assert_whole(farm.store)


def test_a_store_opened_before_the_gc_does_not_rely_on_them_either(farm: Farm) -> None:
    farm.line(1)
    content = noise(60_000)
    (farm.tree / "back").write_bytes(content)
    farm.commit()
    early = Store(farm.store.root)
    assert len(early.catalog.packs) == 2
    (farm.tree / "back").unlink()
    farm.commit()
    collect_elsewhere(farm.store.root, keep=1)
    doomed = early.doomed().keys()
    # A reader that listed the packs before gc puts them back into the catalog they share.
    _learn_late(farm.store, doomed)
    (farm.tree / "back").write_bytes(content)
    with early:
        report = record(early, farm.tree)
        named = {layout.pack(use.pack) for use in early.locate(report.version.id)}
    assert report.raw >= len(content)
    assert named.isdisjoint(doomed)
    collect_elsewhere(farm.store.root, keep=1, grace=0)
    assert read_back(farm.store, report.version.version) == facts(farm.tree)


def test_nor_on_what_a_late_reader_put_into_the_catalog(farm: Farm) -> None:
    """A reader that listed the packs before gc may write to the catalog after a writer read it."""
    content, doomed = _drop_content(farm)
    with farm.store.locked("a writer"):
        writer = farm.store.writer()
        _learn_late(farm.store, doomed)
        held = {digest for name in doomed for digest in _digests(farm.store, name)}
        kept = {d for pack_id in farm.store.catalog.packs for d in _digests_of(farm.store, pack_id)}
        with writer:
            assert writer.unknown(held) == held - kept
    assert len(content) == 60_000


def _learn_late(store: Store, names: Collection[str]) -> None:
    catalog = Catalog(os.path.join(store.local, "catalog.sqlite"))
    for match in filter(None, map(layout.PACK_FILE.fullmatch, names)):
        pack_id = bytes.fromhex(match["id"])
        catalog.learn(pack_id, store.own_index(pack_id))
    catalog.close()


def test_nor_is_one_learnt_when_the_catalog_is_built_anew(farm: Farm) -> None:
    _, doomed = _drop_content(farm)
    with Store(farm.store.root) as store:
        store.refresh()
        assert store.catalog.packs
        assert doomed.isdisjoint(map(layout.pack, store.catalog.packs))


def _digests(store: Store, name: str) -> set[bytes]:
    match = layout.PACK_FILE.fullmatch(name)
    assert match is not None
    return _digests_of(store, bytes.fromhex(match["id"]))


def _digests_of(store: Store, pack_id: bytes) -> set[bytes]:
    return {digest for digest, *_ in store.own_index(pack_id).places()}


def test_a_pack_written_again_with_the_same_bytes_is_doomed_no_more(farm: Farm) -> None:
    farm.write("file", 50_000)
    first = farm.commit("one")
    tags.remove_image(farm.store, "one")
    collect(farm.store)
    assert {name.partition("/")[0] for name in farm.store.doomed()} == {"packs", "versions"}
    names = pack_names(farm.store)
    again = farm.commit("two")
    assert again.packs == 1
    assert pack_names(farm.store) == names
    assert farm.store.doomed().keys() == {layout.version(first.version.id)}
    with Store(farm.store.root) as store:
        assert store.catalog.packs
    # The catalog must know it: else the next commit stores all of it once more.
    (farm.tree / "little").write_bytes(b"x")
    assert farm.commit("three").raw < 20_000
    collect(farm.store, grace=0)
    farm.assert_kept(1, 2)
    assert_whole(farm.store)


def test_a_pack_that_is_rewritten_into_itself_stays(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "MANY", 1)
    farm.write("file", 50_000)
    farm.commit()
    names = pack_names(farm.store)
    report = collect(farm.store, grace=0)
    assert pack_names(farm.store) == names
    assert (report.packs_repacked, report.packs_doomed, report.packs_deleted) == (1, 0, 0)
    farm.assert_kept(0)
    assert_whole(farm.store)


def test_a_version_recorded_again_is_doomed_no_more(farm: Farm) -> None:
    farm.write("file", 50_000)
    first = farm.commit("one").version
    uses = farm.store.locate(first.id)
    tags.remove_image(farm.store, "one")
    collect(farm.store)
    assert farm.store.publish("one", first.version, uses, tags=[], now=5) == first.id
    assert farm.store.doomed() == {}
    assert farm.store.resolve(parse_spec("one")) == first
    collect(farm.store, grace=0)
    farm.assert_kept(0)
    assert_whole(farm.store)


def test_a_commit_without_a_hint_names_no_doomed_pack(farm: Farm) -> None:
    _, doomed = _drop_content(farm)
    latest = farm.store.resolve(parse_spec("web"))
    farm.store.backend.delete(layout.locate(latest.id))
    (farm.tree / "more").write_bytes(noise(100))
    report = farm.commit()
    named = {layout.pack(use.pack) for use in farm.store.locate(report.version.id)}
    assert named.isdisjoint(doomed)
    collect(farm.store, keep=1, grace=0)
    farm.assert_kept(-1)
    assert_whole(farm.store)


def test_gc_waits_for_its_turn(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.line(1)
    monkeypatch.setattr("chunkstore.storage.store.PATIENCE", 0.1)
    with farm.store.locked("another writer"), pytest.raises(Conflict, match="another writer"):
        collect_elsewhere(farm.store.root)


# Damage


def test_an_index_of_another_pack_does_not_mislead_gc_or_commits(farm: Farm) -> None:
    farm.line(3)
    one, other = (layout.index(pack_id) for pack_id in sorted(farm.store.packs())[:2])
    paths = [Path(farm.store.root, name) for name in (one, other)]
    blobs = [path.read_bytes() for path in paths]
    paths[0].write_bytes(blobs[1])
    paths[1].write_bytes(blobs[1])
    os.unlink(Path(farm.store.local, "catalog.sqlite"))
    assert collect(farm.store, grace=0).packs_deleted == 0
    farm.assert_kept(0, 1, 2)
    assert_whole(farm.store)


def test_a_lost_pack_is_made_good_by_a_commit_whatever_indexes_say(farm: Farm) -> None:
    farm.write("file", 60_000)
    farm.commit("one")
    (lost,) = farm.store.packs()
    farm.write("other", 60_000)
    farm.commit("one")
    (other,) = set(farm.store.packs()) - {lost}
    root = Path(farm.store.root)
    os.replace(root / layout.index(lost), root / layout.index(other))
    os.unlink(root / layout.pack(lost))
    os.unlink(root / "local" / "catalog.sqlite")
    assert farm.commit("two").raw >= 60_000
    farm.assert_kept(-1)


def test_a_pack_whose_writer_was_killed_before_its_index_gets_one(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.write("file", 60_000)
    real = farm.store.backend.put

    def put(name: str, data: bytes) -> None:
        if name.endswith(".idx"):
            raise Conflict("killed here")
        real(name, data)

    with monkeypatch.context() as patch:
        patch.setattr(farm.store.backend, "put", put)
        with pytest.raises(Conflict):
            farm.commit()
    (pack_id,) = farm.store.packs()
    # Nobody needs it yet: that is a leftover, not damage.
    assert_whole(farm.store)
    assert farm.commit().raw == 0
    assert list(farm.store.packs()) == [pack_id]
    assert layout.index(pack_id) in listing(farm.store)
    assert_whole(farm.store)


def test_a_store_with_a_lost_pack_is_refused_untouched(farm: Farm) -> None:
    farm.line(4)
    victim = farm.store.locate(farm.history[-1][0].version.id)[0].pack
    Path(farm.store.root, layout.pack(victim)).unlink()
    before = listing(farm.store)
    with pytest.raises(Corrupt, match="nothing was dropped"):
        collect(farm.store, keep=2, grace=0)
    assert listing(farm.store) == before


def test_lost_content_is_refused_untouched(farm: Farm) -> None:
    """The nodes are all there; only what they name is not."""
    farm.write("big", 20_000)
    farm.commit()
    report = farm.history[-1][0]
    (pack_id,) = farm.store.packs()
    index = farm.store.own_index(pack_id)
    nodes = {report.version.version.root.digest}
    with farm.store.rewriter() as writer, farm.store.chunks() as chunks:
        for digest in {digest for digest, *_ in index.places()} & nodes:
            writer.put_node(digest, chunks.get(digest))
        writer.finish()
    farm.store.backend.delete(layout.pack(pack_id))
    farm.store.backend.delete(layout.index(pack_id))
    with pytest.raises(Corrupt, match="are in no pack"):
        collect(farm.store, grace=0)


def test_a_lost_version_does_not_take_its_history_along(farm: Farm) -> None:
    farm.line(4)
    lost = farm.history[2][0].version.id
    Path(farm.store.root, layout.version(lost)).unlink()
    before = listing(farm.store)
    with pytest.raises(Corrupt, match="gc did not drop it"):
        collect(farm.store, grace=0)
    assert listing(farm.store) == before
    # Who accepts the loss says so by removing the hint.
    Path(farm.store.root, layout.locate(lost)).unlink()
    assert collect(farm.store, grace=0).versions_kept == 1
    farm.assert_kept(3)


def test_a_tag_of_a_lost_version_stops_gc(farm: Farm) -> None:
    farm.line(2)
    Path(farm.store.root, layout.version(farm.history[-1][0].version.id)).unlink()
    with pytest.raises(Corrupt, match="remove that tag"):
        collect(farm.store, grace=0)


def test_a_pack_with_a_damaged_index_is_saved_by_the_one_beside_it(farm: Farm) -> None:
    farm.line(3)
    for pack_id in list(farm.store.packs())[:2]:
        path = Path(farm.store.root, layout.pack(pack_id))
        data = bytearray(path.read_bytes())
        data[-40] ^= 1
        path.write_bytes(data)
    report = collect(farm.store, grace=0)
    assert (report.packs_repacked, report.packs_deleted) == (2, 2)
    farm.assert_kept(0, 1, 2)
    assert_whole(farm.store)


def test_a_pack_nobody_can_read_and_nobody_needs_goes(farm: Farm) -> None:
    farm.line(2)
    name = layout.pack(bytes(32))
    Path(farm.store.root, name).write_bytes(b"not a pack")
    Path(farm.store.root, "packs", "z" * 64 + ".pack").write_bytes(b"a stray")
    farm.assert_kept(0, 1)
    assert collect(farm.store, grace=0).packs_deleted == 1
    assert name not in listing(farm.store)
    assert "packs/" + "z" * 64 + ".pack" in listing(farm.store)


# Readers beside


class Pull:
    """A pull by another machine: it holds no lock and sees only public objects."""

    def __init__(self, root: str, version_id: bytes) -> None:
        self.backend = LocalBackend(root)
        repository = Repository(self.backend)
        self.version = repository.version(version_id)
        self.locator = RemoteLocator(repository, Catalog(None), version_id)
        self.chunks = ChunkReader(self.backend, self.locator)

    def plan(self) -> list[tuple[bytes, int]]:
        entries = manifest.walk(self.version.root, self.chunks.get)
        return [item for entry in entries for item in chunklist.walk(entry, self.chunks.get)]

    def stream(
        self, wanted: list[tuple[bytes, int]] | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        listed = self.plan() if wanted is None else wanted
        for (digest, _), data in zip(listed, self.chunks.stream(listed), strict=True):
            yield digest, bytes(data)

    def close(self) -> None:
        self.chunks.close()
        self.backend.close()


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows for little content, and no frame kept in memory."""
    monkeypatch.setattr(chunks_module, "WINDOW", 30_000)
    monkeypatch.setattr(chunks_module, "RECENT", 1)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("progress", ["resolved", "located", "planned", "reading"])
@pytest.mark.parametrize("grace", [0, 3600])
@pytest.mark.parametrize("number", [0, 5])
def test_a_pull_under_way_is_not_cut_off(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, progress: str, grace: float, number: int
) -> None:
    """With a grace time not even from a dropped version; without, if its version is kept."""
    monkeypatch.setattr(collection, "MANY", 2)
    farm.line(6)
    report = farm.history[number][0]
    is_kept = number == 5
    pull = Pull(farm.store.root, report.version.id)
    turn, done = threading.Event(), threading.Event()
    found: list[tuple[bytes, bytes]] = []
    failed: list[ChunkstoreError] = []

    def run() -> None:
        if progress == "located":
            pull.chunks.get(pull.version.root.digest)
        source = pull.stream(pull.plan() if progress == "planned" else None)
        if progress == "reading":
            found.append(next(source))
        turn.set()
        done.wait()
        try:
            found.extend(source)
        except ChunkstoreError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    turn.wait()
    names = pack_names(farm.store)
    collected = collect_elsewhere(farm.store.root, keep=2, grace=grace)
    assert collected.packs_repacked > 1
    assert names.isdisjoint(pack_names(farm.store)) == (grace == 0)
    done.set()
    thread.join()
    pull.close()
    assert all(chunk_digest(data) == digest for digest, data in found)
    if grace or is_kept:
        assert failed == []
        assert sum(len(data) for _, data in found) == pull.version.root.size
    else:
        # Unless all of it was on the way already.
        assert all(isinstance(error, NotFound) for error in failed)


@pytest.mark.usefixtures("small_windows")
def test_a_checkout_beside_is_not_cut_off(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local reader goes by the catalog that gc changes under its feet."""
    monkeypatch.setattr(collection, "MANY", 2)
    farm.line(6)
    for number, grace in ((0, 3600), (5, 0)):
        version = farm.history[number][0].version.version
        with (
            Store(farm.store.root) as reader,
            reader.chunks() as nodes,
            reader.chunks() as content,
        ):
            wanted = [
                item
                for entry in manifest.walk(version.root, nodes.get)
                for item in chunklist.walk(entry, nodes.get)
            ]
            stream = content.stream(wanted)
            parts = [bytes(next(stream))]
            collect_elsewhere(farm.store.root, keep=2, grace=grace)
            parts += [bytes(part) for part in stream]
            assert sum(map(len, parts)) == version.root.size


def test_pulls_commits_and_collections_get_along(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody at once, for a while; every version that is read is read whole."""
    monkeypatch.setattr(collection, "MANY", 3)
    farm.line(2)
    stop = threading.Event()
    errors: list[Exception] = []
    counts = {"pull": 0, "commit": 0, "gc": 0, "deleted": 0}

    def loop(what: str, work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
                counts[what] += 1
        except Exception as error:
            errors.append(error)

    def pull() -> None:
        backend = LocalBackend(farm.store.root)
        found = Repository(backend).resolve(parse_spec("web"))
        backend.close()
        reading = Pull(farm.store.root, found.id)
        try:
            size = sum(len(data) for _, data in reading.stream())
            assert size == found.version.root.size
        finally:
            reading.close()

    def commit() -> None:
        farm.write("changing", 60_000)
        with Store(farm.store.root) as store:
            record(store, farm.tree)
        # The lock knows no queue: without pauses, the others would hardly get their turn.
        time.sleep(0.1)

    def sweep() -> None:
        report = collect_elsewhere(farm.store.root, grace=1)
        counts["deleted"] += report.packs_deleted
        time.sleep(0.1)

    work = {"pull": pull, "commit": commit, "gc": sweep}
    threads = [threading.Thread(target=loop, args=item) for item in work.items()]
    threads += [threading.Thread(target=loop, args=("pull", pull)) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while min(counts.values()) < 4 and not errors and time.monotonic() < deadline:
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert min(counts.values()) > 3, counts
    assert_whole(farm.store)


# Crashes


class _Killed(BaseException):
    """As if the process had ended: nothing may catch it and go on."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_leaves_a_whole_store(
    quick: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(collection, "MANY", 3)
    farm = Farm(quick)
    with farm.store:
        farm.line(6)
        collect(farm.store, keep=5)
        farm.write("changing", 60_000)
        farm.commit()
    source = quick / "source"
    os.rename(farm.store.root, source)
    steps = None
    step = 0
    while steps is None or step < steps:
        shutil.rmtree(farm.store.root, ignore_errors=True)
        shutil.copytree(source, farm.store.root)
        with Store(farm.store.root) as store:
            steps = _collect_and_die(store, monkeypatch, step, when)
        for _ in range(2):
            assert_whole(farm.store)
            farm.assert_kept(5, 6)
            collect_elsewhere(farm.store.root, keep=2, grace=0)
        assert len(pack_names(farm.store)) < 3
        step += 1
    assert steps > 15


def _collect_and_die(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: int, when: str
) -> int | None:
    """Collect, and die at one step that changes something; without so many, their number."""
    count = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def act(*args: object) -> object:
            nonlocal count
            count += 1
            if count == step + 1 and when == "before":
                raise _Killed
            result = real(*args)
            if count == step + 1:
                raise _Killed
            return result

        return act

    with monkeypatch.context() as patch:
        for name in ("put", "put_file", "delete"):
            patch.setattr(store.backend, name, dying(getattr(store.backend, name)))
        patch.setattr("chunkstore.storage.doomed.write", dying(_write_doomed))
        with suppress(_Killed):
            collect(store, keep=2, grace=0)
            return count
    return None


def _write_doomed(path: str, objects: dict[str, int]) -> None:
    lines = "".join(f"{name} {since}\n" for name, since in sorted(objects.items()))
    Path(path).write_text(lines)


# Any sequence


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

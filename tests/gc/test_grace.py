"""gc: what is given up waits a grace time, and commits do not rely on it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest
from support.farm import (
    DAY,
    Farm,
    assert_whole,
    collect,
    collect_elsewhere,
    noise,
    pack_names,
    read_back,
)
from support.stores import listing, record
from support.trees import facts

from chunkstore import tags
from chunkstore.errors import Conflict
from chunkstore.gc import collection
from chunkstore.objects.names import parse_spec
from chunkstore.storage import layout
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.store import Store

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

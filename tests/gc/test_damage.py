"""gc: on a store that has lost or damaged objects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.farm import Farm, assert_whole, collect
from support.stores import listing

from chunkstore.errors import Conflict, Corrupt
from chunkstore.storage import layout


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

"""verify: which versions and paths a damaged object affects."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.stores import make_store, record
from support.verifying import by_name, entry_of, flip, labels, look, objects, path_of, spoil

from chunkstore.objects import chunklist, manifest
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store


def test_a_damaged_chunk_names_every_version_and_path(copy: Store) -> None:
    _, digests = entry_of(copy, "web", b"big")
    pack_id = spoil(copy, digests[100])
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    lines = [line for line in problem.affected if line.endswith(" big")]
    expected = [f"{label} big" for image in ("db", "web") for label in labels(copy, image)]
    assert sorted(lines) == sorted(expected)
    assert problem.count == len(problem.affected) == len(set(problem.affected))
    assert "chunks are damaged" in problem.what


def test_a_chunk_of_one_version_affects_that_one(copy: Store) -> None:
    _, digests = entry_of(copy, "web:first", b"etc/file07")
    pack_id = spoil(copy, digests[0])
    affected = by_name(verify_store(copy))[layout.pack(pack_id)].affected
    oldest = labels(copy, "web")[-1]
    assert [line for line in affected if line.endswith("file07")] == [f"{oldest} etc/file07"]


def test_a_subtree_that_versions_share_is_damaged_in_all_of_them(copy: Store) -> None:
    path = b"share/small149"
    versions = [*copy.history(copy.ref("web").find("latest").version)]  # type: ignore[union-attr]
    with copy.chunks() as chunks:
        roots = [found.version.root for found in versions]
        nodes = [manifest.read_node(root, chunks.get(root.digest)) for root in roots]
    assert all(node.level for node in nodes)
    assert len({node.records[-1].digest for node in nodes}) == 1
    _, digests = entry_of(copy, "web", path)
    pack_id = spoil(copy, digests[0])
    lines = by_name(verify_store(copy))[layout.pack(pack_id)].affected
    for image in ("web", "db"):
        for label in labels(copy, image):
            assert f"{label} {path.decode()}" in lines


def test_a_damaged_node_names_what_it_held(copy: Store) -> None:
    version, _ = entry_of(copy, "db", b"big")
    pack_id = spoil(copy, version.root.digest)
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    rest = version.root.entries - 1
    assert f"{labels(copy, 'db')[0]} . and {rest} more from there on" in problem.affected
    assert problem.count >= version.root.entries


def test_a_damaged_list_node_names_its_file(copy: Store) -> None:
    version, _ = entry_of(copy, "web", b"big")
    with copy.chunks() as chunks:
        entry = manifest.find(version.root, b"big", chunks.get)
        nodes = list(chunklist.nodes(entry, chunks.get))
    assert nodes
    pack_id = spoil(copy, nodes[0])
    lines = by_name(verify_store(copy))[layout.pack(pack_id)].affected
    assert f"{labels(copy, 'web')[0]} big" in lines


def test_the_list_of_what_is_affected_is_capped_and_counted(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkstore.verify.findings.LISTED", 3)
    pack_id = copy.locate(copy.ref("web").tags[0].version)[-1].pack
    path_of(copy, layout.pack(pack_id)).unlink()
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    assert len(problem.affected) == 3 < problem.count


def test_a_chunk_that_is_good_elsewhere_affects_nothing(copy: Store, quick: Path) -> None:
    tree = quick / "same"
    tree.mkdir()
    version, _ = entry_of(copy, "web", b"words")
    with copy.chunks() as chunks:
        entry = manifest.find(version.root, b"words", chunks.get)
        parts = list(chunks.stream(chunklist.walk(entry, chunks.get)))
        (tree / "words").write_bytes(b"".join(parts))
    with make_store(quick / "other") as other:
        record(other, tree)
    for name in objects(other):
        if name.startswith(layout.PACKS):
            shutil.copy(path_of(other, name), path_of(copy, name))
    _, digests = entry_of(copy, "web", b"words")
    for pack_id in list(copy.packs()):
        index = copy.own_index(pack_id)
        frames = {number for digest, number, *_ in index.places() if digest == digests[3]}
        if frames and not path_of(other, layout.pack(pack_id)).exists():
            frame = index.frames[frames.pop()]
            flip(path_of(copy, layout.pack(pack_id)), frame.offset + frame.stored // 2, 1)
            break
    problem = by_name(look(copy.root))[layout.pack(pack_id)]
    assert "damaged" in problem.what
    assert not any(line.endswith(" words") for line in problem.affected)


def test_a_damaged_index_spoils_no_chunk(copy: Store) -> None:
    """The one in the pack and the one beside it stand in for each other."""
    for pack_id in copy.packs():
        own, beside = path_of(copy, layout.pack(pack_id)), path_of(copy, layout.index(pack_id))
        before = beside.read_bytes()
        flip(beside, 60, 1)
        problem = by_name(look(copy.root))
        assert list(problem) == [layout.index(pack_id)]
        assert problem[layout.index(pack_id)].affected == ()
        beside.write_bytes(before)
        before = own.read_bytes()
        flip(own, len(before) - 60, 1)
        problem = by_name(look(copy.root))
        assert list(problem) == [layout.pack(pack_id)]
        assert problem[layout.pack(pack_id)].affected == ()
        own.write_bytes(before)

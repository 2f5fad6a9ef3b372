"""verify: every flipped bit, every missing or shortened object is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.stores import make_store, record
from support.verifying import (
    RANDOM,
    by_name,
    entry_of,
    flip,
    is_found,
    labels,
    look,
    objects,
    path_of,
)

from chunkstore.errors import ChunkstoreError
from chunkstore.objects import torrent
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import packs, verify_store

# Flipped bits


def _nobody_can_tell(store_root: Path, name: str, before: bytes, after: bytes) -> bool:
    """Whether a change leaves an honest object.

    `store.json` is for people to edit, and vouched for by nothing.
    """
    return name == layout.SETTINGS


def _survives_flip(root: Path, name: str, position: int, bit: int) -> bool:
    """Flip one bit, look, put it back; whether nobody noticed who could have."""
    path = root / name
    before = path.read_bytes()
    flip(path, position, bit)
    after = path.read_bytes()
    try:
        return not is_found(root) and not _nobody_can_tell(root, name, before, after)
    finally:
        path.write_bytes(before)


def test_every_flipped_bit_is_found(copy: Store) -> None:
    root = Path(copy.root)
    names = [name for name in objects(copy) if name != layout.SETTINGS]
    # Each object at its head, its end, and at random places: more in the larger ones.
    places = []
    for name in names:
        size = path_of(copy, name).stat().st_size
        picked = {0, 8, size // 2, size - 33, size - 1} & set(range(size))
        picked |= {RANDOM.randrange(size) for _ in range(8 + size.bit_length())}
        places += [(name, position) for position in sorted(picked)]
    assert len(places) > 350
    missed = [
        (name, position)
        for name, position in places
        if _survives_flip(root, name, position, RANDOM.randrange(8))
    ]
    assert missed == []


def test_every_byte_of_a_small_store_is_watched(quick: Path) -> None:
    tree = quick / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"a few bytes")
    with make_store(quick / "store") as store:
        record(store, tree)
    names = [name for name in objects(store) if name != layout.SETTINGS]
    missed = [
        (name, position)
        for name in names
        for position in range(path_of(store, name).stat().st_size)
        if _survives_flip(Path(store.root), name, position, position % 8)
    ]
    assert missed == []


def test_every_byte_of_a_pack_is_watched(copy: Store) -> None:
    """At the level of one pack, where it is quick enough for all of them."""
    pack_id = min(copy.packs(), key=lambda pack: path_of(copy, layout.pack(pack)).stat().st_size)
    path = path_of(copy, layout.pack(pack_id))
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position, position % 8)
        checked = packs.check_pack(copy, pack_id)
        assert checked.faults, position
        path.write_bytes(whole)
    assert packs.check_pack(copy, pack_id).is_whole


def test_settings_that_do_not_parse_are_refused(copy: Store) -> None:
    path_of(copy, layout.SETTINGS).write_bytes(b"{")
    with pytest.raises(ChunkstoreError):
        Store(copy.root)


# Cut short, grown, gone


@pytest.mark.parametrize(
    "cut",
    [
        lambda data: data[:0],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "one byte less", "half", "one byte more", "zeros"],
)
def test_every_object_of_another_length_is_found(
    copy: Store, cut: Callable[[bytes], bytes]
) -> None:
    missed = []
    for name in objects(copy):
        path = path_of(copy, name)
        before = path.read_bytes()
        path.write_bytes(cut(before))
        if not is_found(Path(copy.root)):
            missed.append(name)
        path.write_bytes(before)
    # White space is free in the settings, and their last byte is a newline.
    assert set(missed) <= {layout.SETTINGS}


def test_every_missing_object_is_found_by_name(copy: Store) -> None:
    for name in objects(copy):
        if name == layout.SETTINGS or name.endswith(".torrent"):
            continue
        path = path_of(copy, name)
        before = path.read_bytes()
        path.unlink()
        found = by_name(look(copy.root))
        assert name in found, name
        assert "missing" in found[name].what
        path.write_bytes(before)


def test_a_store_without_torrents_is_sound(copy: Store) -> None:
    torrents = [name for name in objects(copy) if name.endswith(".torrent")]
    assert len(torrents) == len(list(copy.packs()))
    for name in torrents:
        path_of(copy, name).unlink()
    assert verify_store(copy).problems == ()


def test_a_torrent_of_other_bytes_is_found(copy: Store) -> None:
    pack_id = next(copy.packs())
    other = torrent.make(pack_id, 5, [b"other"])
    path_of(copy, layout.torrent(pack_id)).write_bytes(other.encode())
    found = by_name(verify_store(copy))
    assert list(found) == [layout.torrent(pack_id)]
    assert not found[layout.torrent(pack_id)].affected


def test_the_index_of_a_missing_pack_tells_what_was_in_it(copy: Store) -> None:
    _, digests = entry_of(copy, "web", b"big")
    pack_id = copy.places(digests)[digests[0]].frame.pack
    path_of(copy, layout.pack(pack_id)).unlink()
    found = by_name(verify_store(copy))
    assert f"{labels(copy, 'db')[0]} big" in found[layout.pack(pack_id)].affected
    assert not any(name.startswith("versions/") for name in found)


def test_a_pack_missing_with_its_index_is_named_by_the_hints(copy: Store) -> None:
    pack_id = copy.locate(copy.ref("db").tags[0].version)[0].pack
    path_of(copy, layout.pack(pack_id)).unlink()
    path_of(copy, layout.index(pack_id)).unlink()
    found = by_name(verify_store(copy))
    assert found[layout.pack(pack_id)].what == "is missing"
    assert any(name.startswith("versions/") for name in found)


def test_objects_in_each_others_place_are_found(copy: Store) -> None:
    names = objects(copy)
    for prefix, suffix in (
        ("packs/", "pack"),
        ("packs/", "idx"),
        ("versions/", ""),
        ("locate/", ""),
    ):
        one, other = [n for n in names if n.startswith(prefix) and n.endswith(suffix)][:2]
        a, b = path_of(copy, one), path_of(copy, other)
        old = a.read_bytes(), b.read_bytes()
        a.write_bytes(old[1])
        b.write_bytes(old[0])
        assert {one, other} <= by_name(look(copy.root)).keys()
        a.write_bytes(old[0])
        b.write_bytes(old[1])

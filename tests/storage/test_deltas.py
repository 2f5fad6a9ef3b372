"""Delta packs: what they are made of, when they are made, and what becomes of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import make_store, record, settle

from chunkstore.gc import collect
from chunkstore.objects import delta, deltapack
from chunkstore.objects.digest import chunk_digest
from chunkstore.storage import deltas, layout
from chunkstore.storage.predecessors import successions
from chunkstore.storage.store import Store
from chunkstore.tags import tag, untag
from chunkstore.verify import verify_store

SIZE = 1_500_000


def edited(data: bytes) -> bytes:
    """Much of it again, with a few bytes changed every 8 KiB, so that no chunk stays."""
    changed = bytearray(data)
    for place in range(0, len(changed), 2048):
        changed[place : place + 3] = b"new"
    return bytes(changed)


@pytest.fixture
def tree(place: Path) -> Path:
    tree = place / "tree"
    (tree / "boot").mkdir(parents=True)
    (tree / "boot/vmlinuz-6.1.0-18").write_bytes(trees.pseudo_random("kernel", SIZE))
    (tree / "library").write_bytes(trees.pseudo_random("library", SIZE))
    (tree / "text").write_bytes(b"some text\n" * 50)
    return tree


def objects(store: Store) -> set[str]:
    return set(store.backend.list(layout.DELTAS))


def test_new_versions_of_files_become_small(place: Path, tree: Path) -> None:
    store = make_store(place / "store")
    assert record(store, tree).deltas is None
    settle()
    (tree / "library").write_bytes(edited((tree / "library").read_bytes()))
    kernel = edited((tree / "boot/vmlinuz-6.1.0-18").read_bytes())
    (tree / "boot/vmlinuz-6.1.0-21").write_bytes(kernel)
    report = record(store, tree)
    assert report.deltas is not None
    assert report.deltas.raw >= 1.9 * SIZE
    assert report.deltas.plain >= 1.9 * SIZE
    assert report.deltas.stored < 0.2 * SIZE
    hint = store.reader.get(layout.deltas(report.version.id), 0, 10_000)
    uses = deltapack.parse_deltas(hint, report.version.id)
    assert len(objects(store)) == 1 + 2 * len(uses)
    assert verify_store(store).problems == ()
    _check_frames(store, uses[0].pack)


def _check_frames(store: Store, pack: bytes) -> None:
    """Open all frames by what the store's plain frames hold."""
    name = layout.delta_index(pack)
    frames = deltapack.parse_index(store.reader.get(name, 0, 1 << 20), name)
    with store.chunks() as chunks:
        for frame in frames:
            bases = [chunks.get(digest) for digest, _ in deltapack.records(frame.bases)]
            place = frame.offset, frame.offset + frame.stored
            stored = store.reader.get(layout.delta_pack(pack), *place)
            raw = deltapack.decompress(stored, b"".join(bases), frame.raw, "frame")
            offset = 0
            for digest, length in deltapack.records(frame.chunks):
                assert chunk_digest(raw[offset : offset + length]) == digest
                offset += length


def test_nothing_is_written_that_does_not_pay(place: Path, tree: Path) -> None:
    store = make_store(place / "store")
    record(store, tree)
    for change in ("unrelated", "little"):
        settle()
        if change == "unrelated":
            (tree / "library").write_bytes(trees.pseudo_random("other", SIZE))
        else:
            with open(tree / "library", "r+b") as file:
                file.write(b"a little")
        assert record(store, tree).deltas is None
    assert objects(store) == set()
    assert os.listdir(Path(store.root) / "local/spool") == []


def test_the_same_versions_make_the_same_packs(place: Path, tree: Path) -> None:
    made = []
    first, second = place / "one", place / "other"
    original = (tree / "library").read_bytes()
    for root in (first, second):
        (tree / "library").write_bytes(original)
        store = make_store(root)
        record(store, tree)
        settle()
        (tree / "library").write_bytes(edited(original))
        record(store, tree)
        made.append({name for name in objects(store) if name.endswith(".pack")})
        settle()
    assert made[0] == made[1] != set()


def test_a_commit_stands_without_them(
    place: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(place / "store")
    record(store, tree)
    settle()
    (tree / "library").write_bytes(edited((tree / "library").read_bytes()))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deltas._File, "add", full)
    report = record(store, tree)
    assert report.is_new
    assert report.deltas is None
    assert objects(store) == set()
    assert os.listdir(Path(store.root) / "local/spool") == []
    assert verify_store(store).problems == ()


def pairs(store: Store, old: str, new: str) -> dict[bytes, bytes]:
    one, other = (store.resolve(stores.parse_spec(spec)).version.root for spec in (old, new))
    with store.chunks() as chunks:
        found = successions(delta.diff(one, other, chunks.get), one, chunks.get)
        return {pair.new.path: pair.old.path for pair in found}


def test_which_file_comes_from_which(place: Path) -> None:
    tree, store = place / "tree", make_store(place / "store")
    (tree / "lib").mkdir(parents=True)
    big = trees.pseudo_random("big", 2_000_000)
    old = {
        "lib/libssl.so.3.0.11": big,
        "lib/libssl.so.1.1": big[:500],
        "lib/same": big[:9000],
        "lib/unlike": big[:9000],
        "lib/no-number": big[:9000],
        "lib/linked": big[:100],
    }
    for name, data in old.items():
        (tree / name).write_bytes(data)
    record(store, tree)
    settle()
    (tree / "lib/libssl.so.3.0.11").unlink()
    (tree / "lib/libssl.so.3.0.15").write_bytes(big + b"more")
    (tree / "lib/libssl.so.3").symlink_to("libssl.so.3.0.15")
    (tree / "lib/same").write_bytes(big[:9000] + b"more")
    (tree / "lib/other-number-7").write_bytes(big[:9000])
    (tree / "lib/unlike").chmod(0o600)
    os.link(tree / "lib/linked", tree / "lib/more-linked")
    record(store, tree)
    assert pairs(store, "web~1", "web") == {
        b"lib/libssl.so.3.0.15": b"lib/libssl.so.3.0.11",
        b"lib/same": b"lib/same",
    }


def test_collection_keeps_those_of_tagged_versions(place: Path, tree: Path) -> None:
    store = make_store(place / "store")
    record(store, tree)
    kept = []
    for number in range(3):
        settle()
        data = (tree / "library").read_bytes()
        (tree / "library").write_bytes(edited(data)[:-1] + b"%d" % number)
        (tree / "library").write_bytes(
            bytes(b ^ (1 if i % 2048 == 7 + number else 0) for i, b in enumerate(data))
        )
        report = record(store, tree)
        assert report.deltas is not None
        kept.append(report.version.id)
    tag(store, stores.parse_spec("web~1"), "stable", now=1)
    assert {layout.deltas(version) for version in kept} <= objects(store)
    there = objects(store)
    dry = collect(store, now=1, dry_run=True)
    assert objects(store) == there
    report = collect(store, now=1)
    assert report.freed == dry.freed > 0
    assert layout.deltas(kept[0]) not in objects(store)
    assert {layout.deltas(version) for version in kept[1:]} <= objects(store)
    assert len(objects(store)) == 6
    assert verify_store(store).problems == ()
    untag(store, "web", "stable", now=2)
    collect(store, now=3)
    assert len(objects(store)) == 3


def test_verify_finds_damage(place: Path, tree: Path) -> None:
    store = make_store(place / "store")
    record(store, tree)
    settle()
    (tree / "library").write_bytes(edited((tree / "library").read_bytes()))
    record(store, tree)
    folder = Path(store.root) / "deltas"
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for place_in_it in range(0, len(good), max(len(good) // 40, 1)):
            damaged = bytearray(good)
            damaged[place_in_it] ^= 4
            path.write_bytes(damaged)
            problems = verify_store(store).problems
            assert problems, (path.name, place_in_it)
            assert all(problem.name.startswith("deltas/") for problem in problems)
        path.unlink()
        assert bool(verify_store(store).problems) == (path.suffix != "")
        path.write_bytes(good)
    assert verify_store(store).problems == ()


def test_stores_made_before_there_were_any(place: Path, tree: Path) -> None:
    store = make_store(place / "store")
    record(store, tree)
    shutil.rmtree(Path(store.root) / "deltas")
    collect(store, now=1)
    assert verify_store(store).problems == ()
    settle()
    (tree / "library").write_bytes(edited((tree / "library").read_bytes()))
    assert record(store, tree).deltas is not None
    assert objects(store)

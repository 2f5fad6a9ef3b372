"""Files made out of ones like them: the right bytes, and only the new ones take room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import mounted, stores, trees
from support.stores import bring, record, settle

from chunkstore.worktree import patch

MIB = 1 << 20


def used(place: Path) -> int:
    os.sync()
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.fixture(params=["xfs", "btrfs"])
def volume(request: pytest.FixtureRequest, quick: Path) -> Iterator[Path]:
    with mounted.disk(quick, request.param) as place:
        yield place


def parts(data: bytes, size: int = 100_000) -> list[tuple[bytes | None, int]]:
    return [(data[at : at + size], len(data[at : at + size])) for at in range(0, len(data), size)]


def make(folder: Path, base: Path, content: list[tuple[bytes | None, int]], size: int) -> Path:
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    source = os.open(base, os.O_RDONLY)
    try:
        os.close(patch.make_like(above, b"made", source, content, size))
    finally:
        os.close(source)
        os.close(above)
    return folder / "made"


def check_every_shape(folder: Path) -> None:
    """Longer and shorter than the base, with changes at both ends, with holes where it has none."""
    old = trees.pseudo_random("patch", 3 * MIB)
    base = folder / "base"
    base.write_bytes(old)
    for new in (
        old,
        b"X" + old[1:],
        old[:-1] + b"X",
        old[: 2 * MIB],
        old + trees.pseudo_random("more", MIB),
        old[: MIB + 17] + b"changed" + old[MIB + 24 :],
        trees.pseudo_random("other", MIB),
    ):
        made = make(folder, base, parts(new), len(new))
        assert made.read_bytes() == new
        assert made.stat().st_mode & 0o777 == 0o600
        made.unlink()
    holes = [(old[:MIB], MIB), (None, MIB), (old[2 * MIB :], MIB), (None, 123_456)]
    made = make(folder, base, holes, 3 * MIB + 123_456)
    assert made.read_bytes() == old[:MIB] + bytes(MIB) + old[2 * MIB :] + bytes(123_456)
    assert made.stat().st_blocks * 512 < 2 * MIB + 65_536
    assert base.read_bytes() == old


@trees.needs_root
def test_every_shape_shared(volume: Path) -> None:
    check_every_shape(volume)


def test_every_shape_where_nothing_can_be_shared(quick: Path) -> None:
    check_every_shape(quick)


@trees.needs_root
def test_an_update_takes_room_for_what_changed(volume: Path, quick: Path) -> None:
    tree = quick / "tree"
    tree.mkdir()
    data = bytearray(trees.pseudo_random("image", 24 * MIB))
    (tree / "disk.img").write_bytes(data)
    (tree / "moved").write_bytes(trees.pseudo_random("moved", 16 * MIB))
    store = stores.make_store(quick / "store")
    record(store, tree)
    remote = stores.in_memory(store)
    bring(remote, "web", volume / "node")
    # A first version that keeps the old files open to comparison, on the same disk.
    keep = os.open(volume / "node/disk.img", os.O_RDONLY)
    moved = os.open(volume / "node/moved", os.O_RDONLY)
    before = used(volume)
    settle()
    data[10 * MIB : 10 * MIB + 5] = b"12345"
    (tree / "disk.img").write_bytes(data)
    os.rename(tree / "moved", tree / "there")
    (tree / "there").chmod(0o600)
    record(store, tree)
    bring(stores.in_memory(store), "web", volume / "node")
    assert used(volume) - before < 4 * MIB
    os.close(keep)
    os.close(moved)
    assert trees.differences(trees.facts(tree), trees.facts(volume / "node")) == []

"""Hints that are wrong, packs and states that are damaged: time is lost, and no byte."""

from __future__ import annotations

import subprocess

import pytest
from support import stores, trees
from support.forge import Forge
from support.lines import Line, fill, same
from support.stores import bring

from chunkstore.errors import (
    ChunkstoreError,
    Corrupt,
    NotFound,
)
from chunkstore.objects import documents, pack
from chunkstore.storage import layout
from chunkstore.storage.backends.memory import MemoryBackend


def test_a_missing_or_damaged_index_is_read_from_the_pack(line: Line) -> None:
    fill(line.tree)
    line.commit()
    for damage in (None, b"", b"garbage" * 100):
        remote = stores.in_memory(line.store)
        for name in list(remote.list("packs/")):
            if name.endswith(".idx"):
                remote.delete(name)
                if damage is not None:
                    remote.put(name, damage)
        trees.remove_tree(line.node)
        bring(remote, "web", line.node)
        line.same()


def wrong_index(remote: MemoryBackend, how: str) -> None:
    """Replace each index by one that is whole, and wrong."""
    for name in [name for name in remote.list("packs/") if name.endswith(".idx")]:
        index = pack.parse_index(remote.get(name, 0, 1 << 30), name)
        records = list(pack.CHUNK.iter_unpack(index.chunks))
        match how:
            case "digests":
                digests = [digest for digest, _ in records]
                records = [
                    (digests[number - 1], length) for number, (_, length) in enumerate(records)
                ]
            case "lengths":
                frames, at = [], 0
                for frame in index.frames:
                    inside = records[at : at + frame.chunks]
                    lengths = sorted((length for _, length in inside), reverse=True)
                    records[at : at + frame.chunks] = [
                        (digest, length)
                        for (digest, _), length in zip(inside, lengths, strict=True)
                    ]
                    at += frame.chunks
                    frames.append(frame)
            case "offsets":
                frames = [
                    frame._replace(stored=max(frame.stored - 1, 1)) if frame.codec else frame
                    for frame in index.frames
                ]
                index = index._replace(frames=frames)
            case "other":
                index = index._replace(frames=index.frames[:1])
                records = records[: index.frames[0].chunks]
        chunks = b"".join(pack.CHUNK.pack(*record) for record in records)
        remote.put(name, pack.encode_index(index.frames, chunks))


@pytest.mark.parametrize("how", ["digests", "lengths", "offsets", "other"])
@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_index_costs_time_but_no_byte(line: Line, how: str, first: bool) -> None:
    fill(line.tree)
    (line.tree / "compressible").write_bytes(b"text " * 10_000)
    line.commit()
    if not first:
        line.pull()
        (line.tree / "a/new").write_bytes(trees.pseudo_random("new", 50_000))
        (line.tree / "text").write_bytes(b"other " * 10_000)
        line.commit()
    remote = stores.in_memory(line.store)
    wrong_index(remote, how)
    bring(remote, "web", line.node)
    line.same()


@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_locate_hint_is_an_error_and_the_tree_untouched(line: Line, first: bool) -> None:
    fill(line.tree)
    line.commit()
    if not first:
        line.pull()
        (line.tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
        line.commit()
    before = trees.facts(line.node) if line.node.exists() else None
    version_id = line.store.resolve(stores.parse_spec("web")).id
    name = layout.locate(version_id)
    absent = documents.encode_locate(version_id, [documents.PackUse(bytes(32), 100, 100)])
    for damage in (None, b"", b"garbage", documents.encode_locate(version_id, []), absent):
        remote = stores.in_memory(line.store)
        remote.delete(name)
        if damage is not None:
            remote.put(name, damage)
        with pytest.raises((NotFound, Corrupt)):
            bring(remote, "web", line.node)
        if before is not None:
            assert trees.differences(before, trees.facts(line.node)) == []
    line.pull()
    line.same()


def test_packs_that_were_repacked_since_are_found_again(line: Line) -> None:
    """The node's catalog is about packs that are no more."""
    fill(line.tree)
    (line.tree / "large").write_bytes(trees.pseudo_random("large", 40_000_000))
    line.commit()
    line.pull()
    line.pull("web")
    line.commit()
    for name in ("large", "top"):
        (line.tree / name).unlink()
    line.commit()
    line.pull()
    # Back to the first, from a remote whose packs all have other names now.
    remote = stores.in_memory(line.store)
    chunks: list[tuple[bytes, bytes]] = []
    for pack_id in list(line.store.packs()):
        with line.store.chunks() as reader:
            digests = [digest for digest, *_ in line.store.own_index(pack_id).places()]
            chunks += reader.get_many(digests).items()
        remote.delete(layout.pack(pack_id))
        remote.delete(layout.index(pack_id))
    forge = Forge()
    forge.backend = remote
    pack_id, index = forge.put_pack(chunks)
    remote.put(layout.index(pack_id), index)
    use = documents.PackUse(pack_id, remote.size(layout.pack(pack_id)), len(index))
    for name in list(remote.list("locate/")):
        version_id = bytes.fromhex(name.partition("/")[2])
        remote.put(name, documents.encode_locate(version_id, [use]))
    bring(remote, "web:base", line.node)
    stores.restore(line.store, "web:base", line.place / "base")
    trees.assert_same(line.place / "base", line.node)


@pytest.mark.parametrize("first", [True, False])
def test_a_damaged_pack_is_found_and_the_tree_untouched(line: Line, first: bool) -> None:
    fill(line.tree)
    line.commit()
    if not first:
        line.pull()
        (line.tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
        (line.tree / "top").unlink()
        line.commit()
    before = trees.facts(line.node) if line.node.exists() else None
    good = stores.in_memory(line.store)
    newest = line.store.locate(line.store.resolve(stores.parse_spec("web")).id)[0].pack
    name = layout.pack(newest)

    def refused(bad: MemoryBackend, pack_id: bytes) -> None:
        # On a copy each time: what was fetched whole once would not be fetched again.
        node = line.place / "copy"
        if before is not None:
            subprocess.run(["cp", "-a", str(line.node), str(node)], check=True)
        with pytest.raises(Corrupt, match=pack_id.hex()):
            bring(bad, "web", node)
        if before is not None:
            assert trees.differences(before, trees.facts(node)) == []
        trees.remove_tree(node)

    data = good.get(name, 0, 1 << 30)
    frames = line.store.own_index(newest).frames
    for frame in frames:
        for position in (frame.offset, frame.offset + frame.stored // 2):
            bad = stores.in_memory(line.store)
            bad.put(name, data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
            refused(bad, newest)
    for length in (20, frames[0].offset + frames[0].stored - 1):
        bad = stores.in_memory(line.store)
        bad.put(name, data[:length])
        refused(bad, newest)
    line.pull()
    line.same()


def test_damage_to_the_nodes_own_state(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    (line.tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
    line.commit()
    state = line.node / ".imgstore"
    for name, is_cache in (("catalog.sqlite", True), ("state.sqlite", False)):
        good = (state / name).read_bytes()
        damages = [b"no database at all", good[: len(good) // 2]]
        damages += [
            good[:start] + b"\xff" * 1024 + good[start + 1024 :]
            for start in range(0, len(good), 2048)
        ]
        for damage in damages:
            copy = line.place / "copy"
            subprocess.run(["cp", "-a", str(line.node), str(copy)], check=True)
            for suffix in ("-wal", "-shm", "-journal"):
                (copy / f".imgstore/{name}{suffix}").unlink(missing_ok=True)
            (copy / ".imgstore" / name).write_bytes(damage)
            try:
                bring(stores.in_memory(line.store), "web", copy)
            except ChunkstoreError:
                assert not is_cache
            else:
                same(line.tree, copy)
            trees.remove_tree(copy)

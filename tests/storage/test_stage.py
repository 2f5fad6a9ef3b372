"""The stage: frames wait here until they are used, and are believed only by their digests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import trees
from support.forge import Forge

from chunkstore.errors import Corrupt, LocalError, NotFound, TransferError
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.pack import parse_index
from chunkstore.storage import layout, ranges
from chunkstore.storage.backends.memory import FailingBackend
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.stage import Needs, Stage, StagedFirst


class Remote:
    """A remote with one pack of forty frames."""

    def __init__(self) -> None:
        self.forge = Forge()
        self.backend = self.forge.backend
        self.chunks = {
            chunk_digest(data): data
            for data in (trees.pseudo_random(number, 60_000) for number in range(40))
        }
        self.pack, index = self.forge.put_pack(list(self.chunks.items()))
        self.catalog = Catalog(None)
        self.catalog.learn(self.pack, parse_index(index, "index"))

    def needs(self, step: int = 1) -> Needs:
        places = self.catalog.places(list(self.chunks)[::step])
        return {place.frame: [(digest, place)] for digest, place in places.items()}

    def places(self, digests: object) -> object:
        return self.catalog.places(digests)  # type: ignore[arg-type]

    def refresh(self) -> bool:
        return False


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def stage(quick: Path) -> Stage:
    return Stage(str(quick / "stage"))


def test_what_was_fetched_can_be_read(remote: Remote, stage: Stage) -> None:
    stage.fetch(remote.needs(step=2), remote.backend, threads=3)
    wanted = list(remote.chunks)[::2]
    with ChunkReader(stage, remote, max_gap=0) as reader:  # type: ignore[arg-type]
        assert reader.get_many(wanted) == {digest: remote.chunks[digest] for digest in wanted}


def test_what_is_there_is_not_fetched_again(remote: Remote, stage: Stage) -> None:
    stage.fetch(remote.needs(step=2), remote.backend, threads=3)
    counter = FailingBackend(remote.backend)
    stage.fetch(remote.needs(step=2), counter, threads=3)
    assert counter.calls == 0
    stage.fetch(remote.needs(), counter, threads=3)
    assert counter.calls > 0
    stage.fetch(remote.needs(), FailingBackend(remote.backend, after=0), threads=3)


def test_what_is_there_and_damaged_is_fetched_again(
    remote: Remote, stage: Stage, quick: Path
) -> None:
    stage.fetch(remote.needs(), remote.backend, threads=3)
    path = quick / "stage" / layout.pack(remote.pack)
    for damage in (lambda data: data[: len(data) // 2], lambda data: bytes(len(data))):
        path.write_bytes(damage(path.read_bytes()))
        stage.fetch(remote.needs(), remote.backend, threads=3)
        with ChunkReader(stage, remote, max_gap=0) as reader:  # type: ignore[arg-type]
            assert reader.get_many(remote.chunks) == remote.chunks


def test_an_interrupted_fetch_goes_on(
    remote: Remote, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {**(ranges.plan_ranges.__kwdefaults__ or {}), "max_range": 200_000}
    monkeypatch.setattr(ranges.plan_ranges, "__kwdefaults__", defaults)
    counter = FailingBackend(remote.backend)
    Stage(f"{stage._root} whole").fetch(remote.needs(), counter, threads=1)
    whole = counter.calls
    assert whole > 8
    for after in range(1, whole):
        fresh = Stage(f"{stage._root} {after}")
        with pytest.raises(TransferError):
            fresh.fetch(remote.needs(), FailingBackend(remote.backend, after=after), threads=1)
        rest = FailingBackend(remote.backend)
        fresh.fetch(remote.needs(), rest, threads=1)
        assert rest.calls == whole - after


def test_a_frame_that_does_not_hold_its_chunks_is_not_kept(remote: Remote, stage: Stage) -> None:
    name = layout.pack(remote.pack)
    good = remote.backend.get(name, 0, 1 << 30)
    remote.backend.put(name, good[:500_000] + bytes(10) + good[500_010:])
    with pytest.raises(Corrupt, match=remote.pack.hex()):
        stage.fetch(remote.needs(), remote.backend, threads=2)
    remote.backend.put(name, good)
    stage.fetch(remote.needs(), remote.backend, threads=2)
    with ChunkReader(stage, remote, max_gap=0) as reader:  # type: ignore[arg-type]
        assert reader.get_many(remote.chunks) == remote.chunks


def test_a_wrong_place_is_refused(remote: Remote, stage: Stage) -> None:
    one, other = list(remote.chunks)[:2]
    places = remote.catalog.places([one, other])
    needs = {places[one].frame: [(other, places[one])]}
    with pytest.raises(Corrupt, match=other.hex()):
        stage.fetch(needs, remote.backend, threads=1)


def test_a_pack_the_remote_has_no_more(remote: Remote, stage: Stage) -> None:
    remote.backend.delete(layout.pack(remote.pack))
    with pytest.raises(NotFound):
        stage.fetch(remote.needs(), remote.backend, threads=2)


def test_what_is_not_on_the_stage(stage: Stage) -> None:
    with pytest.raises(NotFound):
        stage.get(layout.pack(bytes(32)), 0, 10)


def test_a_planted_link_is_not_written_through(remote: Remote, stage: Stage, quick: Path) -> None:
    (quick / "outside").write_bytes(b"canary")
    os.symlink(quick / "outside", quick / "stage" / layout.pack(remote.pack))
    with pytest.raises(LocalError):
        stage.fetch(remote.needs(), remote.backend, threads=1)
    assert (quick / "outside").read_bytes() == b"canary"


def test_frames_lie_at_their_own_offsets_and_take_no_more_room(
    remote: Remote, stage: Stage, quick: Path
) -> None:
    frames = remote.needs()
    last = max(frames, key=lambda frame: frame.offset)
    stage.fetch({last: frames[last]}, remote.backend, threads=1)
    path = quick / "stage" / layout.pack(remote.pack)
    assert path.stat().st_size == last.offset + last.stored
    assert path.stat().st_blocks * 512 < 100_000
    assert path.stat().st_mode & 0o777 == 0o600


def test_clearing(remote: Remote, stage: Stage, quick: Path) -> None:
    stage.fetch(remote.needs(), remote.backend, threads=1)
    stage.clear()
    assert not (quick / "stage").exists()
    stage.clear()


@trees.needs_root
def test_no_room(remote: Remote, place: Path) -> None:
    trees.mount_tmpfs(place / "mount", "size=1m")
    stage = Stage(str(place / "mount/stage"))
    with pytest.raises(LocalError, match="No space left"):
        stage.fetch(remote.needs(), remote.backend, threads=2)


def test_what_the_stage_lacks_comes_from_the_remote(quick: Path) -> None:
    remote, stage = Remote(), Stage(str(quick / "stage"))
    stage.fetch(remote.needs(step=2), remote.backend, threads=1)
    reader = StagedFirst(stage, remote.backend)
    with ChunkReader(reader, remote) as chunks:  # type: ignore[arg-type]
        assert chunks.get_many(remote.chunks) == remote.chunks


def test_what_is_wrong_on_the_stage_comes_from_the_remote(quick: Path) -> None:
    remote, stage = Remote(), Stage(str(quick / "stage"))
    stage.fetch(remote.needs(), remote.backend, threads=1)
    path = quick / "stage" / layout.pack(remote.pack)
    path.write_bytes(bytes(path.stat().st_size))
    reader = StagedFirst(stage, remote.backend)
    with ChunkReader(reader, remote) as chunks:  # type: ignore[arg-type]
        assert chunks.get_many(remote.chunks) == remote.chunks
    with ChunkReader(stage, remote) as chunks, pytest.raises(Corrupt):  # type: ignore[arg-type]
        chunks.get_many(remote.chunks)

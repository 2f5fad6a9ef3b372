"""Several places that have a store: a bad one costs time, and never a byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support import trees
from support.falsified import DAY, STRANGER, Scene
from support.servers import free_port

from chunkstore.commit import commit
from chunkstore.errors import ChunkstoreError, Untrusted
from chunkstore.objects import documents
from chunkstore.objects.names import parse_layers
from chunkstore.pull import PullOptions, PullReport, pull
from chunkstore.server import Access, running
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.storage.backends.mirrors import STRIKES, MirrorReader
from chunkstore.trust.refs import sign_ref


class Fleet(Scene):
    """A scene with mirrors, which are copies of what is served."""

    def __init__(self, place: Path, url: str) -> None:
        super().__init__(place, url)
        self.mirrors: list[Path] = []
        self.urls: list[str] = []
        self.asked: list[list[str]] = []
        self._stack = ExitStack()

    def add_mirror(self) -> Path:
        place = self.place / f"mirror {len(self.mirrors)}"
        shutil.copytree(self.served, place)
        asked: list[str] = []

        def note(access: Access) -> None:
            asked.append(access.path)

        self.urls.append(self._stack.enter_context(running(place, on_request=note)))
        self.mirrors.append(place)
        self.asked.append(asked)
        return place

    def fetch(self) -> PullReport:
        options = PullOptions(clock=self.now)
        with closing(open_reader(self.url, mirrors=self.urls)) as reader:
            return pull(reader, parse_layers("web"), str(self.node), options=options)

    def fill(self) -> None:
        """An image of several packs."""
        for number in range(4):
            (self.tree / f"part {number}").write_bytes(trees.pseudo_random(str(number), 300_000))
            self.now += 1
            commit(self.store, "web", str(self.tree), now=self.now)
        self.serve()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def fleet(quick: Path) -> Iterator[Fleet]:
    (quick / "served").mkdir()
    with running(quick / "served") as url:
        made = Fleet(quick, url)
        made.fill()
        made.pin()
        yield made
        made.close()
        made.store.close()


def spoil(place: Path) -> None:
    """Damage every pack at many places."""
    for pack in place.glob("packs/*.pack"):
        data = bytearray(pack.read_bytes())
        for offset in range(16, len(data), 1000):
            data[offset] ^= 0xFF
        pack.write_bytes(data)


@pytest.mark.parametrize("who", ["the first", "the mirror"])
@pytest.mark.parametrize("how", ["packs", "indexes", "locate hints", "versions", "everything"])
def test_what_one_has_wrong_the_other_has_right(fleet: Fleet, who: str, how: str) -> None:
    mirror = fleet.add_mirror()
    bad = fleet.served if who == "the first" else mirror
    if how in ("packs", "everything"):
        spoil(bad)
    for folder, name in (("packs", "indexes"), ("locate", "locate hints"), ("versions", how)):
        if how not in (name, "everything"):
            continue
        for path in (bad / folder).iterdir():
            if path.suffix != ".pack":
                path.write_bytes(path.read_bytes()[:-7] + b"changed")
    fleet.fetch()
    trees.assert_same(fleet.tree, fleet.node)


@pytest.mark.parametrize("how", ["empty", "without packs", "not there"])
def test_what_one_does_not_have_the_other_has(fleet: Fleet, how: str) -> None:
    fleet.add_mirror()
    if how == "not there":
        fleet.url = f"http://127.0.0.1:{free_port()}"
    else:
        for path in fleet.served.iterdir():
            if path.is_dir() and how in ("empty", f"without {path.name}"):
                shutil.rmtree(path)
    fleet.fetch()
    trees.assert_same(fleet.tree, fleet.node)


def test_both_are_read_at_the_same_time(fleet: Fleet) -> None:
    fleet.add_mirror()
    fleet.add_mirror()
    fleet.fetch()
    trees.assert_same(fleet.tree, fleet.node)
    for asked in fleet.asked:
        assert any(path.endswith(".pack") for path in asked)
        # Refs and all that hangs on them come from the first.
        assert all(path.startswith("/packs/") for path in asked)


@pytest.mark.parametrize("lie", ["forged", "expired", "old", "of another image"])
def test_a_ref_that_is_not_believed_is_asked_for_elsewhere(fleet: Fleet, lie: str) -> None:
    fleet.add_mirror()
    fleet.fetch()
    kept = fleet.keep()
    (fleet.tree / "new").write_text("new")
    fleet.now += 1
    commit(fleet.store, "web", str(fleet.tree), now=fleet.now)
    fleet.serve()
    shutil.copytree(fleet.served, fleet.mirrors[0], dirs_exist_ok=True)
    fleet.fetch()
    ref, online = fleet.ref()._replace(sequence=99), fleet.online_key()
    match lie:
        case "forged":
            fleet.put_ref(ref, STRANGER)
        case "expired":
            fleet.put_ref(ref._replace(expires=fleet.now - DAY), online)
        case "old":
            fleet.play_back(kept)
        case _:
            fleet.put_ref(ref._replace(image="db"), online)
    assert not fleet.fetch().is_changed
    trees.assert_same(fleet.tree, fleet.node)


def test_mirrors_that_all_lie_are_refused(fleet: Fleet) -> None:
    fleet.add_mirror()
    fleet.fetch()
    before = fleet.facts()
    ref = fleet.ref()._replace(sequence=99)
    fleet.put_ref(ref, STRANGER)
    data = documents.encode_ref(sign_ref(ref, [STRANGER]))
    (fleet.mirrors[0] / layout.ref("web")).write_bytes(data)
    with pytest.raises(Untrusted):
        fleet.fetch()
    assert fleet.facts() == before


def test_packs_that_nobody_has_right(fleet: Fleet) -> None:
    spoil(fleet.add_mirror())
    spoil(fleet.served)
    with pytest.raises(ChunkstoreError):
        fleet.fetch()


def test_a_root_that_is_forged_is_asked_for_elsewhere(fleet: Fleet) -> None:
    fleet.fetch()
    fleet.rotate()
    fleet.add_mirror()
    forged = fleet.root._replace(version=2)
    fleet.put_root(forged, STRANGER)
    assert not fleet.fetch().is_changed


def test_a_place_that_is_wrong_too_often_comes_last() -> None:
    good, bad = MemoryBackend(), MemoryBackend()
    names = [f"versions/{number}" for number in range(STRIKES + 3)]
    for name in names:
        good.put(name, b"good")
        bad.put(name, b"evil")
    reader = MirrorReader([bad, good])
    wrong = 0
    for name in names:
        while reader.get(name, 0, 10) != b"good":
            wrong += 1
            assert reader.doubt(name, 0, 10)
    assert wrong == STRIKES
    assert not reader.doubt("versions/never", 0, 10)
    assert reader.get(names[-1], 0, 10) == b"good"
    assert reader.doubt(names[-1], 0, 10)
    assert reader.get(names[-1], 0, 10) == b"evil"
    assert not reader.doubt(names[-1], 0, 10)
    with pytest.raises(ChunkstoreError):
        reader.get(names[-1], 0, 10)

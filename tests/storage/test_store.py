"""The store in a directory: made, opened, followed by its catalog, published to in order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import SMALL, listing, make_store, record

from chunkstore.errors import Conflict, Corrupt, LocalError, NotFound, Unsupported, Usage
from chunkstore.objects.documents import Tag
from chunkstore.objects.names import parse_spec
from chunkstore.storage import founding, layout, sequences, store
from chunkstore.storage.store import Store


@pytest.fixture
def tree(quick: Path) -> Path:
    path = quick / "tree"
    path.mkdir()
    (path / "file").write_bytes(trees.pseudo_random("file", 50_000))
    return path


# Made and opened


def test_a_new_store(quick: Path) -> None:
    made = make_store(quick / "store", compression="zstd:5")
    opened = Store(made.root)
    assert opened.settings == made.settings
    assert (opened.settings.chunker, opened.settings.compression) == (SMALL, "zstd:5")
    assert (quick / "store/local").stat().st_mode & 0o777 == 0o700
    assert opened.images() == []
    assert list(opened.packs()) == []
    assert make_store(quick / "another").settings.store_id != made.settings.store_id


def test_a_store_needs_a_directory_of_its_own(quick: Path) -> None:
    made = make_store(quick / "store")
    before = listing(made, local=True)
    with pytest.raises(Conflict, match="already"):
        make_store(quick / "store")
    assert listing(made, local=True) == before
    os.rename(quick / "store", quick / "bare")
    (quick / "bare/packs/some").write_bytes(b"")
    (quick / "bare/store.json").unlink()
    with pytest.raises(Conflict, match="not empty"):
        make_store(quick / "bare")
    (quick / "full").mkdir()
    (quick / "full/file").write_bytes(b"")
    with pytest.raises(Conflict, match="not empty"):
        make_store(quick / "full")
    assert os.listdir(quick / "full") == ["file"]


@pytest.mark.parametrize("made", range(5))
def test_a_store_that_was_only_half_made_is_completed(quick: Path, made: int) -> None:
    """Whoever made it was killed before its settings were written."""
    root = quick / "store"
    root.mkdir()
    for folder in ("images", "versions", "packs", "locate", "local/spool")[:made]:
        (root / folder).mkdir(parents=True)
    make_store(root)
    assert Store(str(root)).images() == []


def test_no_place_for_a_store(quick: Path) -> None:
    (quick / "file").write_bytes(b"")
    with pytest.raises(LocalError, match="can't make a store"):
        make_store(quick / "file/store")


def test_what_is_no_store(quick: Path) -> None:
    with pytest.raises(NotFound):
        Store(str(quick / "nowhere"))
    with pytest.raises(NotFound, match="not an imgstore store"):
        Store(str(quick))
    for settings, error in (
        (b"", Corrupt),
        (b"{}", Corrupt),
        (b"[" * 60_000, Corrupt),
        (b" " * 70_000, Corrupt),
        (b'{"imgstore": 99}', Unsupported),
    ):
        (quick / "store.json").write_bytes(settings)
        with pytest.raises(error):
            Store(str(quick))


def test_opened_or_made(quick: Path) -> None:
    first = founding.open_or_create(str(quick / "store"), now=1)
    assert founding.open_or_create(str(quick / "store"), now=1).settings == first.settings


# Names


def test_specs(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    versions = []
    for number in range(3):
        (tree / "number").write_bytes(b"%d" % number)
        versions.append(record(made, tree, message=f"{number}").version)
    one, two, three = versions
    for spec, wanted in (
        *(("web", three), ("web:latest", three), ("web:base", one), ("web~1", two)),
        *(("web~2", one), (f"web:{two.id.hex()}", two), (f"web:{two.id.hex()[:8]}", two)),
        (f"web:{three.id.hex()[:12]}~1", two),
    ):
        assert made.resolve(parse_spec(spec)) == wanted, spec
    for spec in ("web~3", "web:base~1", "db", "web:nothing", "web:" + "0" * 64, "web:ab"):
        with pytest.raises(NotFound):
            made.resolve(parse_spec(spec))
    assert [found.version.message for found in made.history(three.id)] == ["2", "1", "0"]


def test_tags(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    version = record(made, tree).version
    tag = Tag("tested", version.id, len(version.version.encode()))
    before = made.ref("web").sequence
    ref = made.change_ref("web", [tag], now=5)
    assert (ref.sequence, ref.time) == (before + 1, 5)
    assert made.change_ref("web", [tag], now=6) == ref, "nothing changed, nothing written"
    assert made.change_ref("web", drop=["tested"], now=7).find("tested") is None
    assert made.ref("web").sequence == before + 2
    with pytest.raises(Usage):
        store.check_new_tag("../x")
    made.remove_image("web")
    assert made.images() == []
    with pytest.raises(NotFound):
        made.remove_image("web")


def test_an_image_made_anew_goes_on_above_the_old_one(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    for image in ("web", "db"):
        record(made, tree, image)
    version = record(made, tree).version
    tag = Tag("tested", version.id, len(version.version.encode()))
    last = made.change_ref("web", [tag], now=5).sequence
    made.remove_image("web")
    made.remove_image("db")
    record(made, tree)
    again = made.ref("web").sequence
    assert again > last
    made.remove_image("web")
    record(made, tree)
    assert made.ref("web").sequence > again
    record(made, tree, "new")
    assert made.ref("new").sequence == 1


def test_a_number_that_was_kept_never_falls(quick: Path) -> None:
    """As after the public part of a store was put back from an old copy."""
    path = str(quick / "sequences")
    for number in (5, 3):
        sequences.remember(path, "web", number)
    assert sequences.read(path) == {"web": 5}


def test_an_image_stays_while_its_number_can_not_be_kept(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    record(made, tree)
    (quick / "store/local/sequences").mkdir()
    with pytest.raises(LocalError, match="sequence"):
        made.remove_image("web")
    assert made.images() == ["web"]


def test_two_changes_of_one_ref_do_not_lose_each_other(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    version = record(made, tree).version
    stale = Store(made.root)
    real = stale.backend.swap

    def late(name: str, old: bytes | None, new: bytes | None) -> None:
        made.change_ref("web", [Tag("other", version.id, 100)], now=1)
        real(name, old, new)

    stale.backend.swap = late  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        stale.change_ref("web", [Tag("mine", version.id, 100)], now=2)
    assert made.ref("web").find("other") is not None


# The catalog follows


def test_packs_that_appear_and_go_are_noticed(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    version = record(made, tree).version.version
    other = make_store(quick / "other")
    for folder in ("packs", "versions", "locate", "images"):
        shutil.copytree(quick / "store" / folder, quick / "other" / folder, dirs_exist_ok=True)
    digests = stores.chunks_of(made, version.root)
    assert other.places(digests).keys() == digests, "whoever put the packs there"
    for pack_id in list(made.packs()):
        os.unlink(quick / "other" / layout.pack(pack_id))
    fresh = Store(other.root)
    with pytest.raises(NotFound, match="in no pack"):
        fresh.places(digests)


def test_another_process_has_committed_meanwhile(quick: Path, tree: Path) -> None:
    one, other = make_store(quick / "store"), Store(str(quick / "store"))
    record(one, tree)
    assert other.places(()) == {}
    (tree / "new").write_bytes(trees.pseudo_random("new", 50_000))
    version = record(other, tree).version.version
    digests = stores.chunks_of(one, version.root)
    assert one.places(digests).keys() == digests


def test_the_catalog_of_a_store_that_can_not_be_written(
    quick: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_store(quick / "store")
    record(made, tree)
    made._drop("catalog")
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = listing(made, local=True)
    stores.restore(Store(made.root), "web", quick / "out")
    assert listing(made, local=True) == before
    assert trees.differences(trees.facts(tree), trees.facts(quick / "out")) == []


def test_the_spool_is_swept_by_the_next_writer(quick: Path) -> None:
    made = make_store(quick / "store")
    (quick / "store/local/spool/pack-left").write_bytes(b"left by a killed writer")
    with made.locked("a test"):
        assert os.listdir(quick / "store/local/spool") == []


def test_files_that_are_no_packs_are_passed_over(quick: Path, tree: Path) -> None:
    made = make_store(quick / "store")
    record(made, tree)
    for name in (".new-1-2", "README", "x" * 64 + ".pack", "0" * 64 + ".torrent", "0" * 63):
        (quick / "store/packs" / name).write_bytes(b"")
    (quick / "store/images/not an image").mkdir()
    (quick / "store/images/empty").mkdir()
    fresh = Store(made.root)
    assert len(list(fresh.packs())) == 1
    assert fresh.images() == ["web"]
    stores.restore(fresh, "web", quick / "out")

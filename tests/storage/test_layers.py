"""Versions of a store laid over each other, and finding the chunks of several versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import stores, trees
from support.stores import listing, make_store, record

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import manifest
from chunkstore.objects.names import parse_layers
from chunkstore.storage import layout
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.layers import lay, loader, resolve_layers
from chunkstore.storage.repository import RemoteLocator, Repository, Resolved
from chunkstore.storage.store import Store


@pytest.fixture
def store(quick: Path) -> Store:
    """A base of 3,000 files in three versions, two overlays in two; a pack for each version."""
    made = make_store(quick / "store")
    for image, count in {"web": 3000, "rack": 3, "node": 2}.items():
        tree = quick / image
        (tree / "etc").mkdir(parents=True)
        for number in range(count):
            (tree / f"etc/{number:04}").write_bytes(trees.pseudo_random((image, number), 100))
        record(made, tree, image)
        (tree / f"etc/{image}").write_text(f"{image} again")
        record(made, tree, image)
    (quick / "web/etc/web").write_text("third")
    record(made, quick / "web", "web")
    return made


# Composing


def test_layers_are_composed_in_memory(store: Store) -> None:
    before = listing(store)
    found = resolve_layers(store, parse_layers("web+rack~1+node"))

    with store.chunks() as chunks:
        with pytest.raises(NotFound):
            chunks.get(found.root.digest)
        entries = {entry.path: entry for entry in manifest.walk(found.root, found.over(chunks.get))}
        rack = store.resolve(parse_layers("rack~1")[0]).version.root
        over = {entry.path: entry for entry in manifest.walk(rack, chunks.get)}
    assert len(entries) == found.root.entries == 3000 + 4
    assert entries[b"etc/0002"] == over[b"etc/0002"]
    assert b"etc/rack" not in entries
    assert b"etc/node" in entries
    assert listing(store) == before
    assert [version.id for version in found.versions] == [
        store.resolve(spec).id for spec in found.specs
    ]


def test_only_nodes_of_the_result_are_kept(store: Store) -> None:
    found = resolve_layers(store, parse_layers("web+rack+node"))

    with store.chunks() as chunks:
        used = set()

        def load(digest: bytes) -> bytes:
            used.add(digest)
            return found.over(chunks.get)(digest)

        assert len(list(manifest.walk(found.root, load))) == found.root.entries
    assert found.nodes.keys() <= used
    assert len(found.nodes) < len(used) / 3


def test_one_layer_is_the_version_itself(store: Store) -> None:
    version = store.resolve(parse_layers("web")[0])

    def load(digest: bytes) -> bytes:
        raise AssertionError(digest)

    found = lay(parse_layers("web"), [version], load)
    assert (found.root, found.nodes) == (version.version.root, {})
    assert loader(version.version, load) is load


def test_layers_of_what_is_not_there(store: Store) -> None:
    for spec in ("web+nope", "nope+web", "web+rack:nope", "web+rack~9"):
        with pytest.raises(NotFound):
            resolve_layers(store, parse_layers(spec))


# Finding chunks of several versions


class Heard:
    """A repository that notes whose hints and indexes were asked for."""

    def __init__(self, store: Store) -> None:
        self.hints: list[bytes] = []
        self.indexes: list[bytes] = []
        self.own_indexes: list[bytes] = []
        self.repository = Repository(store.backend)
        locate, index = self.repository.locate, self.repository.index
        own_index = self.repository.own_index
        self.repository.locate = lambda name: self.hints.append(name) or locate(name)
        self.repository.index = lambda name: self.indexes.append(name) or index(name)
        self.repository.own_index = lambda name: self.own_indexes.append(name) or own_index(name)


def versions(store: Store, spec: str) -> list[Resolved]:
    return [store.resolve(part) for part in parse_layers(spec)]


def test_a_locator_finds_the_chunks_of_all_versions(store: Store) -> None:
    several = versions(store, "web+rack+node")
    heard = Heard(store)
    locator = RemoteLocator(heard.repository, Catalog(None), *(one.id for one in several))
    digests = {digest for one in several for digest in stores.chunks_of(store, one.version.root)}

    assert locator.places(digests).keys() == digests
    assert heard.hints == [one.id for one in several]
    assert sorted(heard.indexes) == sorted(set(store.packs()))


def test_a_locator_asks_the_newest_packs_of_each_version_first(store: Store) -> None:
    several = versions(store, "web+rack+node")
    newest = [store.locate(one.id)[0].pack for one in several]
    heard = Heard(store)
    locator = RemoteLocator(heard.repository, Catalog(None), *(one.id for one in several))

    locator.places([several[2].version.root.digest])

    assert heard.indexes == newest
    with pytest.raises(NotFound, match="these versions"):
        locator.places([bytes(32)])
    assert len(heard.indexes) == len(set(heard.indexes)) == len(list(store.packs()))


def test_packs_of_several_hints_are_learnt_once(store: Store) -> None:
    one, other = versions(store, "web")[0], versions(store, "web~1")[0]
    heard = Heard(store)
    locator = RemoteLocator(heard.repository, Catalog(None), one.id, other.id, one.id)

    with pytest.raises(NotFound):
        locator.places([bytes(32)])

    assert len(heard.indexes) == len(set(heard.indexes)) == len(store.locate(one.id))


def test_a_locator_of_several_versions_refreshes_once(store: Store) -> None:
    several = versions(store, "web+rack")
    heard = Heard(store)
    locator = RemoteLocator(heard.repository, Catalog(None), *(one.id for one in several))
    wanted = [one.version.root.digest for one in several]
    locator.places(wanted)
    first = list(heard.indexes)

    assert locator.refresh()
    locator.places(wanted)
    assert not locator.refresh()
    # The second time by what the packs say themselves.
    assert (heard.indexes, heard.own_indexes) == (first, first)
    assert heard.hints == [one.id for one in several] * 2


def test_a_lost_hint_of_one_version_is_told(store: Store) -> None:
    several = versions(store, "web+rack")
    Path(store.root, layout.locate(several[1].id)).write_bytes(b"damaged")
    locator = RemoteLocator(Repository(store.backend), Catalog(None), *(one.id for one in several))
    with pytest.raises(Corrupt, match=several[1].id.hex()):
        locator.places([several[0].version.root.digest])

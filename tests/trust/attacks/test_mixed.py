"""Mix and match, quoting: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

import shutil

import pytest
from support import stores
from support.falsified import Scene

from chunkstore.commit import commit
from chunkstore.errors import (
    Corrupt,
    NotFound,
)
from chunkstore.storage import layout

# Mix and match


def test_the_record_of_another_version(scene: Scene) -> None:
    first = scene.commit("one")
    scene.install()
    second = scene.commit("two")
    shutil.copy(scene.path(layout.version(first)), scene.path(layout.version(second)))
    before = scene.facts()
    with pytest.raises(Corrupt, match="does not match its name"):
        scene.pull()
    assert scene.facts() == before


def test_the_packs_of_another_version(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    one = set(scene.path("packs").glob("*.pack"))
    scene.commit("two")
    [old], new = one, set(scene.path("packs").glob("*.pack")) - one
    for pack in new:
        size = pack.stat().st_size
        pack.write_bytes((old.read_bytes() * 9)[:size])
    before = scene.facts()
    with pytest.raises((Corrupt, NotFound)):
        scene.pull()
    assert scene.facts() == before


def test_refs_of_two_roots(scene: Scene) -> None:
    scene.commit("one")
    scene.commit("rack", "rack7")
    scene.install("web+rack7")
    old = scene.keep()
    scene.rotate()
    scene.play_back(old, layout.ref("rack7"))
    scene.refused(
        "ref of image rack7: signed under root document 1", "web+rack7", follows_root=True
    )
    scene.serve()
    assert not scene.pull("web+rack7").is_changed


def test_a_layer_of_another_store(scene: Scene) -> None:
    scene.commit("one")
    scene.commit("rack", "rack7")
    scene.install("web+rack7")
    ref = scene.ref("rack7")
    scene.put_ref(ref._replace(store_id=bytes(16), sequence=9), scene.online_key(), image="rack7")
    scene.refused("ref of image rack7: belongs to another store", "web+rack7")


# Quoting


def test_the_ref_of_another_image(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.commit("database", "db")
    shutil.copy(scene.path(layout.ref("db")), scene.path(layout.ref("web")))
    scene.refused("belongs to another image")


def test_the_same_image_of_another_store(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    other = stores.make_store(scene.place / "other", now=scene.now)
    with other:
        commit(other, "web", str(scene.tree), now=scene.now)
        kept = scene.place / "its public part"
        shutil.copytree(other.root, kept, ignore=lambda *_: ["local"])
    scene.play_back(kept)
    scene.refused("belongs to another store")

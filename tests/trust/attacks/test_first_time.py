"""The first time: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

import shutil

import pytest
from support import stores
from support.falsified import OTHER, STRANGER, Scene

from chunkstore import keys, pin
from chunkstore.commit import commit
from chunkstore.errors import (
    Untrusted,
)
from chunkstore.objects.envelope import Envelope
from chunkstore.pull import Trust
from chunkstore.storage import layout
from chunkstore.trust.root import role, sign_root


def test_a_node_that_trusts_nobody(scene: Scene) -> None:
    scene.commit("one")
    scene.refused("trusts no store yet: 'imgstore trust")
    assert scene.content() is None


def test_trust_on_first_use_lasts(scene: Scene) -> None:
    scene.commit("one")
    report = scene.pull(trust=Trust.FIRST)
    assert report.trusted == scene.root
    assert scene.content() == "one"
    root = scene.root._replace(roots=role([STRANGER.key]), refs=role([STRANGER.key]))
    scene.put_root(root, STRANGER)
    scene.put_ref(scene.ref()._replace(sequence=9), STRANGER)
    scene.refused("signed by nobody who may", trust=Trust.FIRST)


def test_trust_on_first_use_wants_a_signature(scene: Scene) -> None:
    scene.commit("one")
    root = scene.root._replace(roots=role([STRANGER.key]), refs=role([STRANGER.key]))
    signed = sign_root(root, [OTHER])
    scene.path(layout.root(1)).write_bytes(signed.encode())
    scene.put_ref(scene.ref(), STRANGER)
    scene.refused("root document 1 is signed by nobody who may", trust=Trust.FIRST)


def unsigned(scene: Scene) -> None:
    """Serve a store that signs nothing."""
    with stores.make_store(scene.place / "plain", now=scene.now, is_signed=False) as plain:
        (scene.tree / "file").write_text("plain")
        commit(plain, "web", str(scene.tree), now=scene.now)
        kept = scene.place / "its public part"
        shutil.copytree(plain.root, kept, ignore=lambda *_: ["local"])
    scene.play_back(kept)


def test_an_unsigned_store_needs_the_word(scene: Scene) -> None:
    unsigned(scene)
    scene.refused("trusts no store yet")
    scene.refused("not signed", trust=Trust.FIRST)
    report = scene.pull(trust=Trust.UNSIGNED)
    assert report.is_unsigned
    assert scene.content() == "plain"
    assert scene.pull(trust=Trust.UNSIGNED).is_unsigned
    scene.refused("trusts no store yet")


def test_an_unsigned_store_is_none_for_a_node_that_trusts(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    unsigned(scene)
    scene.refused("another store", trust=Trust.UNSIGNED)


def test_the_word_for_an_unsigned_store_is_none_for_a_signed_one(scene: Scene) -> None:
    scene.commit("one")
    scene.refused("is signed, and --insecure", trust=Trust.UNSIGNED)


def test_another_unsigned_store_of_the_same_image(scene: Scene) -> None:
    unsigned(scene)
    scene.pull(trust=Trust.UNSIGNED)
    scene.put_envelope(Envelope(scene.ref()._replace(store_id=bytes(16)).payload))
    scene.refused("another store", trust=Trust.UNSIGNED)


@pytest.mark.parametrize("how", ["fingerprint", "document", "an old document"])
def test_pinning(scene: Scene, how: str) -> None:
    scene.commit("one")
    document = scene.signed_root
    if how == "an old document":
        scene.rotate()
        scene.rotate(keys.ROOT)
    if how == "fingerprint":
        scene.pin()
    else:
        scene.pin([], document=document)
    assert scene.memory().root == scene.root  # type: ignore[union-attr]
    assert scene.pull().is_first


def test_pinning_a_key_that_came_later(scene: Scene) -> None:
    scene.commit("one")
    scene.rotate(keys.ROOT)
    scene.rotate()
    assert scene.pin().version == 3
    assert scene.pull().is_first


def test_pinning_another_key(scene: Scene) -> None:
    scene.commit("one")
    for key_ids in ([STRANGER.key.id], [scene.root_key().key.id, STRANGER.key.id]):
        with pytest.raises(Untrusted, match="not signed by root key"):
            scene.pin(key_ids)
    with pytest.raises(Untrusted, match="not signed by root key"):
        scene.pin([scene.online_key().key.id])
    assert scene.memory() is None


def test_a_pinned_key_that_is_only_named(scene: Scene) -> None:
    """A stranger's root document may list the administrator's key."""
    scene.commit("one")
    named = role([STRANGER.key, scene.root_key().key])
    scene.put_root(scene.root._replace(roots=named, refs=role([STRANGER.key])), STRANGER)
    with pytest.raises(Untrusted):
        scene.pin()
    assert scene.memory() is None


def test_pinning_again_does_not_go_back(scene: Scene) -> None:
    scene.commit("one")
    old = scene.keep()
    scene.rotate()
    scene.install()
    known = scene.memory()
    scene.pin()
    assert scene.memory() == known
    scene.play_back(old)
    with pytest.raises(Untrusted, match="--forget"):
        scene.pin()
    assert scene.memory() == known


def test_pinning_over_a_stranger_who_was_trusted_first(scene: Scene) -> None:
    scene.commit("one")
    true = scene.keep()
    root = scene.root._replace(roots=role([STRANGER.key]), refs=role([STRANGER.key]))
    scene.put_root(root, STRANGER)
    scene.put_ref(scene.ref()._replace(sequence=99), STRANGER)
    scene.pull(trust=Trust.FIRST)
    scene.play_back(true)
    with pytest.raises(Untrusted, match="other root documents"):
        scene.pin([])
    scene.refused("nobody who may")
    scene.pin()
    assert not scene.pull().is_changed


def test_forgetting(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    pin.forget(str(scene.node))
    assert scene.memory() is None
    scene.refused("trusts no store yet")

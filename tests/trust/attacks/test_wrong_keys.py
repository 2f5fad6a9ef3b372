"""Wrong keys: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

import shutil

from support.falsified import OTHER, STRANGER, Scene

from chunkstore.objects.envelope import Envelope, Signature
from chunkstore.pull import Trust
from chunkstore.storage import layout
from chunkstore.trust.keys import PublicKey, sign
from chunkstore.trust.root import ROOT_KIND, role


def test_a_ref_by_a_stranger(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_ref(scene.ref()._replace(sequence=9), STRANGER)
    scene.refused("signed by nobody who may")


def test_a_first_ref_by_a_stranger(scene: Scene) -> None:
    scene.commit("one")
    scene.pin()
    scene.put_ref(scene.ref(), STRANGER)
    scene.refused("signed by nobody who may")
    assert scene.content() is None


def test_a_ref_that_was_changed(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    second = scene.commit("two")
    envelope = scene.envelope()
    changed = scene.ref().without_tag("base")._replace(sequence=9)
    assert changed.find("latest").version == second  # type: ignore[union-attr]
    scene.put_envelope(Envelope(changed.payload, envelope.signatures))
    scene.refused("bad signature")


def test_a_ref_without_a_signature(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_envelope(Envelope(scene.ref()._replace(sequence=9).payload))
    scene.refused("is not signed")


def test_a_ref_as_of_a_store_that_signs_nothing(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_envelope(Envelope(scene.ref()._replace(root=0, expires=0, sequence=9).payload))
    scene.refused("signed under root document none")
    scene.refused("signed under root document none", trust=Trust.UNSIGNED)


def test_a_ref_by_the_root_key(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_ref(scene.ref()._replace(sequence=9), scene.root_key())
    scene.refused("signed by nobody who may")


def test_a_signature_for_another_kind_of_document(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    payload = scene.ref()._replace(sequence=9).payload
    scene.put_envelope(sign(ROOT_KIND, payload, [scene.online_key()]))
    scene.refused("bad signature")


def test_a_signature_over_the_bare_payload(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    payload, signer = scene.ref()._replace(sequence=9).payload, scene.online_key()
    scene.put_envelope(Envelope(payload, (Signature(signer.key.id, signer.sign(payload)),)))
    scene.refused("bad signature")


def test_a_store_with_keys_of_its_own(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    root = scene.root._replace(roots=role([STRANGER.key]), refs=role([STRANGER.key]))
    scene.put_root(root, STRANGER)
    scene.put_ref(scene.ref()._replace(sequence=9), STRANGER)
    scene.refused("signed by nobody who may")


def test_a_next_root_with_keys_of_its_own(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    mine = role([STRANGER.key])
    scene.put_root(scene.root._replace(version=2, roots=mine, refs=mine), STRANGER)
    scene.put_ref(scene.ref()._replace(root=2, sequence=9), STRANGER)
    scene.refused("root document 2 is signed by nobody who may")


def test_a_next_root_that_does_not_vouch_for_itself(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_root(scene.root._replace(version=2, roots=role([OTHER.key])), scene.root_key())
    scene.put_ref(scene.ref()._replace(root=2, sequence=9), scene.online_key())
    scene.refused("root document 2 is signed by nobody who may")


def test_a_next_root_by_the_online_key(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    online = scene.online_key()
    scene.put_root(scene.root._replace(version=2, roots=role([online.key])), online)
    scene.put_ref(scene.ref()._replace(root=2, sequence=9), online)
    scene.refused("root document 2 is signed by nobody who may")


def test_a_next_root_that_is_not_there(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.rotate()
    scene.path(layout.root(2)).unlink()
    scene.refused("the store has no 2")


def test_a_root_that_is_left_out(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.rotate()
    scene.rotate()
    shutil.copy(scene.path(layout.root(3)), scene.path(layout.root(2)))
    scene.refused("root document 3 stands where 2 has to be")


def test_a_root_of_another_store(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_root(scene.root._replace(version=2, store_id=bytes(16)), scene.root_key())
    scene.put_ref(scene.ref()._replace(root=2, sequence=9), scene.online_key())
    scene.refused("root document 2 is of another store")


def test_a_key_of_small_order(scene: Scene) -> None:
    """Its signature of zeros fits every message, or one in a few: OpenSSL would take it."""
    scene.commit("one")
    scene.install()
    weak = PublicKey("ed25519", b"\1" + bytes(31))
    scene.put_root(scene.root._replace(version=2, refs=role([weak])), scene.root_key())
    forged = Signature(weak.id, b"\1" + bytes(63))
    scene.put_envelope(Envelope(scene.ref()._replace(root=2, sequence=9).payload, (forged,)))
    scene.refused("small order")


def test_a_key_of_an_unknown_algorithm(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    strange = PublicKey("ed448", bytes(57))
    both = role([strange, scene.online_key().key])
    scene.put_root(scene.root._replace(version=2, refs=both), scene.root_key())
    ref = scene.ref()._replace(root=2, sequence=9)
    scene.put_envelope(Envelope(ref.payload, (Signature(strange.id, bytes(114)),)))
    scene.refused("unknown algorithm 'ed448'", follows_root=True)
    scene.put_ref(ref, scene.online_key())
    assert not scene.pull().is_changed


def test_a_threshold_of_two(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    online = scene.online_key()
    both = role([online.key, OTHER.key], 2)
    scene.put_root(scene.root._replace(version=2, refs=both), scene.root_key())
    ref = scene.ref()._replace(root=2, sequence=9)
    scene.put_ref(ref, online)
    scene.refused("has 1 of the 2 signatures", follows_root=True)
    scene.put_ref(ref, online, STRANGER)
    scene.refused("has 1 of the 2 signatures")
    scene.put_ref(ref, online, OTHER)
    assert not scene.pull().is_changed


def test_a_root_threshold_of_two(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    first, online = scene.root_key(), scene.online_key()
    both = scene.root._replace(version=2, roots=role([first.key, OTHER.key], 2))
    scene.put_root(both, first)
    scene.put_ref(scene.ref()._replace(root=2, sequence=9), online)
    scene.refused("has 1 of the 2 signatures")
    scene.put_root(both, first, OTHER)
    scene.pull()
    scene.put_root(both._replace(version=3), OTHER)
    scene.put_ref(scene.ref()._replace(root=3, sequence=10), online)
    scene.refused("has 1 of the 2 signatures")

"""What TUF's conformance tests put to a client, put to a node: by a real server, on a false store.

Each refusal leaves the tree and what the node remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support import stores
from support.falsified import DAY, STRANGER, Scene
from support.forge import Forge
from support.servers import BadServer, Step

from chunkstore import keys, pin
from chunkstore.commit import commit
from chunkstore.errors import (
    ChunkstoreError,
    Conflict,
    Corrupt,
    LocalError,
    NotFound,
    TransferError,
    Untrusted,
)
from chunkstore.objects import documents
from chunkstore.objects.documents import MAX_COUNTER, MAX_REF
from chunkstore.objects.envelope import Envelope, Signature
from chunkstore.objects.names import parse_layers, parse_spec
from chunkstore.pull import PullOptions, Trust, pull, rollback
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.storage.backends.http import HttpReader
from chunkstore.tags import remove_image, tag
from chunkstore.trust.keys import PublicKey, from_secret, sign
from chunkstore.trust.refs import sign_ref
from chunkstore.trust.root import ROOT_KIND, role, sign_root

OTHER = from_secret(b"t" * 32)


def test_what_the_administrator_signed_is_pulled(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    assert scene.content() == "one"
    scene.commit("two")
    assert scene.pull().is_changed
    assert scene.content() == "two"
    assert not scene.pull().is_changed


# Rollback


def test_rollback_to_an_older_ref(scene: Scene) -> None:
    scene.commit("one")
    old = scene.keep()
    scene.commit("two")
    scene.install()
    scene.play_back(old, layout.ref("web"))
    scene.refused("goes back to sequence number 1")


def test_rollback_of_the_whole_store(scene: Scene) -> None:
    scene.commit("one")
    old = scene.keep()
    scene.commit("two")
    scene.install()
    scene.play_back(old)
    scene.refused("goes back")


def test_rollback_to_a_lower_sequence_that_was_signed_later(scene: Scene) -> None:
    scene.commit("one")
    scene.commit("two")
    scene.install()
    scene.put_ref(scene.ref()._replace(sequence=1, time=scene.now + DAY), scene.online_key())
    scene.refused("goes back")


def test_two_statements_under_one_sequence_number(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_ref(scene.ref()._replace(time=scene.now + 5), scene.online_key())
    scene.refused("two things under sequence number")


def test_another_signature_over_the_same_is_no_other_statement(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    envelope = scene.envelope()
    extra = Signature(bytes(32), b"by whomever")
    scene.put_envelope(envelope._replace(signatures=(extra, *envelope.signatures)))
    assert not scene.pull().is_changed


def test_rollback_of_one_of_two_layers(scene: Scene) -> None:
    scene.commit("one")
    scene.commit("rack", "rack7")
    old = scene.keep()
    scene.commit("rack again", "rack7")
    scene.install("web+rack7")
    scene.play_back(old, layout.ref("rack7"))
    scene.refused("ref of image rack7: goes back", "web+rack7")


def test_rollback_is_refused_after_a_pull_that_failed(scene: Scene) -> None:
    scene.commit("one")
    old = scene.keep()
    scene.install()
    scene.commit("two")
    for pack in scene.path("packs").iterdir():
        pack.unlink()
    with pytest.raises(ChunkstoreError):
        scene.pull()
    scene.play_back(old)
    scene.refused("goes back")


def test_rollback_is_refused_after_going_back_here(scene: Scene) -> None:
    """The tree of before that is exchanged back knows what was seen since."""
    scene.commit("one")
    scene.install()
    scene.commit("two")
    old = scene.keep()
    options = PullOptions(atomic=True, clock=scene.now)
    with closing(open_reader(scene.url)) as reader:
        assert pull(reader, parse_layers("web"), str(scene.node), options=options).is_changed
        scene.refresh()
        assert not scene.pull().is_changed
        rollback(reader, str(scene.node), options=PullOptions(clock=scene.now))
    assert scene.content() == "one"
    scene.play_back(old)
    scene.refused("goes back")


def test_going_back_in_place_needs_no_ref(scene: Scene) -> None:
    """What the tree was is known by its digest: nobody can hinder that, nor choose another."""
    scene.commit("one")
    scene.install()
    scene.commit("two")
    scene.pull()
    scene.put_ref(scene.ref()._replace(sequence=9), STRANGER)
    with closing(open_reader(scene.url)) as reader:
        rollback(reader, str(scene.node), options=PullOptions(clock=scene.now + 99 * DAY))
    assert scene.content() == "one"
    scene.refused("nobody who may", clock=scene.now)


def test_a_dry_run_judges_and_remembers_nothing(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.commit("two")
    known = scene.memory()
    options = PullOptions(dry_run=True, clock=scene.now)
    with closing(open_reader(scene.url)) as reader:
        assert pull(reader, parse_layers("web"), str(scene.node), options=options).changes
        scene.put_ref(scene.ref(), STRANGER)
        with pytest.raises(Untrusted):
            pull(reader, parse_layers("web"), str(scene.node), options=options)
    assert scene.memory() == known


def test_an_image_made_anew_goes_on_where_the_old_one_ended(scene: Scene) -> None:
    scene.commit("one")
    old = scene.keep()
    scene.commit("two")
    scene.install()
    remove_image(scene.store, "web")
    scene.commit("anew")
    scene.pull()
    assert scene.content() == "anew"
    scene.play_back(old)
    scene.refused("goes back")


def test_going_back_on_purpose_is_a_new_ref(scene: Scene) -> None:
    scene.commit("one")
    scene.commit("two")
    scene.install()
    tag(scene.store, parse_spec("web~1"), "latest", now=scene.now + 1)
    scene.serve()
    assert scene.pull().is_changed
    assert scene.content() == "one"


def test_rollback_to_an_older_root(scene: Scene) -> None:
    scene.commit("one")
    old = scene.keep()
    scene.rotate()
    scene.install()
    scene.play_back(old)
    scene.refused("signed under root document 1, and this is 2")


# Freeze


def test_freeze_until_the_ref_has_expired(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    assert scene.ref().expires == scene.now + 7 * DAY
    assert not scene.pull(clock=scene.now + 7 * DAY - 1).is_changed
    scene.refused("has expired, by this machine's clock", clock=scene.now + 7 * DAY)
    scene.refused("has expired", clock=scene.now + 700 * DAY)


def test_freeze_at_the_first_installation(scene: Scene) -> None:
    scene.commit("one")
    scene.pin()
    scene.refused("has expired", clock=scene.now + 8 * DAY)
    assert scene.content() is None


def test_a_dead_clock_does_not_revive_what_has_expired(scene: Scene) -> None:
    """The node knows from another image that time has gone on."""
    scene.commit("one")
    scene.commit("rack", "rack7")
    scene.install("web+rack7")
    frozen = scene.keep()
    scene.now += 8 * DAY
    scene.refresh()
    scene.play_back(frozen, layout.ref("web"))
    scene.refused("has expired, by what was signed since", "rack7+web", clock=0)


def test_a_dead_clock_is_no_hindrance(scene: Scene) -> None:
    scene.commit("one")
    scene.pin()
    assert scene.pull(clock=0).is_first


def test_refresh_ends_a_freeze(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.now += 8 * DAY
    scene.refused("has expired")
    scene.refresh()
    assert not scene.pull().is_changed


def test_without_expiry_nothing_expires(scene: Scene) -> None:
    scene.commit("one")
    keys.refresh(scene.store, now=scene.now, lifetime=0)
    keys.rotate(scene.store, keys.DOCUMENT, now=scene.now, lifetime=0)
    scene.serve()
    assert scene.ref().expires == scene.root.expires == 0
    scene.install()
    assert not scene.pull(clock=scene.now + 10_000 * DAY).is_changed


def test_freeze_until_the_root_has_expired(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.now += 366 * DAY
    # The thief of the online key goes on signing, and hides the next root.
    ref = scene.ref()
    scene.put_ref(
        ref._replace(sequence=9, time=scene.now, expires=scene.now + DAY), scene.online_key()
    )
    scene.refused("root document 1 of store .* has expired")
    scene.rotate(keys.DOCUMENT)
    assert not scene.pull().is_changed


def test_a_root_that_has_expired_is_not_pinned(scene: Scene) -> None:
    scene.commit("one")
    scene.now += 366 * DAY
    with pytest.raises(Untrusted, match="has expired"):
        scene.pin()
    assert scene.memory() is None


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


# Fast forward


def test_recovery_from_a_sequence_pushed_to_its_end(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.put_ref(scene.ref()._replace(sequence=MAX_COUNTER), scene.online_key())
    scene.pull()
    scene.commit("two")
    scene.refused("goes back")
    scene.rotate()
    scene.pull()
    assert scene.content() == "two"


def test_recovery_from_a_time_far_ahead(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    far = scene.now + 10_000 * DAY
    root = scene.root._replace(version=2, expires=0)
    scene.put_root(root, scene.root_key())
    scene.put_ref(
        scene.ref()._replace(root=2, sequence=9, time=far, expires=far + DAY), scene.online_key()
    )
    scene.pull()
    honest = scene.ref()._replace(sequence=10, time=scene.now, expires=scene.now + DAY)
    scene.put_ref(honest, scene.online_key())
    scene.refused("has expired, by what was signed since")
    scene.put_root(root._replace(version=3, time=scene.now), scene.root_key())
    scene.put_ref(honest._replace(root=3), scene.online_key())
    assert not scene.pull().is_changed


def test_a_store_whose_numbers_have_ended_begins_anew(scene: Scene) -> None:
    scene.commit("one")
    ref = scene.ref()._replace(sequence=MAX_COUNTER)
    path = Path(scene.store.root, layout.ref("web"))
    path.write_bytes(documents.encode_ref(sign_ref(ref, [scene.online_key()])))
    with pytest.raises(Conflict, match="key rotate online"):
        scene.commit("two")
    scene.rotate()
    assert scene.ref().sequence == 1
    scene.install()
    assert scene.content() == "one"


# Wrong software, wrong keys


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


# The first time


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


# Endless and slow


def test_a_ref_without_end(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.path(layout.ref("web")).write_bytes(bytes(MAX_REF + 1))
    before = scene.facts()
    with pytest.raises(ChunkstoreError):
        scene.pull()
    assert scene.facts() == before


@pytest.mark.parametrize("answer", ["a length of 2^60", "chunks for ever"])
def test_answers_without_end(scene: Scene, answer: str) -> None:
    scene.commit("one")
    scene.install()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    if answer == "chunks for ever":
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        part = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    else:
        head += b"Content-Length: 1152921504606846976\r\n\r\n"
        part = bytes(0x10000)

    def endless():  # type: ignore[no-untyped-def]
        yield head
        while True:
            yield part

    server = BadServer([Step(endless, "close") for _ in range(9)])
    try:
        scene.url = server.url
        before = scene.facts()
        with pytest.raises(ChunkstoreError):
            scene.pull()
        assert server.sent < 200 * MAX_REF
        assert scene.facts() == before
    finally:
        server.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n"])
def test_answers_that_drip(scene: Scene, first: bytes) -> None:
    """A byte now and then earns no time to speak of."""
    scene.commit("one")
    scene.install()
    over = threading.Event()

    def drip():  # type: ignore[no-untyped-def]
        yield first
        while not over.wait(0.1):
            yield b"x"

    server = BadServer([Step(drip, "close") for _ in range(9)])
    try:
        before = scene.facts()
        options = PullOptions(clock=scene.now)
        with (
            closing(HttpReader(server.url, timeout=0.5, attempts=2)) as reader,
            pytest.raises(TransferError),
        ):
            pull(reader, parse_layers("web"), str(scene.node), options=options)
        assert server.sent < 1000
        assert scene.facts() == before
    finally:
        over.set()
        server.close()


def test_roots_without_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a pinned key is found nobody vouches for how many there are."""
    monkeypatch.setattr("chunkstore.storage.believe.MOST_ROOTS", 20)
    scene.commit("one")
    mine = role([STRANGER.key])
    for version in range(1, 40):
        root = scene.root._replace(version=version, roots=mine, refs=mine)
        scene.put_root(root, STRANGER)
    with pytest.raises(Untrusted, match="not signed by root key"):
        scene.pin()
    with pytest.raises(Untrusted, match="more than 20 root documents"):
        scene.pull(trust=Trust.FIRST)


# Keys that are stolen, lost and replaced


def test_a_stolen_online_key_is_void_after_its_rotation(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    stolen = scene.online_key()
    scene.rotate()
    scene.pull()
    evil = scene.ref()._replace(sequence=99)
    scene.put_ref(evil, stolen)
    scene.refused("signed by nobody who may")
    scene.put_ref(evil._replace(root=1), stolen)
    scene.refused("signed under root document 1")


def test_what_was_signed_before_a_rotation_of_the_root_key_is_void(scene: Scene) -> None:
    """The online key is the same: only the root it was signed under tells."""
    scene.commit("one")
    old = scene.keep()
    scene.install()
    scene.rotate(keys.ROOT)
    scene.pull()
    scene.play_back(old, layout.ref("web"))
    scene.refused("signed under root document 1")


def test_a_node_that_slept_over_three_rotations(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.rotate()
    scene.rotate(keys.ROOT)
    scene.commit("two")
    scene.rotate()
    assert scene.pull().is_changed
    assert scene.memory().root.version == 4  # type: ignore[union-attr]
    assert scene.content() == "two"


def test_an_old_root_key_can_sign_no_further(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    stolen = scene.root_key()
    scene.rotate(keys.ROOT)
    scene.pull()
    mine = role([stolen.key])
    scene.put_root(scene.root._replace(version=3, roots=mine, refs=mine), stolen)
    scene.put_ref(scene.ref()._replace(root=3, sequence=99), stolen)
    scene.refused("root document 3 is signed by nobody who may")


def test_a_lost_online_key(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.store.authority.keyring.drop(scene.online_key().key.id)
    with pytest.raises(LocalError, match="key rotate online"):
        scene.commit("two")
    scene.rotate()
    scene.commit("two")
    assert scene.pull().is_changed
    assert scene.content() == "two"


class Cut(Exception):
    pass


@pytest.mark.parametrize("what", [keys.ONLINE, keys.ROOT, keys.DOCUMENT])
@pytest.mark.parametrize("finish", ["refresh", "rotate"])
def test_a_rotation_cut_off_at_every_step(
    scene: Scene, what: str, finish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it ends: what is served is believed then and after it is finished."""
    for image in ("web", "db"):
        scene.commit("one", image)
    nodes = {image: scene.place / f"node of {image}" for image in ("web", "db")}

    def pull_all() -> None:
        for image, node in nodes.items():
            with closing(open_reader(scene.url)) as reader:
                options = PullOptions(clock=scene.now)
                pull(reader, parse_layers(image), str(node), options=options)

    for scene.node in nodes.values():
        scene.pin()
    pull_all()
    stolen = scene.online_key()
    from chunkstore import fsio

    real = fsio.write_durably
    number = 0
    while True:
        count = [number]

        def write(*arguments: object, count: list[int] = count, **options: object) -> None:
            if not count[0]:
                raise Cut
            count[0] -= 1
            real(*arguments, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(fsio, "write_durably", write)
            try:
                scene.rotate(what)
                break
            except Cut:
                pass
        scene.serve()
        pull_all()
        number += 1
    assert number >= 2
    scene.refresh() if finish == "refresh" else scene.rotate(what)
    pull_all()
    if what == keys.ONLINE:
        scene.put_ref(scene.ref("db")._replace(sequence=99), stolen, image="db")
        scene.refused("signed by nobody who may", "db")


def test_the_first_of_what_is_served_is_not_what_is_pinned_later(scene: Scene) -> None:
    """The forge of other tests is a store like any other."""
    forge = Forge()
    forge.publish(forge.directory(b""), forge.file(b"file", b"forged"))
    scene.commit("one")
    scene.install()
    options = PullOptions(clock=scene.now, trust=Trust.FIRST)
    with pytest.raises(Untrusted, match="another store"):
        pull(forge.backend, parse_layers("web"), str(scene.node), options=options)
    assert scene.content() == "one"

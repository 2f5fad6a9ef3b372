"""Freeze and fast forward: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.falsified import DAY, Scene

from chunkstore import keys
from chunkstore.errors import (
    Conflict,
    Untrusted,
)
from chunkstore.objects import documents
from chunkstore.objects.documents import MAX_COUNTER
from chunkstore.storage import layout
from chunkstore.trust.refs import sign_ref

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

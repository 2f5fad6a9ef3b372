"""Rollback: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from support.falsified import DAY, STRANGER, Scene

from chunkstore.errors import (
    ChunkstoreError,
    Untrusted,
)
from chunkstore.objects.envelope import Signature
from chunkstore.objects.names import parse_layers, parse_spec
from chunkstore.pull import PullOptions, pull, rollback
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.tags import remove_image, tag


def test_what_the_administrator_signed_is_pulled(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    assert scene.content() == "one"
    scene.commit("two")
    assert scene.pull().is_changed
    assert scene.content() == "two"
    assert not scene.pull().is_changed


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

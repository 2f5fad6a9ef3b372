"""Keys that are stolen: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from support.falsified import Scene
from support.forge import Forge

from chunkstore import keys
from chunkstore.errors import (
    LocalError,
    Untrusted,
)
from chunkstore.objects.names import parse_layers
from chunkstore.pull import PullOptions, Trust, pull
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.trust.root import role


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

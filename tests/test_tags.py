"""Tags: what each change leaves, and that it is one change of the ref."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkstore import tags
from chunkstore.commit import commit
from chunkstore.errors import NotFound, Usage
from chunkstore.objects.names import Spec, parse_spec
from chunkstore.storage import layout
from chunkstore.storage.founding import create
from chunkstore.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three versions of `web`, the first also tagged `base`."""
    made = create(str(tmp_path / "store"), now=1)
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3):
        (tree / "file").write_text(str(number))
        commit(made, "web", str(tree), now=number)
    return made


def named(store: Store) -> dict[str, bytes]:
    """What each tag names."""
    return {item.name: item.version for item in store.ref("web").tags}


def version(store: Store, text: str) -> bytes:
    """The id of a version."""
    return store.resolve(parse_spec(text)).id


def test_each_change_is_the_next_sequence_number(store: Store) -> None:
    start = store.ref("web").sequence

    tags.tag(store, parse_spec("web~1"), "prod", now=10)
    tags.tag(store, parse_spec("web~1"), "prod", now=11)
    tags.tag(store, parse_spec("web"), "prod", now=12)
    tags.untag(store, "web", "prod", now=13)
    tags.remove(store, parse_spec("web"), now=14)

    ref = store.ref("web")
    assert (ref.sequence, ref.time) == (start + 4, 14)


def test_a_tag_keeps_the_length_of_its_record(store: Store) -> None:
    tags.tag(store, parse_spec("web~2"), "prod", now=10)

    tag = store.ref("web").find("prod")
    assert tag is not None
    assert tag.length == store.reader.size(layout.version(tag.version))


def test_left_means_no_tag_reaches_it(store: Store) -> None:
    second, third = version(store, "web~1"), version(store, "web")

    back = tags.tag(store, parse_spec("web~1"), "latest", now=10)
    kept = tags.tag(store, Spec("web", "base", 0), "latest", now=11)

    assert (back.before, back.version, back.left) == (third, second, True)
    assert (kept.before, kept.left) == (second, True)
    assert not tags.untag(store, "web", "base", now=12).left


def test_remove_walks_latest_back_to_the_first(store: Store) -> None:
    first, second = version(store, "web~2"), version(store, "web~1")

    one = tags.remove(store, parse_spec("web"), now=10)
    two = tags.remove(store, parse_spec("web:latest"), now=11)
    three = tags.remove(store, parse_spec("web"), now=12)

    assert (one.tags, one.latest, one.left) == (("latest",), second, True)
    assert (two.tags, two.latest, two.left) == (("latest",), first, True)
    assert (three.tags, three.latest) == (("base", "latest"), None)
    assert store.images() == []


def test_remove_keeps_what_history_needs(store: Store) -> None:
    report = tags.remove(store, parse_spec("web:base"), now=10)

    assert (report.tags, report.latest, report.left) == (("base",), version(store, "web"), False)
    assert set(named(store)) == {"latest"}


def test_remove_of_untagged_history_is_refused(store: Store) -> None:
    before = store.ref("web")

    with pytest.raises(Usage, match="gc --keep"):
        tags.remove(store, parse_spec("web~1"), now=10)
    assert store.ref("web") == before


def test_remove_never_takes_other_tags_along(store: Store) -> None:
    tags.tag(store, parse_spec("web"), "prod", now=10)
    tags.tag(store, parse_spec("web:base"), "latest", now=11)
    before = store.ref("web")

    with pytest.raises(Usage, match="prod"):
        tags.remove(store, parse_spec("web"), now=12)
    assert store.ref("web") == before


def test_remove_when_the_parent_was_dropped(store: Store) -> None:
    (Path(store.root) / layout.version(version(store, "web~1"))).unlink()
    tags.untag(store, "web", "base", now=10)

    assert tags.remove(store, parse_spec("web"), now=11).latest is None
    assert store.images() == []


def test_remove_image_returns_its_tags(store: Store) -> None:
    assert tags.remove_image(store, "web") == ("base", "latest")
    with pytest.raises(NotFound):
        store.ref("web")


def test_latest_can_not_be_taken_away(store: Store) -> None:
    with pytest.raises(Usage, match="latest"):
        tags.untag(store, "web", "latest", now=10)
    with pytest.raises(NotFound, match="nope"):
        tags.untag(store, "web", "nope", now=10)
    with pytest.raises(Usage):
        tags.tag(store, parse_spec("web"), "no good", now=10)

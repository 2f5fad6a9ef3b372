"""verify: hints, refs, manifests and packs that nobody would write."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.stores import make_store
from support.verifying import by_name, entry_of, flip, labels, objects, path_of

from chunkstore import gc, tags
from chunkstore.objects import chunklist, documents, manifest
from chunkstore.objects.codec import RAW
from chunkstore.objects.digest import chunk_digest, pack_hasher
from chunkstore.objects.documents import PackUse, Version
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.envelope import Envelope
from chunkstore.objects.names import parse_spec
from chunkstore.objects.pack import (
    CHUNK,
    HEADER,
    Frame,
    encode_footer,
    encode_header,
    encode_index,
)
from chunkstore.objects.record import encode
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store

# Hints


def _rewrite_hint(store: Store, change: Callable[[list[PackUse]], list[PackUse]]) -> str:
    version_id = store.ref("web").find("latest").version  # type: ignore[union-attr]
    name = layout.locate(version_id)
    uses = change(store.locate(version_id))
    path_of(store, name).write_bytes(documents.encode_locate(version_id, uses))
    return name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda uses: uses[1:], "leaves out"),
        (lambda uses: uses[:-1], "leaves out"),
        (lambda uses: uses[:0], "leaves out"),
        (lambda uses: [*uses, PackUse(bytes(32), 10, 10)], "not there"),
        (lambda uses: [uses[0]._replace(pack_size=7), *uses[1:]], "size"),
        (lambda uses: [uses[0]._replace(index_size=7), *uses[1:]], "size"),
    ],
)
def test_a_wrong_hint_is_found(
    copy: Store, change: Callable[[list[PackUse]], list[PackUse]], word: str
) -> None:
    name = _rewrite_hint(copy, change)
    problem = by_name(verify_store(copy))[name]
    assert word in problem.what
    assert problem.affected == (labels(copy, "web")[0],)


def test_a_hint_may_name_more_than_is_needed(copy: Store) -> None:
    every = [copy.pack_use(pack_id) for pack_id in copy.packs()]
    _rewrite_hint(copy, lambda uses: [*uses, *(use for use in every if use not in uses)])
    assert verify_store(copy).problems == ()


# Documents


def test_a_history_that_ends_is_no_damage_but_a_hole_in_it_is(copy: Store) -> None:
    latest, middle, oldest = copy.history(copy.ref("web").find("latest").version)  # type: ignore[union-attr]
    tags.untag(copy, "web", "first", now=1)
    tags.untag(copy, "web", "base", now=2)
    path_of(copy, layout.locate(oldest.id)).unlink()
    path_of(copy, layout.version(oldest.id)).unlink()
    assert verify_store(copy).problems == ()
    path_of(copy, layout.version(middle.id)).unlink()
    problem = by_name(verify_store(copy))[layout.version(middle.id)]
    assert problem.affected == (f"web:{middle.id.hex()[:12]}",)
    assert latest.version.parent == middle.id


def test_damage_where_no_tag_reaches_is_found_too(copy: Store) -> None:
    tags.remove_image(copy, "db")
    assert verify_store(copy).problems == ()
    latest = copy.resolve(parse_spec("web"))
    reached = {layout.version(found.id) for found in copy.history(latest.id)}
    (name,) = {name for name in objects(copy) if name.startswith(layout.VERSIONS)} - reached
    flip(path_of(copy, name), 50, 1)
    assert [problem.name for problem in verify_store(copy).problems] == [name]


def test_dropped_history_is_not_missed(copy: Store) -> None:
    """Between the time it is given up and deleted, gc may have deleted some of it."""
    tags.untag(copy, "web", "first", now=1)
    tags.untag(copy, "web", "base", now=2)
    latest = copy.ref("web").find("latest")
    assert latest is not None
    _, middle, oldest = copy.history(latest.version)
    assert gc.collect(copy, keep=1, now=time.time_ns()).versions_dropped == 2
    report = verify_store(copy)
    assert (report.problems, report.versions) == ((), 2)
    path_of(copy, layout.version(oldest.id)).unlink()
    assert verify_store(copy).problems == ()
    assert middle.id in {item for item in map(_id, objects(copy)) if item}


def _id(name: str) -> bytes | None:
    match = layout.VERSION_FILE.fullmatch(name)
    return bytes.fromhex(match["id"]) if match else None


def test_a_tag_of_a_missing_version_is_found(copy: Store) -> None:
    tag = copy.ref("db").find("latest")
    assert tag is not None
    path_of(copy, layout.version(tag.version)).unlink()
    path_of(copy, layout.locate(tag.version)).unlink()
    problem = by_name(verify_store(copy))[layout.version(tag.version)]
    assert problem.what == "is missing"
    assert problem.affected == ("db:base", "db:latest")


def test_a_tag_with_another_length_is_found(copy: Store) -> None:
    ref = copy.ref("db")
    wrong = ref.tags[0]._replace(length=ref.tags[0].length + 1)
    copy.change_ref("db", [wrong], now=9)
    assert layout.ref("db") in by_name(verify_store(copy))


def test_a_ref_of_another_store_is_found(copy: Store) -> None:
    changed = copy.ref("db")._replace(store_id=bytes(16))
    data = documents.encode_ref(Envelope(changed.payload))
    path_of(copy, layout.ref("db")).write_bytes(data)
    assert by_name(verify_store(copy))[layout.ref("db")].affected == ("db",)


def test_a_manifest_nobody_would_write_is_found(copy: Store) -> None:
    """Its digests are right; what they vouch for is not."""
    version = copy.resolve(parse_spec("db")).version
    wrong = version._replace(root=version.root._replace(size=version.root.size + 1))
    uses = copy.locate(copy.resolve(parse_spec("db")).id)
    version_id = copy.publish("db", wrong, uses, tags=[], now=3)
    problem = by_name(verify_store(copy))[layout.version(version_id)]
    assert problem.what == "its manifest is malformed"
    assert "does not hold what its reference says" in problem.affected[0]


def _publish(store: Store, *items: Entry) -> str:
    """Record a manifest of these entries, whatever is in them; returns the version's name."""
    root = Entry(b"", DIRECTORY, 0o755, 0, 0, 0)

    def save(data: bytes) -> bytes:
        writer.put_node(chunk_digest(data), data)
        return chunk_digest(data)

    with store.locked("a test"), store.writer() as writer:
        made = manifest.build([root, *items], save)
        writer.finish()
        uses = [store.pack_use(pack_id) for pack_id in store.packs()]
        version = Version(made, b"", 1, "")
        return layout.version(store.publish("odd", version, uses, tags=[], now=1))


def _file(size: int, records: list[tuple[bytes, int]], depth: int = 0) -> Entry:
    content = b"".join(chunklist.RECORD.pack(*item) for item in records)
    return Entry(b"odd", FILE, 0o644, 0, 0, 0, size=size, content=content, depth=depth)


def test_chunk_lists_nobody_would_write_are_found(copy: Store) -> None:
    """Every digest is right and every chunk there; only what is said of them is wrong."""
    _, digests = entry_of(copy, "web", b"words")
    length = copy.catalog.holders(digests[:1])[digests[0]][0]
    good = (digests[0], length)
    nodes: dict[bytes, bytes] = {}
    node = encode((1, 0, chunklist.RECORD.pack(*good)))
    nodes[chunk_digest(node)] = node
    with copy.locked("a test"), copy.writer() as writer:
        for digest, data in nodes.items():
            writer.put_node(digest, data)
        written = writer.finish()
    assert written.packs
    (node_id,) = nodes
    odd = {
        "add up": _file(length + 1, [good]),
        "bytes, not": _file(length + 1, [(digests[0], length + 1)]),
        "can't be": _file(length, [good, (digests[0], 0)]),
        "list node covers": _file(length + 1, [(node_id, length + 1)], depth=1),
        "can't  be": _file(length, [(bytes(32), length)], depth=1),
        "level": _file(length, [(node_id, length)], depth=2),
        "not a record": _file(length, [good], depth=1),
    }
    for words, entry in odd.items():
        name = _publish(copy, entry)
        problem = by_name(verify_store(copy))[name]
        assert problem.what == "its manifest is malformed"
        (line,) = problem.affected
        assert " odd: " in line
        assert words.replace("  ", " ") in line
        tags.remove_image(copy, "odd")
    _publish(copy, _file(length, [(node_id, length)], depth=1))
    assert verify_store(copy).problems == ()


def test_a_subtree_is_whole_only_where_it_belongs(copy: Store) -> None:
    """Two versions may name one node and say different things of it."""
    version = copy.resolve(parse_spec("db")).version
    uses = copy.locate(copy.resolve(parse_spec("db")).id)
    for field in ("length", "entries", "size"):
        wrong = version.root._replace(**{field: getattr(version.root, field) + 1})
        copy.publish("db", version._replace(root=wrong), uses, tags=[], now=3)
        found = verify_store(copy).problems
        assert [problem.what for problem in found] == ["its manifest is malformed"], field
        tags.tag(copy, parse_spec("db:base"), "latest", now=4)


def _put_pack(store: Store, data: bytes) -> bytes:
    pack_id = pack_hasher().update(data).digest()
    store.backend.put(layout.pack(pack_id), data)
    return pack_id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head, frame: (b"X" + head[1:], frame), "header"),
        (lambda head, frame: (head, frame + b"gap"), "do not end where"),
        (lambda head, frame: (head, frame[:-1] + b"?"), "1 of 1 chunks are damaged"),
    ],
)
def test_a_pack_nobody_would_write_is_found(
    quick: Path, change: Callable[[bytes, bytes], tuple[bytes, bytes]], words: str
) -> None:
    """Its name is the hash of its bytes, and what they say is wrong."""
    content = b"some content"
    index = encode_index(
        [Frame(HEADER.size, len(content), len(content), 1, RAW)],
        CHUNK.pack(chunk_digest(content), len(content)),
    )
    with make_store(quick / "store") as store:
        for head, frame in ((encode_header(), content), change(encode_header(), content)):
            pack_id = _put_pack(store, head + frame + index + encode_footer(index))
            store.backend.put(layout.index(pack_id), index)
        problems = verify_store(store).problems
    assert [problem.name for problem in problems] == [layout.pack(pack_id)]
    assert words in problems[0].what


def test_strays_are_noted_and_no_damage(copy: Store) -> None:
    for name in ("README", "packs/notes.txt", "images/web/.new-1-2", "versions/abc"):
        path_of(copy, name).write_bytes(b"")
    path_of(copy, "images/-x").mkdir()
    report = verify_store(copy)
    assert report.problems == ()
    assert [note.partition(":")[0] for note in report.notes] == [
        "README",
        "versions/abc",
        "packs/notes.txt",
        "images/-x",
        "images/web/.new-1-2",
    ]

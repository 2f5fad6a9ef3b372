"""Verification of a store: whatever is wrong is found and named, and nothing else is."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.stores import make_store, record
from support.trees import needs

from chunkstore import gc, tags
from chunkstore.errors import ChunkstoreError, LocalError
from chunkstore.objects import chunklist, documents, manifest, torrent
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
    parse_index,
)
from chunkstore.objects.record import encode
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import Problem, StoreReport, packs, verify_store
from chunkstore.verify import store as verify_module

RANDOM = random.Random(2026)


def noise(size: int) -> bytes:
    return RANDOM.randbytes(size)


def text(size: int) -> bytes:
    words = [b"chunk", b"frame", b"pack", b"node", b"swarm", b"store"]
    return b" ".join(RANDOM.choices(words, k=size // 5))[:size]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two images, three versions of one, list nodes and several packs; not changed."""
    place = tmp_path_factory.mktemp("verify")
    tree = place / "tree"
    (tree / "etc").mkdir(parents=True)
    for number in range(40):
        (tree / "etc" / f"file{number:02}").write_bytes(text(300 + 50 * number))
    (tree / "share").mkdir()
    for number in range(150):
        (tree / "share" / f"small{number:03}").write_bytes(b"%d" % number)
    (tree / "big").write_bytes(noise(700_000))
    (tree / "words").write_bytes(text(60_000))
    (tree / "link").symlink_to("etc/file00")
    with make_store(place / "store") as store:
        record(store, tree, tags=["first"])
        (tree / "etc" / "file07").write_bytes(b"another line\n" * 200)
        (tree / "new").write_bytes(noise(30_000))
        record(store, tree)
        (tree / "etc" / "file20").unlink()
        record(store, tree, message="third")
        shutil.rmtree(tree / "etc")
        record(store, tree, "db")
    return place / "store"


@pytest.fixture
def copy(made: Path, quick: Path) -> Iterator[Store]:
    shutil.copytree(made, quick / "store")
    with Store(str(quick / "store")) as store:
        yield store


def path_of(store: Store, name: str) -> Path:
    return Path(store.root, name)


def objects(store: Store) -> list[str]:
    """Every file of the public part."""
    root = Path(store.root)
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.startswith(layout.LOCAL))


def by_name(report: StoreReport) -> dict[str, Problem]:
    return {problem.name: problem for problem in report.problems}


def look(root: Path | str) -> StoreReport:
    with Store(str(root)) as store:
        return verify_store(store)


def is_found(root: Path) -> bool:
    """Whether a store is refused outright, or a problem found in it."""
    try:
        return bool(look(root).problems)
    except ChunkstoreError:
        return True


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


# A whole store


def test_a_whole_store_has_no_problems(copy: Store) -> None:
    report = verify_store(copy)
    assert report.problems == ()
    assert report.notes == ()
    assert report.versions == 4
    names = [name for name in objects(copy) if name.endswith(".pack")]
    assert report.packs == len(names) >= 4
    assert report.size == sum(path_of(copy, name).stat().st_size for name in names)
    indexes = [name for name in objects(copy) if name.endswith(".idx")]
    sizes = [len(parse_index(path_of(copy, name).read_bytes(), name).chunks) for name in indexes]
    assert report.chunks == sum(sizes) // CHUNK.size > 150


def test_an_empty_store_has_no_problems(quick: Path) -> None:
    with make_store(quick / "store"):
        report = look(quick / "store")
    assert (report.packs, report.versions, report.problems, report.notes) == (0, 0, (), ())


def test_nothing_is_written(copy: Store) -> None:
    def look() -> dict[str, tuple[int, int]]:
        found = {}
        for path in Path(copy.root).rglob("*"):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns)
        return found

    before = look()
    verify_store(copy)
    assert look() == before


def test_a_copy_of_the_public_part_is_whole_too(copy: Store) -> None:
    shutil.rmtree(path_of(copy, layout.LOCAL))
    assert look(copy.root).problems == ()


@needs("b3sum")
def test_names_of_packs_are_what_b3sum_says(copy: Store) -> None:
    for pack_id in copy.packs():
        path = path_of(copy, layout.pack(pack_id))
        command = ["b3sum", "--no-names", "--derive-key", "imgstore 2026-11 pack", str(path)]
        assert subprocess.check_output(command, text=True).strip() == pack_id.hex()


def test_progress_adds_up(copy: Store) -> None:
    class Watch:
        expected = advanced = (0, 0)

        def expect(self, *, files: int = 0, size: int = 0) -> None:
            assert self.expected == (0, 0)
            self.expected = (files, size)

        def advance(self, *, files: int = 0, size: int = 0) -> None:
            self.advanced = (self.advanced[0] + files, self.advanced[1] + size)

    watch = Watch()
    report = verify_store(copy, progress=watch)
    assert watch.expected == watch.advanced == (report.packs, report.size)


# Flipped bits


def _nobody_can_tell(store_root: Path, name: str, before: bytes, after: bytes) -> bool:
    """Whether a change leaves an honest object.

    `store.json` is for people to edit, and vouched for by nothing.
    """
    return name == layout.SETTINGS


def _survives_flip(root: Path, name: str, position: int, bit: int) -> bool:
    """Flip one bit, look, put it back; whether nobody noticed who could have."""
    path = root / name
    before = path.read_bytes()
    flip(path, position, bit)
    after = path.read_bytes()
    try:
        return not is_found(root) and not _nobody_can_tell(root, name, before, after)
    finally:
        path.write_bytes(before)


def test_every_flipped_bit_is_found(copy: Store) -> None:
    root = Path(copy.root)
    names = [name for name in objects(copy) if name != layout.SETTINGS]
    # Each object at its head, its end, and at random places: more in the larger ones.
    places = []
    for name in names:
        size = path_of(copy, name).stat().st_size
        picked = {0, 8, size // 2, size - 33, size - 1} & set(range(size))
        picked |= {RANDOM.randrange(size) for _ in range(8 + size.bit_length())}
        places += [(name, position) for position in sorted(picked)]
    assert len(places) > 350
    missed = [
        (name, position)
        for name, position in places
        if _survives_flip(root, name, position, RANDOM.randrange(8))
    ]
    assert missed == []


def test_every_byte_of_a_small_store_is_watched(quick: Path) -> None:
    tree = quick / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"a few bytes")
    with make_store(quick / "store") as store:
        record(store, tree)
    names = [name for name in objects(store) if name != layout.SETTINGS]
    missed = [
        (name, position)
        for name in names
        for position in range(path_of(store, name).stat().st_size)
        if _survives_flip(Path(store.root), name, position, position % 8)
    ]
    assert missed == []


def test_every_byte_of_a_pack_is_watched(copy: Store) -> None:
    """At the level of one pack, where it is quick enough for all of them."""
    pack_id = min(copy.packs(), key=lambda pack: path_of(copy, layout.pack(pack)).stat().st_size)
    path = path_of(copy, layout.pack(pack_id))
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position, position % 8)
        checked = packs.check_pack(copy, pack_id)
        assert checked.faults, position
        path.write_bytes(whole)
    assert packs.check_pack(copy, pack_id).is_whole


def test_settings_that_do_not_parse_are_refused(copy: Store) -> None:
    path_of(copy, layout.SETTINGS).write_bytes(b"{")
    with pytest.raises(ChunkstoreError):
        Store(copy.root)


# Cut short, grown, gone


@pytest.mark.parametrize(
    "cut",
    [
        lambda data: data[:0],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "one byte less", "half", "one byte more", "zeros"],
)
def test_every_object_of_another_length_is_found(
    copy: Store, cut: Callable[[bytes], bytes]
) -> None:
    missed = []
    for name in objects(copy):
        path = path_of(copy, name)
        before = path.read_bytes()
        path.write_bytes(cut(before))
        if not is_found(Path(copy.root)):
            missed.append(name)
        path.write_bytes(before)
    # White space is free in the settings, and their last byte is a newline.
    assert set(missed) <= {layout.SETTINGS}


def test_every_missing_object_is_found_by_name(copy: Store) -> None:
    for name in objects(copy):
        if name == layout.SETTINGS or name.endswith(".torrent"):
            continue
        path = path_of(copy, name)
        before = path.read_bytes()
        path.unlink()
        found = by_name(look(copy.root))
        assert name in found, name
        assert "missing" in found[name].what
        path.write_bytes(before)


def test_a_store_without_torrents_is_sound(copy: Store) -> None:
    torrents = [name for name in objects(copy) if name.endswith(".torrent")]
    assert len(torrents) == len(list(copy.packs()))
    for name in torrents:
        path_of(copy, name).unlink()
    assert verify_store(copy).problems == ()


def test_a_torrent_of_other_bytes_is_found(copy: Store) -> None:
    pack_id = next(copy.packs())
    other = torrent.make(pack_id, 5, [b"other"])
    path_of(copy, layout.torrent(pack_id)).write_bytes(other.encode())
    found = by_name(verify_store(copy))
    assert list(found) == [layout.torrent(pack_id)]
    assert not found[layout.torrent(pack_id)].affected


def test_the_index_of_a_missing_pack_tells_what_was_in_it(copy: Store) -> None:
    _, digests = _entry(copy, "web", b"big")
    pack_id = copy.places(digests)[digests[0]].frame.pack
    path_of(copy, layout.pack(pack_id)).unlink()
    found = by_name(verify_store(copy))
    assert f"{_labels(copy, 'db')[0]} big" in found[layout.pack(pack_id)].affected
    assert not any(name.startswith("versions/") for name in found)


def test_a_pack_missing_with_its_index_is_named_by_the_hints(copy: Store) -> None:
    pack_id = copy.locate(copy.ref("db").tags[0].version)[0].pack
    path_of(copy, layout.pack(pack_id)).unlink()
    path_of(copy, layout.index(pack_id)).unlink()
    found = by_name(verify_store(copy))
    assert found[layout.pack(pack_id)].what == "is missing"
    assert any(name.startswith("versions/") for name in found)


def test_objects_in_each_others_place_are_found(copy: Store) -> None:
    names = objects(copy)
    for prefix, suffix in (
        ("packs/", "pack"),
        ("packs/", "idx"),
        ("versions/", ""),
        ("locate/", ""),
    ):
        one, other = [n for n in names if n.startswith(prefix) and n.endswith(suffix)][:2]
        a, b = path_of(copy, one), path_of(copy, other)
        old = a.read_bytes(), b.read_bytes()
        a.write_bytes(old[1])
        b.write_bytes(old[0])
        assert {one, other} <= by_name(look(copy.root)).keys()
        a.write_bytes(old[0])
        b.write_bytes(old[1])


# What is affected


def spoil(store: Store, digest: bytes) -> bytes:
    """Overwrite the frame a chunk lies in; returns its pack."""
    frame = store.places([digest])[digest].frame
    with path_of(store, layout.pack(frame.pack)).open("r+b") as file:
        file.seek(frame.offset)
        file.write(bytes(frame.stored))
    return frame.pack


def _entry(store: Store, spec: str, path: bytes) -> tuple[Version, list[bytes]]:
    version = store.resolve(parse_spec(spec)).version
    with store.chunks() as chunks:
        entry = manifest.find(version.root, path, chunks.get)
        return version, [digest for digest, _ in chunklist.walk(entry, chunks.get)]


def _labels(store: Store, image: str) -> list[str]:
    line = store.history(store.ref(image).find("latest").version)  # type: ignore[union-attr]
    return [f"{image}:{found.id.hex()[:12]}" for found in line]


def test_a_damaged_chunk_names_every_version_and_path(copy: Store) -> None:
    _, digests = _entry(copy, "web", b"big")
    pack_id = spoil(copy, digests[100])
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    lines = [line for line in problem.affected if line.endswith(" big")]
    expected = [f"{label} big" for image in ("db", "web") for label in _labels(copy, image)]
    assert sorted(lines) == sorted(expected)
    assert problem.count == len(problem.affected) == len(set(problem.affected))
    assert "chunks are damaged" in problem.what


def test_a_chunk_of_one_version_affects_that_one(copy: Store) -> None:
    _, digests = _entry(copy, "web:first", b"etc/file07")
    pack_id = spoil(copy, digests[0])
    affected = by_name(verify_store(copy))[layout.pack(pack_id)].affected
    oldest = _labels(copy, "web")[-1]
    assert [line for line in affected if line.endswith("file07")] == [f"{oldest} etc/file07"]


def test_a_subtree_that_versions_share_is_damaged_in_all_of_them(copy: Store) -> None:
    path = b"share/small149"
    versions = [*copy.history(copy.ref("web").find("latest").version)]  # type: ignore[union-attr]
    with copy.chunks() as chunks:
        roots = [found.version.root for found in versions]
        nodes = [manifest.read_node(root, chunks.get(root.digest)) for root in roots]
    assert all(node.level for node in nodes)
    assert len({node.records[-1].digest for node in nodes}) == 1
    _, digests = _entry(copy, "web", path)
    pack_id = spoil(copy, digests[0])
    lines = by_name(verify_store(copy))[layout.pack(pack_id)].affected
    for image in ("web", "db"):
        for label in _labels(copy, image):
            assert f"{label} {path.decode()}" in lines


def test_a_damaged_node_names_what_it_held(copy: Store) -> None:
    version, _ = _entry(copy, "db", b"big")
    pack_id = spoil(copy, version.root.digest)
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    rest = version.root.entries - 1
    assert f"{_labels(copy, 'db')[0]} . and {rest} more from there on" in problem.affected
    assert problem.count >= version.root.entries


def test_a_damaged_list_node_names_its_file(copy: Store) -> None:
    version, _ = _entry(copy, "web", b"big")
    with copy.chunks() as chunks:
        entry = manifest.find(version.root, b"big", chunks.get)
        nodes = list(chunklist.nodes(entry, chunks.get))
    assert nodes
    pack_id = spoil(copy, nodes[0])
    lines = by_name(verify_store(copy))[layout.pack(pack_id)].affected
    assert f"{_labels(copy, 'web')[0]} big" in lines


def test_the_list_of_what_is_affected_is_capped_and_counted(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkstore.verify.findings.LISTED", 3)
    pack_id = copy.locate(copy.ref("web").tags[0].version)[-1].pack
    path_of(copy, layout.pack(pack_id)).unlink()
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    assert len(problem.affected) == 3 < problem.count


def test_a_chunk_that_is_good_elsewhere_affects_nothing(copy: Store, quick: Path) -> None:
    tree = quick / "same"
    tree.mkdir()
    version, _ = _entry(copy, "web", b"words")
    with copy.chunks() as chunks:
        entry = manifest.find(version.root, b"words", chunks.get)
        parts = list(chunks.stream(chunklist.walk(entry, chunks.get)))
        (tree / "words").write_bytes(b"".join(parts))
    with make_store(quick / "other") as other:
        record(other, tree)
    for name in objects(other):
        if name.startswith(layout.PACKS):
            shutil.copy(path_of(other, name), path_of(copy, name))
    _, digests = _entry(copy, "web", b"words")
    for pack_id in list(copy.packs()):
        index = copy.own_index(pack_id)
        frames = {number for digest, number, *_ in index.places() if digest == digests[3]}
        if frames and not path_of(other, layout.pack(pack_id)).exists():
            frame = index.frames[frames.pop()]
            flip(path_of(copy, layout.pack(pack_id)), frame.offset + frame.stored // 2, 1)
            break
    problem = by_name(look(copy.root))[layout.pack(pack_id)]
    assert "damaged" in problem.what
    assert not any(line.endswith(" words") for line in problem.affected)


def test_a_damaged_index_spoils_no_chunk(copy: Store) -> None:
    """The one in the pack and the one beside it stand in for each other."""
    for pack_id in copy.packs():
        own, beside = path_of(copy, layout.pack(pack_id)), path_of(copy, layout.index(pack_id))
        before = beside.read_bytes()
        flip(beside, 60, 1)
        problem = by_name(look(copy.root))
        assert list(problem) == [layout.index(pack_id)]
        assert problem[layout.index(pack_id)].affected == ()
        beside.write_bytes(before)
        before = own.read_bytes()
        flip(own, len(before) - 60, 1)
        problem = by_name(look(copy.root))
        assert list(problem) == [layout.pack(pack_id)]
        assert problem[layout.pack(pack_id)].affected == ()
        own.write_bytes(before)


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
    assert problem.affected == (_labels(copy, "web")[0],)


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
    _, digests = _entry(copy, "web", b"words")
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


# Trouble on the way


def test_a_bad_sector_is_damage(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, digests = _entry(copy, "web", b"big")
    frame = copy.places([digests[50]])[digests[50]].frame
    pack_id, position = frame.pack, frame.offset
    real = copy.backend.get

    def get(name: str, start: int, stop: int) -> bytes:
        if name == layout.pack(pack_id) and start <= position < stop:
            raise LocalError(f"can't read {name}: Input/output error", errno=errno.EIO)
        return real(name, start, stop)

    monkeypatch.setattr(copy.backend, "get", get)
    problem = by_name(verify_store(copy))[layout.pack(pack_id)]
    assert "Input/output error" in problem.what
    assert f"{_labels(copy, 'web')[0]} big" in problem.affected


def test_what_this_machine_refuses_is_no_damage(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = copy.backend.get

    def get(name: str, start: int, stop: int) -> bytes:
        if name.startswith(layout.PACKS):
            raise LocalError("too many open files", errno=errno.EMFILE)
        return real(name, start, stop)

    monkeypatch.setattr(copy.backend, "get", get)
    with pytest.raises(LocalError):
        verify_store(copy)


def _keep_busy(root: str, tree: Path, stop: threading.Event, errors: list[Exception]) -> None:
    """Commit and collect without pause, deleting at once."""
    number = 0
    try:
        while not stop.is_set():
            (tree / f"file{number % 7}").write_bytes(noise(20_000) + text(20_000))
            with Store(root) as store:
                record(store, tree, "busy")
                number += 1
                if number % 3 == 0:
                    gc.collect(store, keep=2, grace=0, now=time.time_ns())
            time.sleep(0.05)
    except Exception as error:
        errors.append(error)


def test_no_false_alarm_beside_commits_and_gc(
    copy: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store that is never at rest may need more looks than one that rests between commits.
    monkeypatch.setattr(verify_module, "_ATTEMPTS", 50)
    tree = quick / "busy"
    tree.mkdir()
    stop = threading.Event()
    errors: list[Exception] = []
    worker = threading.Thread(target=_keep_busy, args=(copy.root, tree, stop, errors))
    worker.start()
    try:
        for _ in range(12):
            assert look(copy.root).problems == ()
    finally:
        stop.set()
        worker.join()
    assert errors == []


def test_damage_in_a_store_that_never_rests_is_reported(
    copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, digests = _entry(copy, "web", b"big")
    pack_id = spoil(copy, digests[0])
    real = verify_module.look_around
    looks: list[int] = []

    def look_around(store: Store) -> object:
        looks.append(1)
        return real(store)._replace(doomed={"packs/x": len(looks)})

    monkeypatch.setattr(verify_module, "look_around", look_around)
    assert layout.pack(pack_id) in by_name(verify_store(copy))
    assert len(looks) < 10


def test_a_pack_that_comes_later_is_no_false_alarm(
    copy: Store, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that ends between the lists and the look at the versions."""
    tree = quick / "later"
    tree.mkdir()
    (tree / "file").write_bytes(noise(50_000))
    looks: list[int] = []
    real = verify_module.look_around

    def look_around(store: Store) -> object:
        found = real(store)
        if not looks:
            with Store(store.root) as other:
                record(other, tree, "db")
                gc.collect(other, keep=1, grace=0, now=time.time_ns())
        looks.append(1)
        return found

    monkeypatch.setattr(verify_module, "look_around", look_around)
    report = verify_store(copy)
    assert report.problems == ()
    assert len(looks) == 2

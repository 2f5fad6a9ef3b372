"""Import as a verb: versions, what is stored, what is left after a bad archive."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import stores, trees
from support.tarballs import END, block, file, folder, hardlink, pax, symlink
from support.variety import make_variety

from chunkstore.archive import sidecar
from chunkstore.archive.reading import tree
from chunkstore.archive.reading.archives import STANDARD_INPUT
from chunkstore.errors import ChunkstoreError, Corrupt, LocalError, NotFound, Usage
from chunkstore.export import export
from chunkstore.export.oci import export_image
from chunkstore.gc import collect
from chunkstore.importing import ImportReport, import_archives
from chunkstore.objects.documents import Version
from chunkstore.objects.names import parse_spec
from chunkstore.storage.store import Store
from chunkstore.verify import verify_store

BASE = (
    folder(mtime=1)
    + folder(b"./etc/", mtime=2)
    + file(b"./etc/hosts", b"localhost\n")
    + file(b"./etc/gone", b"gone\n")
    + hardlink(b"./etc/more", b"./etc/hosts")
    + folder(b"./var/")
    + file(b"./var/data", b"data" * 100_000)
    + symlink(b"./link", b"etc/hosts")
)
DIFF = folder(mtime=9) + file(b"./etc/hosts", b"localhost web\n") + file(b"./new", b"new\n") + END


@pytest.fixture
def store(place: Path) -> Store:
    return stores.make_store(place / "store")


def bring(store: Store, *archives: bytes | Path, **options: Any) -> list[ImportReport]:
    """Import from streams and paths."""
    given = [io.BytesIO(item) if isinstance(item, bytes) else str(item) for item in archives]
    image = options.pop("image", "web")
    return import_archives(store, image, given, now=time.time_ns(), **options)


def paths(store: Store, spec: str = "web") -> dict[str, Any]:
    version = store.resolve(parse_spec(spec)).version
    return {os.fsdecode(item.path): item for item in stores.entries_of(store, version.root)}


def test_the_first_archive_is_the_base(store: Store) -> None:
    [report] = bring(store, BASE + END, message="as it was", tags=["v1"])
    assert report.is_new
    assert report.archive.name == STANDARD_INPUT
    assert report.archive.members == 8
    assert report.changes == Counter(A=8)
    assert report.version.version.message == "as it was"
    assert {tag.name for tag in store.ref("web").tags} == {"base", "latest", "v1"}
    found = paths(store)
    assert list(found) == [
        "",
        "etc",
        "etc/gone",
        "etc/hosts",
        "etc/more",
        "link",
        "var",
        "var/data",
    ]
    assert found["etc/more"].link == b"etc/hosts"
    assert found["etc/more"].mtime == found["etc/hosts"].mtime
    assert verify_store(store).problems == ()


def test_each_further_archive_is_laid_over_the_one_before(store: Store, place: Path) -> None:
    diff = place / "image-diff.tar.gz"
    diff.write_bytes(gzip.compress(DIFF))
    (place / "image-diff.deletions").write_bytes(b"etc/gone\0./var/\0missing/too\0")
    base, second = bring(store, BASE + END, diff, tags=["now"])
    assert second.version.version.parent == base.version.id
    assert second.archive.deletions == 3
    assert second.changes == Counter({"A": 1, "D": 3, "M": 1, "m": 2})
    found = paths(store)
    assert list(found) == ["", "etc", "etc/hosts", "etc/more", "link", "new"]
    assert found[""].mtime == 9 * 10**9
    # The other name of what was replaced keeps the old content, and is no hardlink any more.
    assert found["etc/more"].link == b""
    assert found["etc/more"].size == len(b"localhost\n")
    tags = {tag.name: tag.version for tag in store.ref("web").tags}
    assert tags == {"base": base.version.id, "latest": second.version.id, "now": second.version.id}


def test_a_list_of_deletions_is_for_what_was_there_before(store: Store, place: Path) -> None:
    """Beside a first archive it would only take from nothing."""
    image = place / "image.tar"
    image.write_bytes(BASE + END)
    (place / "image.deletions").write_bytes(b"etc\0")
    [report] = bring(store, image)
    assert report.archive.deletions is None
    assert "etc/hosts" in paths(store)


@pytest.mark.parametrize(
    "listed", [b"/etc\0", b"..\0", b"a/../b\0", b"\0", b".\0", b"etc", b"etc\0var", b"x" * 20_000]
)
def test_lists_of_deletions_that_are_none(store: Store, place: Path, listed: bytes) -> None:
    diff = place / "d.tar"
    diff.write_bytes(DIFF)
    (place / "d.deletions").write_bytes(listed)
    with pytest.raises(Corrupt, match=r"d\.deletions"):
        bring(store, BASE + END, diff)
    assert store.images() == []


@pytest.mark.parametrize("end", ["tar.gz", "tgz", "tar.zst", "tar.xz", "tar"])
def test_where_the_list_is(end: str) -> None:
    assert sidecar.beside(f"/a.b/image-diff.{end}") == "/a.b/image-diff.deletions"
    assert sidecar.beside("/a/image-diff") == "/a/image-diff.deletions"


def test_over_a_version_of_the_store(store: Store) -> None:
    [first] = bring(store, BASE + END)
    [second] = bring(store, DIFF, base=store.resolve(parse_spec("web")))
    assert second.version.version.parent == first.version.id
    assert set(paths(store)) == {*paths(store, "web:base"), "new"}
    [other] = bring(store, DIFF, base=store.resolve(parse_spec("web:base")), image="other")
    assert other.version.version.root == second.version.version.root
    assert other.written.chunks == 0
    assert verify_store(store).problems == ()
    # Also what only the base names is there for whoever has this version alone.
    with store.chunks() as chunks:
        wanted = stores.chunks_of(store, other.version.version.root)
        packs = {use.pack for use in store.locate(other.version.id)}
        assert {place.frame.pack for place in store.places(wanted).values()} <= packs
        chunks.get_many(wanted)


def test_nothing_new_is_no_version(store: Store) -> None:
    [first] = bring(store, BASE + END)
    before = stores.listing(store)
    [again] = bring(store, BASE + END)
    assert not again.is_new
    assert again.version == first.version
    assert again.written.chunks == 0
    assert stores.listing(store) == before
    [tagged] = bring(store, BASE + END, tags=["same"])
    assert not tagged.is_new
    assert {tag.name for tag in store.ref("web").tags} == {"base", "latest", "same"}


def test_an_empty_diff_is_no_version(store: Store) -> None:
    first, second = bring(store, BASE + END, END)
    assert (first.is_new, second.is_new) == (True, False)
    assert second.archive.members == 0


def test_what_is_known_is_not_stored_again(store: Store) -> None:
    bring(store, BASE + END)
    more = BASE + file(b"./copy", b"data" * 100_000) + END
    [report] = bring(store, more)
    # The nodes of the manifest, and nothing of the content.
    assert report.written.chunks == 1
    assert report.changes == Counter({"A": 1})


def test_a_diff_is_written_for_nodes_one_version_behind(place: Path) -> None:
    store = stores.make_store(place / "store", chunker=None)
    old = bytearray(random.Random(5).randbytes(3_000_000))
    first = folder() + file(b"./lib", bytes(old)) + END
    for place_ in range(0, len(old), 30_000):
        old[place_] ^= 1
    one, two = bring(store, first, file(b"./lib", bytes(old)) + END)
    assert one.deltas is None
    assert two.deltas is not None
    assert two.deltas.stored < 0.2 * two.deltas.plain
    assert verify_store(store).problems == ()


def test_order_makes_no_difference(store: Store) -> None:
    """A manifest is sorted, members are not."""
    members = [file(b"./f%d" % number, b"%d" % number) for number in range(3000)]
    [one] = bring(store, folder() + b"".join(members) + END)
    [two] = bring(store, b"".join(reversed(members)) + folder() + END)
    assert not two.is_new
    assert one.version == two.version


BAD = {
    "cut short": BASE,
    "cut in a file": BASE[:3000],
    "damaged": BASE[:512] + b"x" + BASE[513:] + END,
    "out of the tree": BASE + file(b"../x") + END,
    "below a symlink": BASE + file(b"link/x") + END,
    "a hardlink to nothing": BASE + hardlink(b"x", b"y") + END,
    "a compressed archive cut short": gzip.compress(BASE + END)[:-3],
    "no archive": b"#!/bin/sh\n" * 1000,
    "nothing": b"",
    "no members": END,
    "more metadata than an entry holds": BASE
    + pax(*((b"SCHILY.xattr.user.%d" % i, bytes(60_000)) for i in range(10)))
    + file(b"x")
    + END,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_leaves_no_version(store: Store, name: str) -> None:
    with pytest.raises(Corrupt):
        bring(store, BAD[name])
    assert store.images() == []
    assert os.listdir(os.path.join(store.local, "spool")) == []
    if name in ("nothing", "no members"):
        return
    # Not even of the good ones before it.
    with pytest.raises(Corrupt):
        bring(store, BASE + END, BAD[name])
    assert store.images() == []
    bring(store, BASE + END)
    with pytest.raises(Corrupt):
        bring(store, DIFF, BAD[name], tags=["bad"])
    assert set(paths(store)) == set(paths(store, "web:base"))
    assert {tag.name for tag in store.ref("web").tags} == {"base", "latest"}
    assert os.listdir(os.path.join(store.local, "spool")) == []
    collect(store, now=time.time_ns(), grace=0)
    assert verify_store(store).problems == ()


def test_what_is_not_there(store: Store, place: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        bring(store, place / "missing.tar")
    (place / "folder").mkdir()
    with pytest.raises(Usage, match="commit"):
        bring(store, place / "folder")
    with pytest.raises(Usage):
        bring(store, BASE + END, image="no/image")
    assert store.images() == []


def test_a_full_store(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the chunks nor the table of paths fit; what fits is taken afterwards."""
    schema = tree._SCHEMA.replace("cache_size = -32768", "cache_size = -64")
    assert schema != tree._SCHEMA
    monkeypatch.setattr(tree, "_SCHEMA", schema)
    trees.mount_tmpfs(place / "small", "size=2m")
    store = stores.make_store(place / "small/store")
    try:
        big = BASE + b"".join(file(b"f%d" % i, os.urandom(1 << 20)) for i in range(8)) + END
        many = b"".join(file(b"n%d" % i + b"x" * 90) for i in range(30_000)) + END
        for data in (big, many):
            with pytest.raises(LocalError):
                bring(store, data)
            assert store.images() == []
        bring(store, BASE + END)
    finally:
        store.close()
        trees.unmount(place / "small")


@trees.needs_root
def test_a_fixed_point(store: Store, place: Path, variety: Path) -> None:
    """Import, export, import: the same manifest, whatever was in the tree, in every form."""
    committed = stores.record(store, variety, "tree").version.version
    for form in ("tar", "tar.gz", "tar.zst"):
        image = place / f"image.{form}"
        export(store, committed, str(image), form=form)
        [report] = bring(store, image, image=f"from-{form[4:]}x")
        again = place / f"again.{form}"
        export(store, report.version.version, str(again), form=form)
        assert again.read_bytes() == image.read_bytes()
        [second] = bring(store, again, image="again")
        assert second.version.version.root == report.version.version.root
    # And it is what was committed, but for flags that no archive has a word for.
    old = stores.entries_of(store, committed.root)
    new = stores.entries_of(store, report.version.version.root)
    assert [item._replace(flags=0) for item in old] == [item._replace(flags=0) for item in new]


@pytest.fixture(scope="module")
def edited() -> Iterator[tuple[Store, Version, Version]]:
    """A store with two versions of a tree with everything in it."""
    place = Path(tempfile.mkdtemp(prefix="imgstore-test-"))
    store = stores.make_store(place / "store")
    work = place / "tree"
    make_variety(work)
    first = stores.record(store, work, "tree").version.version
    script = """
        rm -r plain names/*d* links/two; mkdir plain; echo x > plain/y; ln -sf /nowhere links/linked
        rm -r specials/fifo; mkdir specials/fifo; echo more >> 'sparse/odd length'; touch -h links/*
    """
    subprocess.run(script, shell=True, cwd=work, check=False, stderr=subprocess.DEVNULL)
    second = stores.record(store, work, "tree").version.version
    yield store, first, second
    store.close()
    trees.remove_tree(place)


@trees.needs_root
@pytest.mark.parametrize("deletions", ["sidecar", "gnu", "oci"])
def test_a_diff_of_our_own(
    edited: tuple[Store, Version, Version], place: Path, deletions: str
) -> None:
    """The base and the diff become the two versions they were made of."""
    store, first, second = edited
    image, diff = place / "image.tar.gz", place / "image-diff.tar.gz"
    export(store, first, str(image))
    export(store, second, str(diff), base=first, deletions=deletions)
    one, two = bring(store, image, diff, image=deletions)
    assert without_flags(store, one.version.version) == without_flags(store, first)
    assert without_flags(store, two.version.version) == without_flags(store, second)
    assert bool(two.archive.deletions) == (deletions == "sidecar")


@trees.needs_root
@pytest.mark.parametrize("name", ["image.tar", "layout"])
def test_an_image_of_our_own(
    edited: tuple[Store, Version, Version], place: Path, name: str
) -> None:
    store, first, second = edited
    export_image(store, second, str(place / name), base=first, name="web")
    [report] = bring(store, place / name, image=f"oci-{name}")
    assert report.archive.layers == 2
    assert without_flags(store, report.version.version) == without_flags(store, second)


def without_flags(store: Store, version: Version) -> list[Any]:
    return [item._replace(flags=0) for item in stores.entries_of(store, version.root)]


def test_names_of_a_store_left_by_a_killed_import(store: Store) -> None:
    """What a killed import leaves in the spool is swept by the next writer."""
    leftover = Path(store.local, "spool", "tree-1-1-aa")
    leftover.write_bytes(b"x" * 1000)
    bring(store, BASE + END)
    assert not leftover.exists()


@pytest.mark.parametrize("message", ["x" * 100_000])
def test_messages_are_checked_first(store: Store, message: str) -> None:
    with pytest.raises(Usage):
        bring(store, BASE + END, message=message)


def test_errors_are_declared(store: Store) -> None:
    """Every error of an archive is one, and its message one line."""
    for data in BAD.values():
        with pytest.raises(ChunkstoreError) as caught:
            bring(store, data)
        assert "\n" not in str(caught.value)
        assert STANDARD_INPUT in str(caught.value)
    with pytest.raises(NotFound):
        store.resolve(parse_spec("web"))


def test_devices_and_fifos(store: Store) -> None:
    data = (
        folder() + block(b"null", flavour=b"3", major=1, minor=3) + block(b"f", flavour=b"6") + END
    )
    bring(store, data)
    assert list(paths(store)) == ["", "f", "null"]

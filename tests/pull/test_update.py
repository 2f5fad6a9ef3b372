"""Updates: what moves, what is fetched for it, what stays, and what is remembered."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from support import stores, trees
from support.forge import Forge
from support.lines import Line, fill
from support.stores import bring, record, settle
from support.variety import make_variety

from chunkstore.errors import Untrusted
from chunkstore.pull import remembered


def test_an_update_fetches_what_the_old_tree_has_not(line: Line) -> None:
    make_variety(line.tree)
    old = line.commit()
    line.pull()
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(line.tree)], check=False)
    large = bytearray((line.tree / "plain/large").read_bytes())
    large[5_000_000:5_000_000] = b"inserted"
    (line.tree / "plain/large").write_bytes(large)
    (line.tree / "plain/new").write_bytes(trees.pseudo_random("new", 100_000))
    shutil.rmtree(line.tree / "plain/many")
    os.rename(line.tree / "names", line.tree / "renamed")
    new = line.commit()
    report, recorder = line.pull()
    line.same()
    fetched = recorder.fetched(line.store)
    assert set(fetched) & old == set(), "the second pull fetches no chunk that the first had"
    assert report.fetched_chunks == len(new - old)
    assert set(fetched) >= new - old
    assert len(fetched) == len(set(fetched)), "nothing is fetched twice"
    assert report.local_chunks > 1000
    assert report.needed_chunks == report.local_chunks + report.fetched_chunks
    assert report.requests < 30
    assert not report.is_first


def test_a_rename_fetches_nothing(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    os.rename(line.tree / "a", line.tree / "z")
    (line.tree / "moved").mkdir()
    os.rename(line.tree / "top", line.tree / "moved/here")
    line.commit()
    report, recorder = line.pull()
    line.same()
    assert (report.fetched_chunks, report.fetched_bytes) == (0, 0)
    content = stores.chunks_of(line.store, line.store.version(report.version).root)
    assert not content & set(recorder.fetched(line.store))
    assert report.received < 20_000


def test_nothing_to_do_is_one_request(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    before = trees.facts(line.node)
    settle()
    report, recorder = line.pull()
    assert not report.is_changed
    assert report.requests == 1
    assert [name for name, _, _ in recorder.ranges] == ["images/web/ref"]
    assert trees.facts(line.node) == before


def test_back_and_forth(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    first = line.place / "first"
    stores.restore(line.store, "web", first)
    shutil.rmtree(line.tree / "a")
    (line.tree / "b/new").write_bytes(b"new")
    line.commit()
    line.pull()
    line.same()
    line.pull("web:base")
    trees.assert_same(first, line.node)
    line.pull("web~1")
    trees.assert_same(first, line.node)
    line.pull()
    line.same()


def test_another_image_takes_the_place_of_the_first(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    other = line.place / "other"
    other.mkdir()
    (other / "only").write_bytes((line.tree / "top").read_bytes())
    record(line.store, other, "db")
    report, _ = line.pull("db")
    trees.assert_same(other, line.node)
    assert report.fetched_chunks == 0


def test_the_source_is_remembered(line: Line) -> None:
    from chunkstore.objects.names import parse_spec
    from chunkstore.pull import pull

    line.commit()
    assert remembered(str(line.node)) is None
    line.pull()
    pull(
        stores.in_memory(line.store),
        [parse_spec("web")],
        str(line.node),
        location="http://head/",
        options=stores.trusting(),
    )
    assert remembered(str(line.node)) == ("http://head/", "web:latest")


def test_what_the_image_does_not_know_stays(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    (line.node / "mine").write_bytes(b"mine")
    (line.node / "b/mine").write_bytes(b"mine too")
    shutil.rmtree(line.tree / "b")
    line.commit()
    report, _ = line.pull()
    assert (line.node / "mine").read_bytes() == b"mine"
    assert (line.node / "b/mine").read_bytes() == b"mine too"
    assert report.saved == []
    assert sorted(os.listdir(line.node / "b")) == ["mine"]


def test_what_is_in_the_way_is_saved(line: Line) -> None:
    (line.tree / "folder/inner").mkdir(parents=True)
    (line.tree / "folder/known").write_bytes(b"known")
    line.commit()
    line.pull()
    (line.node / "folder/inner/mine").write_bytes(b"mine")
    (line.node / "added").write_bytes(b"mine as well")
    (line.node / "added directory").write_bytes(b"and this")
    (line.node / "added over directory/below").mkdir(parents=True)
    shutil.rmtree(line.tree / "folder")
    (line.tree / "folder").write_bytes(b"a file now")
    (line.tree / "added").write_bytes(b"the image's")
    (line.tree / "added directory").mkdir()
    (line.tree / "added over directory").write_bytes(b"the image's")
    line.commit()
    report, _ = line.pull()
    line.same()
    saved = {path: line.node / os.fsdecode(place) for path, place in report.saved}
    assert saved.keys() == {
        *(b"folder", b"added", b"added directory"),
        b"added over directory",
    }
    assert (saved[b"folder"] / "inner/mine").read_bytes() == b"mine"
    assert not (saved[b"folder"] / "known").exists()
    assert saved[b"added"].read_bytes() == b"mine as well"
    assert saved[b"added directory"].read_bytes() == b"and this"
    assert (saved[b"added over directory"] / "below").is_dir()
    # Again, to the same version: what was saved before is not lost.
    line.pull("web:base")
    (line.node / "folder/more").write_bytes(b"more")
    report, _ = line.pull()
    line.same()
    assert [path for path, _ in report.saved] == [b"folder"]
    assert (line.node / os.fsdecode(report.saved[0][1]) / "more").read_bytes() == b"more"
    assert (saved[b"folder"] / "inner/mine").read_bytes() == b"mine"


def test_a_changed_file_is_no_source_of_chunks(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    with open(line.node / "top", "r+b") as file:
        file.write(b"drifted")
    (line.node / "b/3").unlink()
    os.rename(line.tree / "top", line.tree / "renamed")
    os.rename(line.tree / "b/3", line.tree / "a/3")
    line.commit()
    report, _ = line.pull()
    line.same()
    assert 0 < report.fetched_chunks < report.needed_chunks


def test_a_tree_of_another_store_under_the_same_name(line: Line) -> None:
    fill(line.tree)
    line.commit()
    line.pull()
    other = Forge()
    other.publish(other.directory(b""))
    with pytest.raises(Untrusted, match="belongs to another store"):
        bring(other.backend, "web", line.node)
    line.same()

"""Archives kept in a directory: right for `sha256sum -c` and tar, or it is noticed."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from support import stores, strace
from support.program import Program
from support.strace import BEFORE, Fault, needs_strace

from chunkstore import fsio, tags
from chunkstore.errors import Conflict, Corrupt, NotFound, Usage
from chunkstore.export import export
from chunkstore.objects.names import parse_spec
from chunkstore.publish import PublishReport, publish
from chunkstore.publish.folder import Folder, Record
from chunkstore.publish.rebase import RebaseReport, rebase
from chunkstore.storage.store import Store

IMAGE, DIFF, DELETIONS = "image.tar.gz", "image-diff.tar.gz", "image-diff.deletions"
ARCHIVES = [IMAGE, DIFF, DELETIONS]
FILES = sorted([*ARCHIVES, "image.json", "SHA256SUMS"])


class Site:
    """A tree, its store, and the directory it is published in."""

    def __init__(self, place: Path) -> None:
        self.tree, self.www = place / "tree", place / "www"
        (self.tree / "etc").mkdir(parents=True)
        (self.tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (self.tree / "etc/motd").write_text("welcome\n")
        (self.tree / "data").write_bytes(random.Random(1).randbytes(50_000))
        self.edits = 0
        self.store: Store = stores.make_store(place / "store")
        self.commit()

    def commit(self) -> None:
        stores.settle()
        stores.record(self.store, self.tree)

    def edit(self) -> None:
        """A change that needs the list of deletions and the diff, both."""
        self.edits += 1
        (self.tree / "etc/motd").unlink(missing_ok=True)
        (self.tree / f"etc/new-{self.edits - 1}").unlink(missing_ok=True)
        (self.tree / f"etc/new-{self.edits}").write_text("new\n")
        hosts = self.tree / "etc/hosts"
        if hosts.is_dir():
            shutil.rmtree(hosts)
            hosts.symlink_to("hosts.real")
        else:
            hosts.unlink()
            hosts.mkdir()
            (hosts / "file").write_text("in a directory now\n")
        self.commit()

    def publish(self, level: int | None = None) -> PublishReport:
        return publish(self.store, "web", str(self.www), level=level)

    def rebase(self, when_over: float | None = None) -> RebaseReport:
        return rebase(self.store, "web", when_over=when_over, now=time.time_ns())

    def exported(self, spec: str, base: str | None) -> bytes:
        version = self.store.resolve(parse_spec(spec)).version
        below = None if base is None else self.store.resolve(parse_spec(base)).version
        path = self.www.parent / "exported.tar.gz"
        export(self.store, version, str(path), base=below, deletions="none")
        return path.read_bytes()


@pytest.fixture
def site(place: Path) -> Site:
    return Site(place)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_sound(folder: Path) -> bool:
    """What somebody says who checks."""
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, check=False
    )
    return done.returncode == 0


def unpack(www: Path, into: Path) -> None:
    into.mkdir()
    subprocess.run(["tar", "-xpf", www / IMAGE, "-C", into], check=True)
    line = f"xargs -0 -r rm -rf -- < {www / DELETIONS}"
    subprocess.run(["sh", "-c", line], cwd=into, check=True)
    subprocess.run(["tar", "-xpf", www / DIFF, "-C", into], check=True)


def same(one: Path, other: Path) -> bool:
    done = subprocess.run(
        ["rsync", "-aHnic", "--delete", f"{one}/", f"{other}/"], capture_output=True, check=True
    )
    return done.stdout == b""


def test_the_first_time_the_diff_is_empty(site: Site, place: Path) -> None:
    report = site.publish()

    assert names(site.www) == FILES
    assert sorted(report.written) == FILES
    assert (site.www / IMAGE).read_bytes() == site.exported("web", None)
    with tarfile.open(site.www / DIFF) as archive:
        assert archive.getnames() == []
    assert (site.www / DELETIONS).read_bytes() == b""
    assert is_sound(site.www)
    unpack(site.www, place / "out")
    assert same(site.tree, place / "out")


def test_after_a_commit_only_the_diff_is_written(site: Site, place: Path) -> None:
    site.publish()
    before = stamps(site.www)
    site.edit()

    report = site.publish()

    assert IMAGE not in report.written
    assert stamps(site.www)[IMAGE] == before[IMAGE]
    assert (site.www / DIFF).read_bytes() == site.exported("web", "web:base")
    assert is_sound(site.www)
    unpack(site.www, place / "out")
    assert same(site.tree, place / "out")
    record = json.loads((site.www / "image.json").read_bytes())
    assert record["base"] == site.store.resolve(parse_spec("web:base")).id.hex()
    assert record["version"] == site.store.resolve(parse_spec("web")).id.hex()
    for name in ARCHIVES:
        data = (site.www / name).read_bytes()
        assert record["files"][name] == {"size": len(data), "sha256": sha256(data).hexdigest()}


def test_nothing_is_written_when_nothing_changed(site: Site) -> None:
    site.edit()
    site.publish()
    before = stamps(site.www)
    folder = site.www.stat().st_mtime_ns

    report = site.publish()

    assert report.written == []
    assert stamps(site.www) == before
    assert site.www.stat().st_mtime_ns == folder


def test_a_new_base_and_a_new_level_write_everything(site: Site) -> None:
    site.edit()
    site.publish()

    site.rebase()
    assert sorted(site.publish().written) == FILES
    assert (site.www / IMAGE).read_bytes() == site.exported("web", None)
    assert sorted(site.publish(level=1).written) == FILES
    assert site.publish(level=1).written == []
    assert is_sound(site.www)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_what_is_missing_or_cut_short_comes_back(site: Site, name: str, harm: str) -> None:
    site.edit()
    site.publish()
    wanted = contents(site.www)
    if harm == "gone":
        (site.www / name).unlink()
    else:
        (site.www / name).write_bytes(wanted[name][:-1])

    report = site.publish()

    assert name in report.written
    assert contents(site.www) == wanted


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"files": 1}', b"[" * 100_000, b"\xff"])
def test_a_record_of_somebody_else_is_none(site: Site, record: bytes) -> None:
    site.publish()
    (site.www / "image.json").write_bytes(record)
    assert sorted(set(site.publish().written)) == [n for n in FILES if n != "SHA256SUMS"]
    assert is_sound(site.www)


def test_another_image_is_not_written_over(site: Site) -> None:
    site.publish()
    before = contents(site.www)
    stores.record(site.store, site.tree, "db")
    with pytest.raises(Usage, match="holds the image 'web'"):
        publish(site.store, "db", str(site.www))
    assert contents(site.www) == before


def test_an_image_without_a_base(site: Site) -> None:
    tags.untag(site.store, "web", "base", now=time.time_ns())
    with pytest.raises(NotFound, match="base"):
        site.publish()
    assert not site.www.exists()


def test_one_publisher_at_a_time(site: Site) -> None:
    site.publish()
    site.edit()
    before = contents(site.www)
    descriptor = os.open(site.www, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another publish"):
            site.publish()
    finally:
        os.close(descriptor)
    assert contents(site.www) == before


def test_a_failure_leaves_what_was_there(site: Site) -> None:
    site.publish()
    before = contents(site.www)
    site.edit()
    site.rebase()
    for pack in Path(site.store.root, "packs").glob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[40 : len(data) // 3] = bytes(len(data) // 3 - 40)
        pack.chmod(0o644)
        pack.write_bytes(data)
    with pytest.raises(Corrupt):
        site.publish()
    assert contents(site.www) == before


def test_files_of_others_stay(site: Site) -> None:
    site.www.mkdir()
    for name in ("index.html", ".new-1-1-00000000"):
        (site.www / name).write_text("mine")
    (site.www / ".publish-1-1-00000000").write_text("left by a killed one")
    site.publish()
    assert names(site.www) == sorted([*FILES, "index.html", ".new-1-1-00000000"])


def test_a_record_does_not_outlive_what_it_speaks_of(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one size can't be told apart: after a failure between them none is known."""

    def fill(folder: Folder, letter: bytes) -> None:
        for name in ARCHIVES:
            folder.draft(name, lambda sink: sink.write(letter * 100))

    old, new = (Record("web", base, base, 3) for base in ("a", "b"))
    with Folder(str(place / "www")) as folder:
        fill(folder, b"a")
        folder.conclude(old, {})
    with Folder(str(place / "www")) as folder:
        assert sorted(folder.right(old)) == sorted(ARCHIVES)

    real = fsio.move_durably

    def moves_one(source: str, path: str) -> None:
        real(source, path)
        if path.endswith(IMAGE):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(fsio, "move_durably", moves_one)
    with Folder(str(place / "www")) as folder:
        fill(folder, b"b")
        with pytest.raises(OSError, match="Input"):
            folder.conclude(new, {})
    assert (place / "www" / IMAGE).read_bytes() == b"b" * 100
    with Folder(str(place / "www")) as folder:
        assert folder.right(old) == {}
        assert folder.right(new) == {}


def test_rebase_when_it_pays(site: Site) -> None:
    first = site.store.resolve(parse_spec("web:base")).id
    assert not site.rebase().moved
    site.edit()

    stays = site.rebase(when_over=50)
    assert not stays.moved
    assert stays.share is not None
    assert 0 < stays.share.percent < 50
    assert site.store.resolve(parse_spec("web:base")).id == first

    (site.tree / "data").write_bytes(random.Random(2).randbytes(50_000))
    site.commit()
    moved = site.rebase(when_over=50)
    assert moved.moved
    assert moved.before == first
    assert moved.share is not None
    assert 50 < moved.share.percent <= 100
    assert moved.base == site.store.resolve(parse_spec("web")).id
    assert site.store.resolve(parse_spec("web:base")).id == moved.base


def test_rebase_gives_an_image_its_base_back(site: Site) -> None:
    tags.untag(site.store, "web", "base", now=time.time_ns())
    report = site.rebase(when_over=50)
    assert report.moved
    assert report.before is None


def test_rebase_of_nothing(site: Site) -> None:
    with pytest.raises(NotFound):
        rebase(site.store, "nope", now=0)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with Program() as runs:
        yield runs


@needs_strace
def test_killed_anywhere(site: Site, place: Path, program: Program) -> None:
    """A new base, and a diff over it: at each call that changes the directory it is killed."""
    site.edit()
    site.publish()
    old = contents(site.www)
    site.rebase()
    site.edit()
    arguments = ["--store", site.store.root, "publish", "web", place / "trial"]

    def prepared() -> Path:
        shutil.rmtree(place / "trial", ignore_errors=True)
        shutil.copytree(site.www, place / "trial")
        return place / "trial"

    trial = prepared()
    ended, lines = strace.record(program, *arguments)
    assert ended.code == 0, ended.err
    new = contents(trial)
    assert all(old[name] != new[name] for name in FILES)
    empty = site.exported("web", "web")
    calls = strace.changing_calls(lines, trial)
    struck = 0
    for call in calls:
        trial = prepared()
        outcome = strace.trial(program, Fault(BEFORE, call), *arguments)
        struck += outcome.ended.killed
        found = contents(trial)
        for name in ARCHIVES:
            assert found[name] in (old[name], new[name], empty, b""), f"{name} {call}"
        # Who checks is never misled, and who does not gets no diff over another base.
        if is_sound(trial):
            assert {name: found[name] for name in FILES} in (old, new), str(call)
        for state, other in ((old, new), (new, old)):
            if found[IMAGE] == state[IMAGE]:
                assert found[DIFF] != other[DIFF], str(call)
                assert found[DELETIONS] != other[DELETIONS], str(call)
        if "image.json" in found:
            assert found["image.json"] in (old["image.json"], new["image.json"])
        publish(site.store, "web", str(trial))
        assert contents(trial) == new, str(call)
    assert struck >= 0.9 * len(calls)

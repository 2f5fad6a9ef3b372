"""The difference from a tar archive that imgstore never saw: `--base image.tar.gz`."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import stores
from support.scenarios import SCENARIOS, plain, settled, write

from chunkstore.errors import Corrupt, LocalError, NotFound
from chunkstore.export import export, tarball
from chunkstore.export.tarball import open_tarball
from chunkstore.objects.names import parse_spec

if TYPE_CHECKING:
    from tests.archive.conftest import Lab

PYTHON_WRITER = """
import sys, tarfile
with tarfile.open(sys.argv[1], "w", format=getattr(tarfile, sys.argv[3])) as archive:
    archive.add(sys.argv[2], ".")
"""
TAR = ["tar", "--numeric-owner", "-cf", "{archive}", "-C", "{tree}"]
WRITERS = {
    # As install scripts have been given them for twenty years.
    "gnu": [*TAR, "-S", "."],
    "old gnu": [*TAR, "--format=oldgnu", "."],
    "ustar": [*TAR, "--format=ustar", "."],
    "posix": [*TAR, "--format=posix", "--xattrs", "--acls", "."],
    "without dots": ["sh", "-c", "cd {tree} && tar --numeric-owner -cf {archive} -- *"],
    "unsorted": [
        "sh",
        "-c",
        "cd {tree} && find . | sort -R | tar --no-recursion -cf {archive} -T -",
    ],
    "bsdtar": ["bsdtar", "--numeric-owner", "-cf", "{archive}", "-C", "{tree}", "."],
    "python": [sys.executable, "-c", PYTHON_WRITER, "{archive}", "{tree}", "GNU_FORMAT"],
    "python pax": [sys.executable, "-c", PYTHON_WRITER, "{archive}", "{tree}", "PAX_FORMAT"],
}


class Base:
    """An archive of a tree, and a store with what became of the tree."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.old, self.new = lab.tree("old"), lab.path / "new"
        self.store = stores.make_store(lab.path / "store")
        self.archive = lab.path / "image.tar"

    def write(self, writer: str = "gnu") -> None:
        command = [word.format(archive=self.archive, tree=self.old) for word in WRITERS[writer]]
        subprocess.run(command, check=True)

    def record(self) -> None:
        stores.record(self.store, self.new)

    def export(self) -> list[str]:
        """The members of the difference."""
        version = self.store.resolve(parse_spec("web")).version
        with open_tarball(self.store, str(self.archive)) as base:
            export(self.store, version, str(self.lab.path / "diff.tar"), base=base, form="tar")
        with tarfile.open(self.lab.path / "diff.tar") as opened:
            return sorted(set(opened.getnames()))

    @property
    def kept(self) -> list[Path]:
        """The indexes in the store."""
        folder = Path(self.store.local, "archives")
        return [path for path in folder.iterdir() if path.name != "lock"]


@pytest.fixture
def base(lab: Lab) -> Base:
    """The small tree, archived and recorded as it is, long enough ago."""
    made = Base(lab)
    for path in ("a", "etc/hosts", "etc/passwd"):
        write(made.old / path, f"{path}\n")
    settled(made.old)
    subprocess.run(["cp", "-a", made.old, made.new], check=True)
    made.write()
    made.record()
    stores.settle()
    return made


@pytest.fixture
def unpackings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that were unpacked."""
    found: list[str] = []
    real = tarball.unpack

    def noted(reader: tarball.TarReader, *arguments: object, **options: object) -> int:
        found.append(reader._source.name)
        return real(reader, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tarball, "unpack", noted)
    return found


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_new_tree_results(lab: Lab, name: str) -> None:
    made = Base(lab)
    before, edit = SCENARIOS[name]
    before(made.old)
    settled(made.old)
    subprocess.run(["cp", "-a", "--preserve=all", made.old, made.new], check=True)
    made.write()
    edit(made.new)
    made.record()
    made.export()
    into = lab.tree("into")
    lab.unpack("gnu", made.archive.read_bytes(), into)
    lab.remove((lab.path / "diff.deletions").read_bytes(), into)
    lab.unpack("gnu", (lab.path / "diff.tar").read_bytes(), into)
    seen, wanted = lab.see(into), lab.see(made.new)
    assert list(seen) == list(wanted)
    for path, item in wanted.items():
        assert seen[path] == item, path


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("writer", WRITERS)
def test_only_what_changed_differs(lab: Lab, writer: str) -> None:
    """Whatever wrote the archive, and whatever it does not tell."""
    made = Base(lab)
    if shutil.which(WRITERS[writer][0]) is None:
        pytest.skip(f"{WRITERS[writer][0]} is not installed")
    plain(made.old)
    os.link(made.old / "etc/hosts", made.old / "usr/lib/x/0-hosts")
    (made.old / "large").write_bytes(os.urandom(500_000))
    for number, path in enumerate(sorted(made.old.rglob("*"))):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(made.old, ns=(0, 1_600_000_000_987_654_321))
    made.write(writer)
    subprocess.run(["cp", "-a", "--preserve=all", made.old, made.new], check=True)
    for path in sorted(made.new.rglob("*")):
        if path.is_file() and not path.is_symlink():
            os.setxattr(path, "security.selinux", b"system_u:object_r:etc_t:s0\0")
    status = (made.new / "etc").stat()
    write(made.new / "etc/passwd", "changed\n")
    os.utime(made.new / "etc", ns=(0, status.st_mtime_ns))
    made.record()
    assert made.export() == [".", "./etc", "./etc/passwd"]


@pytest.mark.usefixtures("root")
def test_attributes_that_an_archive_does_not_hold_are_added(lab: Lab) -> None:
    made = Base(lab)
    plain(made.old)
    settled(made.old)
    os.setxattr(made.old / "a", "user.note", b"value")
    made.write("gnu")
    subprocess.run(["cp", "-a", "--preserve=all", made.old, made.new], check=True)
    made.record()
    assert made.export() == [".", "./a"]
    made.write("posix")
    assert made.export() == []


@pytest.mark.parametrize("compressor", ["gzip", "zstd", "xz"])
def test_a_compressed_archive(base: Base, compressor: str) -> None:
    if shutil.which(compressor) is None:
        pytest.skip(f"{compressor} is not installed")
    packed = subprocess.run([compressor, "-c", base.archive], check=True, capture_output=True)
    base.archive.write_bytes(packed.stdout)
    assert base.export() == []


def test_the_second_difference_unpacks_nothing(base: Base, unpackings: list[str]) -> None:
    assert base.export() == []
    assert base.export() == []
    write(base.new / "etc/hosts", "changed\n")
    stores.settle()
    base.record()
    assert "./etc/hosts" in base.export()
    assert unpackings == [str(base.archive)]
    assert len(base.kept) == 1


def test_an_archive_that_changed_is_read_again(base: Base, unpackings: list[str]) -> None:
    assert base.export() == []
    write(base.old / "etc/hosts", "other\n")
    base.write()
    stores.settle()
    assert "./etc/hosts" in base.export()
    # Of the same size and time, and with another ctime.
    status = base.archive.stat()
    data = base.archive.read_bytes()
    base.archive.write_bytes(data.replace(b"etc/passwd\n", b"etc/qasswd\n"))
    os.utime(base.archive, ns=(status.st_atime_ns, status.st_mtime_ns))
    stores.settle()
    assert "./etc/passwd" in base.export()
    assert len(unpackings) == 3


def test_an_archive_that_may_change_unseen_leaves_no_index(
    base: Base, unpackings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = base.archive.stat().st_ctime_ns + 1
    monkeypatch.setattr(tarball.time, "time_ns", lambda: now)
    assert base.export() == []
    assert base.kept == []
    assert base.export() == []
    assert len(unpackings) == 2


def test_an_archive_that_changes_while_it_is_read(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tarball.unpack

    def disturbed(*arguments: object, **options: object) -> int:
        os.utime(base.archive)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tarball, "unpack", disturbed)
    with pytest.raises(LocalError, match="changed while it was read"):
        base.export()
    assert base.kept == []


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "foreign"])
def test_a_damaged_index_is_made_anew(base: Base, unpackings: list[str], harm: str) -> None:
    base.export()
    [path] = base.kept
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": bytes(data[:-1]), "empty": b"", "foreign": b"x" * 100}.get(harm, data))
    assert base.export() == []
    assert len(unpackings) == 2
    assert base.export() == []
    assert len(unpackings) == 2


def test_what_is_no_archive(base: Base) -> None:
    base.archive.write_bytes(b"not a tar archive" * 100)
    with pytest.raises(Corrupt, match=r"image\.tar"):
        base.export()
    assert base.kept == []
    base.archive.unlink()
    with pytest.raises(NotFound, match=r"image\.tar"):
        base.export()


def test_old_indexes_and_what_a_killed_reader_left_go(base: Base) -> None:
    base.export()
    folder = Path(base.store.local, "archives")
    for number in range(20):
        (folder / f"{number:064x}").write_bytes(b"old")
        os.utime(folder / f"{number:064x}", (number, number))
    (folder / ".new-1-1-00000000").write_bytes(b"left")
    (folder / "tree-1-1-00000000").write_bytes(b"left")
    os.utime(base.archive)
    stores.settle()
    base.export()
    assert len(base.kept) == 8
    assert not list(folder.glob("*left*"))
    assert all(len(path.name) == 64 for path in base.kept)
    assert not (folder / f"{13:064x}").exists()
    assert (folder / f"{19:064x}").exists()


def test_an_index_that_is_used_stays(base: Base) -> None:
    base.export()
    [own] = base.kept
    os.utime(own, (0, 0))
    for number in range(7):
        (own.parent / f"{number:064x}").write_bytes(b"other")
        os.utime(own.parent / f"{number:064x}", (1 + number, 1 + number))
    base.export()
    base.archive.rename(base.lab.path / "moved.tar")
    base.write()
    stores.settle()
    base.export()
    assert own.exists()
    assert not (own.parent / f"{0:064x}").exists()


def test_nothing_of_it_is_stored(base: Base) -> None:
    (base.old / "secret").write_bytes(b"only in the archive " * 100)
    base.write()
    stores.settle()
    before = stores.listing(base.store)
    base.export()
    assert stores.listing(base.store) == before
    assert (base.lab.path / "diff.deletions").read_bytes() == b"secret\0"


def test_times_are_compared_to_the_nanosecond_where_the_archive_has_them(base: Base) -> None:
    os.utime(base.old / "a", ns=(0, 1_600_000_000_000_000_000))
    os.utime(base.old / "etc/hosts", ns=(0, 1_600_000_000_000_000_001))
    subprocess.run(["cp", "-a", f"{base.old}/.", base.new], check=True)
    os.utime(base.new / "a", ns=(0, 1_600_000_000_000_000_002))
    stores.settle()
    base.record()
    base.write("posix")
    assert base.export() == [".", "./a"]
    base.write("gnu")
    assert base.export() == []


def test_members_of_hostile_names_lead_nowhere(base: Base) -> None:
    with tarfile.open(base.archive, "a") as archive:
        member = tarfile.TarInfo("../../outside")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    with pytest.raises(Corrupt, match="outside"):
        base.export()
    assert base.kept == []

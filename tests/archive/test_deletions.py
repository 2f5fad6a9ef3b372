"""Deletions told inside the archive: lists for GNU tar's `--incremental`, whiteouts for layers."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import stores
from support.scenarios import SCENARIOS, linked, plain, settled, write

from chunkstore.archive import whiteout
from chunkstore.errors import Usage
from chunkstore.export import ExportReport, export
from chunkstore.objects.names import parse_spec

if TYPE_CHECKING:
    from support.scenarios import Edit

    from chunkstore.storage.store import Store
    from tests.archive.conftest import Lab

INCREMENTAL = [
    *("tar", "--incremental", "-xp", "--numeric-owner"),
    *("--xattrs", "--xattrs-include=*", "--acls", "-f"),
]


class Pair:
    """Two versions of an image, and the trees they were made from."""

    def __init__(self, lab: Lab, base: Edit, edit: Edit) -> None:
        self.lab = lab
        self.old, self.new = lab.tree("old"), lab.path / "new"
        base(self.old)
        settled(self.old)
        subprocess.run(["cp", "-a", "--preserve=all", self.old, self.new], check=True)
        edit(self.new)
        self.store: Store = stores.make_store(lab.path / "store")
        stores.record(self.store, self.old)
        stores.record(self.store, self.new)

    def export(self, deletions: str) -> tuple[Path, ExportReport]:
        path = self.lab.path / f"{deletions}.tar"
        version, base = (
            self.store.resolve(parse_spec(spec)).version for spec in ("web", "web:base")
        )
        report = export(self.store, version, str(path), base=base, deletions=deletions, form="tar")
        return path, report


def members(archive: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(archive, errors="surrogateescape") as opened:
        return opened.getmembers()


def lists(archive: Path) -> dict[str, str]:
    listed = [each for each in members(archive) if "GNU.dumpdir" in each.pax_headers]
    found = {each.name: each.pax_headers["GNU.dumpdir"] for each in listed}
    assert len(found) == len(listed)
    return found


def same_by_rsync(one: Path, other: Path) -> None:
    options = ["-aHAXnic", "--numeric-ids", "--delete", "--modify-window=-1"]
    command = ["rsync", *options, f"{one}/", f"{other}/"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", SCENARIOS)
def test_gnu_tar_obeys(lab: Lab, name: str) -> None:
    pair = Pair(lab, *SCENARIOS[name])
    into = lab.tree("into")
    lab.unpack("gnu", lab.archive(lab.read(pair.old)), into)
    archive, report = pair.export("gnu")
    done = subprocess.run([*INCREMENTAL, archive, "-C", into], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert lab.see(into) == lab.see(pair.new)
    same_by_rsync(pair.new, into)
    assert report.sidecar is None
    assert bool(report.deletions) == bool(lists(archive))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", ["gnu", "bsdtar", "busybox", "python"])
@pytest.mark.parametrize("name", ["things_go", "odd_names_go", "everything_goes"])
def test_a_list_means_nothing_to_other_readers(lab: Lab, name: str, reader: str) -> None:
    pair = Pair(lab, *SCENARIOS[name])
    seen = []
    for deletions in ("none", "gnu"):
        into = lab.tree(f"into-{deletions}")
        lab.unpack(reader, lab.archive(lab.read(pair.old)), into)
        archive, _ = pair.export(deletions)
        lab.unpack(reader, archive.read_bytes(), into)
        seen.append(lab.see(into))
    assert lists(archive)
    # The first unpacking of links' and directories' times is what it is with this reader.
    one, other = ({path: item._replace(mtime=0) for path, item in found.items()} for found in seen)
    assert one == other


@pytest.mark.usefixtures("root")
def test_a_list_says_what_stays(lab: Lab) -> None:
    def edit(tree: Path) -> None:
        (tree / "usr/lib/x/1").unlink()
        write(tree / "usr/lib/x/0", "new\n")
        (tree / "usr/lib/x/A-z").mkdir()
        write(tree / "usr/lib/x/a", "new\n")
        write(tree / "opt/file", "new\n")

    pair = Pair(lab, plain, edit)
    archive, report = pair.export("gnu")
    # In the order of the bytes: GNU tar looks names up by halving.
    assert lists(archive) == {"./usr/lib/x": "Y0\0N2\0DA-z\0Ya\0\0"}
    assert report.deletions == 1


@pytest.mark.usefixtures("root")
def test_only_directories_that_lose_something_are_cleared(lab: Lab) -> None:
    """What a machine has of its own elsewhere stays, and its state directory in any case."""

    def edit(tree: Path) -> None:
        (tree / "a").unlink()
        write(tree / "etc/hosts", "other\n")
        (tree / "null").chmod(0o600)

    pair = Pair(lab, plain, edit)
    into = lab.tree("into")
    lab.unpack("gnu", lab.archive(lab.read(pair.old)), into)
    for path in (".imgstore/state", "etc/own", "unknown"):
        write(into / path, "own\n")
    archive, _ = pair.export("gnu")
    subprocess.run([*INCREMENTAL, archive, "-C", into], check=True)
    assert list(lists(archive)) == ["."]
    assert (into / ".imgstore/state").exists()
    assert (into / "etc/own").exists()
    assert not (into / "unknown").exists()
    assert not (into / "a").exists()


@pytest.mark.usefixtures("root")
def test_whiteouts_stand_where_what_they_delete_stood(lab: Lab) -> None:
    pair = Pair(lab, *SCENARIOS["things_go"])
    archive, report = pair.export("oci")
    found = members(archive)
    whiteouts = [each for each in found if "/.wh." in each.name]
    assert [each.name for each in whiteouts] == [
        "./.wh.a",
        "./.wh.fifo",
        "./.wh.lib",
        "./.wh.null",
        "./usr/lib/.wh.x",
        "./usr/share/.wh.doc",
    ]
    assert {(each.type, each.size) for each in whiteouts} == {(tarfile.REGTYPE, 0)}
    assert report.deletions == len(whiteouts)
    assert report.sidecar is None


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_layer_makes_sense_by_itself(lab: Lab, name: str) -> None:
    """Engines unpack it into an empty directory: its hardlinks must lead to its own files."""
    pair = Pair(lab, *SCENARIOS[name])
    archive, _ = pair.export("oci")
    names = [each.name for each in members(archive) if not each.isdir()]
    assert len(names) == len(set(names))
    into = lab.tree("into")
    lab.unpack("gnu", archive.read_bytes(), into)
    layer, tree = lab.see(into), lab.see(pair.new)
    for path, item in layer.items():
        if b".wh." in path:
            assert path.replace(b".wh.", b"") not in tree
        else:
            assert item.names == tree[path].names, path


@pytest.mark.usefixtures("root")
def test_an_unchanged_group_is_looked_for_only_where_one_is_needed(lab: Lab) -> None:
    def edit(tree: Path) -> None:
        os.link(tree / "etc/hosts", tree / "etc/hosts-again")
        (tree / "d").unlink()

    pair = Pair(lab, linked, edit)
    names = [each.name for each in members(pair.export("oci")[0])]
    assert "./etc/hosts" in names
    # A group that only loses a name is as it was for the others.
    assert "./b/leader" not in names
    # Who unpacks a diff over its base has the file already.
    assert "./etc/hosts" not in [each.name for each in members(pair.export("gnu")[0])]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", [".wh.file", ".wh..wh..opq", "x" * 252])
def test_names_that_a_layer_can_not_hold(lab: Lab, name: str) -> None:
    def with_name(tree: Path) -> None:
        plain(tree)
        write(tree / "etc" / name, "content\n")

    def without(tree: Path) -> None:
        (tree / "etc" / name).unlink()

    pair = Pair(lab, with_name, without)
    with pytest.raises(Usage, match="layer can't delete"):
        pair.export("oci")
    assert not (lab.path / "oci.tar").exists()


@pytest.mark.usefixtures("root")
def test_names_that_a_layer_would_take_for_whiteouts(lab: Lab) -> None:
    def edit(tree: Path) -> None:
        write(tree / "etc/.wh.hosts", "a file\n")

    pair = Pair(lab, plain, edit)
    with pytest.raises(Usage, match=r"layer can't hold etc/\.wh\.hosts"):
        pair.export("oci")
    version = pair.store.resolve(parse_spec("web")).version
    with pytest.raises(Usage, match="layer can't hold"):
        export(pair.store, version, str(lab.path / "full.tar"), deletions="oci", form="tar")


def test_the_longest_name_that_can_be_deleted() -> None:
    assert whiteout.whiteout(b"d/" + b"x" * 251).path == b"d/.wh." + b"x" * 251

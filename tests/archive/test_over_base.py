"""Differential archives unpacked over their base: deletions, then the archive, then compare."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.scenarios import DELETING, SCENARIOS, Edit, settled, write

if TYPE_CHECKING:
    from tests.archive.conftest import Image, Lab, Seen

READERS = ["gnu", "bsdtar", "busybox", "python"]


def prepared(lab: Lab, base: Edit, edit: Edit) -> tuple[Image, Image, Path]:
    old = lab.tree("old")
    base(old)
    settled(old)
    new = lab.path / "new"
    subprocess.run(["cp", "-a", "--preserve=all", old, new], check=True)
    edit(new)
    return lab.read(old), lab.read(new), new


def restorable(seen: dict[bytes, Seen], reader: str) -> dict[bytes, Seen]:
    """What the plain readers restore of a tree."""
    if reader in ("gnu", "bsdtar"):
        return seen
    plain = {}
    for path, item in seen.items():
        kept = item._replace(mtime=item.mtime // 10**9)
        if item.kind == stat.S_IFLNK:
            kept = kept._replace(mtime=0)
            if reader == "busybox":
                kept = kept._replace(uid=0, gid=0)
        elif item.kind == stat.S_IFDIR and reader == "busybox":
            # Sets a new directory's time before it fills it.
            kept = kept._replace(mtime=0)
        plain[path] = kept
    return plain


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_new_tree_results(lab: Lab, name: str, reader: str) -> None:
    old, new, tree = prepared(lab, *SCENARIOS[name])
    into = lab.tree("into")
    lab.unpack(reader, lab.archive(old), into, quiet=False)
    archive, sidecar, lost = lab.differential(old, new)
    lab.remove(sidecar, into)
    lab.unpack(reader, archive, into, quiet=False)
    if name == "nothing_happens":
        assert archive == bytes(10240)
    seen, wanted = (restorable(lab.see(place), reader) for place in (into, tree))
    if reader == "bsdtar" and name == "nothing_happens":
        seen[b""] = seen[b""]._replace(mtime=wanted[b""].mtime)
    assert list(seen) == list(wanted)
    for path, item in wanted.items():
        assert seen[path] == item, path
    assert not lost
    if reader == "gnu":
        done = subprocess.run(
            [
                *("rsync", "-aHAXnic", "--numeric-ids", "--delete", "--modify-window=-1"),
                *(f"{tree}/", f"{into}/"),
            ],
            capture_output=True,
            check=True,
        )
        assert done.stdout == b""


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in DELETING])
def test_gnu_tar_needs_the_sidecar_only_for_what_it_can_not_replace(lab: Lab, name: str) -> None:
    """Hardlinks and devices are in the sidecar for readers that write in place."""
    old, new, tree = prepared(lab, *SCENARIOS[name])
    archive, sidecar, _ = lab.differential(old, new)
    before, after = lab.see(lab.path / "old"), lab.see(tree)
    changed = [
        path
        for path in sidecar.split(b"\0")[:-1]
        if path not in after or before[path].kind != after[path].kind
    ]
    into = lab.tree("into")
    lab.unpack("gnu", lab.archive(old), into)
    lab.remove(b"".join(path + b"\0" for path in changed), into)
    lab.unpack("gnu", archive, into)
    assert lab.see(into) == after


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", ["gnu", "bsdtar"])
def test_rich_metadata_changes(lab: Lab, reader: str) -> None:
    def base(tree: Path) -> None:
        for name in ("gets", "keeps", "loses", "acl", "label", "cap"):
            write(tree / name, name)
        for name in ("keeps", "loses"):
            os.setxattr(tree / name, "user.old", b"old")
        os.setxattr(tree / "label", "security.selinux", b"old_t\0")
        for name in ("inherits", "plain"):
            (tree / name).mkdir()
        subprocess.run(["setfacl", "-m", "u:1000:rw", tree / "acl"], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", tree / "inherits"], check=True)

    def edit(tree: Path) -> None:
        os.setxattr(tree / "gets", "user.new", b"new")
        os.setxattr(tree / "keeps", "user.more", b"more")
        os.removexattr(tree / "loses", "user.old")
        os.setxattr(tree / "label", "security.selinux", b"new_t\0")
        subprocess.run(["setcap", "cap_net_raw+ep", tree / "cap"], check=True)
        subprocess.run(["setfacl", "-b", tree / "acl"], check=True)
        os.setxattr(tree / "plain", "user.new", b"new")
        write(tree / "inherits/plain", "has no ACL\n")
        os.removexattr(tree / "inherits/plain", "system.posix_acl_access")
        (tree / "inherits/folder").mkdir()
        os.removexattr(tree / "inherits/folder", "system.posix_acl_access")
        os.removexattr(tree / "inherits/folder", "system.posix_acl_default")
        write(tree / "inherits/folder/file", "neither has this\n")

    old, new, tree = prepared(lab, base, edit)
    archive, sidecar, lost = lab.differential(old, new)
    into = lab.tree("into")
    lab.unpack(reader, lab.archive(old), into)
    lab.remove(sidecar, into)
    lab.unpack(reader, archive, into)
    seen, wanted = lab.see(into), lab.see(tree)
    if reader == "bsdtar":
        # What it makes in a directory with a default ACL inherits that.
        seen, wanted = (
            {path: item for path, item in places.items() if b"inherits/" not in path}
            for places in (seen, wanted)
        )
    assert list(seen) == list(wanted)
    for path, item in wanted.items():
        assert seen[path] == item, path
    assert not lost


@pytest.mark.usefixtures("root")
def test_what_a_directory_can_not_lose_is_counted(lab: Lab) -> None:
    def base(tree: Path) -> None:
        for name in ("one", "two"):
            (tree / name).mkdir()
            os.setxattr(tree / name, "user.a", b"a")

    def edit(tree: Path) -> None:
        os.removexattr(tree / "one", "user.a")
        os.setxattr(tree / "two", "user.a", b"other")

    old, new, _ = prepared(lab, base, edit)
    assert lab.differential(old, new)[2] == {"extended attributes taken from a directory": 1}

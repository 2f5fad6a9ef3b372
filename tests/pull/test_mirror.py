"""`pull --mirror`, with `rsync -aHAX --delete` from a checkout of the version as the oracle."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import stores, trees
from support.live import Live, remove, rewrite_unseen
from support.trees import needs, needs_root
from support.variety import make_variety

pytestmark = needs("rsync")

EXCLUDES = ["/etc/hosts", "*.log", "keep/", "/data/*/deep", "+ /srv/x", "- /srv/*"]


def options(excludes: list[str]) -> list[str]:
    return [f"--exclude={pattern}" for pattern in excludes]


def rsync(source: Path, target: Path, excludes: list[str]) -> None:
    """Make the target like the source, but for what is excluded and the node's own state.

    Three times: what it deletes moves times that it has set, and it trips over a group of links
    whose first path was something else.
    """
    for number in range(3):
        subprocess.run(
            [
                *(
                    "rsync",
                    "-aHAX",
                    "--delete",
                    "--checksum",
                    "--modify-window=-1",
                    "--exclude=/.imgstore",
                ),
                *options(excludes),
                *(f"{source}/", f"{target}/"),
            ],
            check=number == 2,
            capture_output=True,
        )


def build(tree: Path) -> None:
    for folder in ("etc", "data/one/deep", "data/two", "srv/x", "srv/y", "keep", "var/keep"):
        (tree / folder).mkdir(parents=True)
    for name in (
        *("etc/hosts", "etc/fstab", "data/one/deep/f", "data/one/f", "data/two/f", "srv/x/f"),
        *("srv/y/f", "srv/file.log", "keep/f", "var/keep/f", "var/f", "top.log", "top"),
    ):
        (tree / name).write_bytes(trees.pseudo_random(name, 5000))
    os.link(tree / "etc/fstab", tree / "var/linked")
    os.link(tree / "etc/hosts", tree / "var/linked hosts")
    os.symlink("etc", tree / "link")
    os.setxattr(tree / "top", "user.color", b"red")


def drift(node: Path, chance: random.Random) -> None:  # noqa: PLR0912
    """Any changes an administrator, or a virus, may have made."""
    paths = sorted(path for path in node.rglob("*") if ".imgstore" not in path.parts)
    for path in chance.sample(paths, len(paths) // 2):
        if not os.path.lexists(path) or any(p.is_symlink() for p in path.parents):
            continue
        match chance.randrange(10):
            case 0:
                remove(path)
            case 1 if path.is_file():
                path.write_bytes(b"own " * chance.randrange(1, 9))
            case 2 if path.is_file() and not path.is_symlink():
                rewrite_unseen(path, bytes(path.stat().st_size))
            case 3 if not path.is_symlink():
                path.chmod(0o4711)
            case 4:
                os.utime(path, ns=(1, 5), follow_symlinks=False)
            case 5 if path.is_dir() and not path.is_symlink():
                for name in ("unknown", "unknown.log", "x"):
                    remove(path / name)
                    (path / name / "keep").mkdir(parents=True)
                    (path / name / "keep/f").write_bytes(b"kept?")
                    (path / name / "f").write_bytes(b"unknown")
                    (path / name / "f.log").write_bytes(b"unknown log")
            case 6:
                remove(path)
                os.symlink("nowhere", path)
            case 7:
                remove(path)
                path.mkdir()
                (path / "inside").write_bytes(b"inside")
            case 8 if not path.is_symlink():
                os.setxattr(path, "user.color", b"blue")
            case 9 if path.is_dir() and not path.is_symlink():
                (path / "more").write_bytes(b"more")


def image_edits(tree: Path, chance: random.Random) -> None:
    for path in sorted(tree.rglob("*")):
        if not os.path.lexists(path):
            continue
        match chance.randrange(14):
            case 0:
                remove(path)
            case 1 if path.is_file() and not path.is_symlink():
                path.write_bytes(trees.pseudo_random((path.name, "new"), 6000))
            case 2:
                remove(path)
                path.mkdir()
                (path / "new").write_bytes(b"new")
            case 3 if not path.is_symlink():
                path.chmod(0o755)
            case 4 if path.is_dir() and not path.is_symlink():
                (path / "f2").write_bytes(b"second")


def compare(live: Live, excludes: list[str], before: Path) -> None:
    """The node is what rsync makes of a copy of what it was.

    But for the times of directories that only stand because something in them is excluded; and
    rsync reaches an excluded file through a link to it, or leaves it linked.
    """
    source = live.place / "checkout"
    trees.remove_tree(source)
    stores.restore(live.store, "web", source)
    rsync(source, before, excludes)
    known = {os.fsencode(path.relative_to(live.tree)) for path in live.tree.rglob("*")} | {b""}
    found = []
    for tree in (before, live.node):
        seen = trees.facts(tree)
        for path in seen.keys() - known:
            seen[path] = dataclasses.replace(seen[path], mtime=0)
        if excludes and seen.pop(b"etc/hosts", None) and b"var/linked hosts" in seen:
            linked = seen[b"var/linked hosts"]
            seen[b"var/linked hosts"] = dataclasses.replace(linked, group=b"")
        found.append(seen)
    assert trees.differences(*found) == []


def copy(node: Path, to: Path) -> Path:
    trees.remove_tree(to)
    subprocess.run(["cp", "-a", str(node), str(to)], check=True)
    return to


@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize("updating", [False, True])
def test_mirror_is_what_rsync_makes(quick: Path, excluding: bool, updating: bool) -> None:
    for seed in range(8):
        mirrored(quick / str(seed), seed, excluding=excluding, updating=updating)
        trees.remove_tree(quick / str(seed))


@pytest.mark.campaign
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 40), st.booleans(), st.booleans())
def test_mirror_is_what_rsync_makes_for_long(seed: int, excluding: bool, updating: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        mirrored(Path(folder) / "x", seed, excluding=excluding, updating=updating)


def mirrored(place: Path, seed: int, *, excluding: bool, updating: bool) -> None:
    chance = random.Random(seed)
    place.mkdir()
    live = Live(place)
    build(live.tree)
    live.install()
    excludes = EXCLUDES if excluding else []
    drift(live.node, chance)
    if updating:
        image_edits(live.tree, chance)
        live.commit()
    before = copy(live.node, place / "before")
    ended = live.run("pull", live.node, "--mirror", *options(excludes), code=None)
    if ended.code == 7 and "excluded" in ended.err:
        assert excluding
        assert trees.differences(trees.facts(before), trees.facts(live.node)) == []
        return
    assert ended.code == 0, (seed, ended)
    compare(live, excludes, before)


def test_again_touches_nothing(place: Path) -> None:
    live = Live(place)
    make_variety(live.tree)
    live.install()
    (live.node / "unknown").write_bytes(b"")
    (live.node / "plain/large").write_bytes(b"own")
    live.pull("--mirror")
    stores.settle()

    def inodes() -> dict[str, tuple[int, int]]:
        found = {}
        for above, folders, names in os.walk(live.node):
            if ".imgstore" in folders:
                folders.remove(".imgstore")
            for name in [".", *folders, *names]:
                status = os.lstat(os.path.join(above, name))
                found[os.path.join(above, name)] = (status.st_ino, status.st_ctime_ns)
        return found

    before = inodes()
    ended = live.pull("--mirror")
    assert "already" in ended.lines[-1]
    assert inodes() == before
    assert live.run("verify", live.node).code == 0


def test_unknown_things_are_told_by_their_whole_path(quick: Path) -> None:
    """A name the image knows in a directory that is passed over says nothing of the one above."""
    live = Live(quick)
    (live.tree / "a/deep/b").mkdir(parents=True)
    (live.tree / "a/deep/f").write_bytes(b"theirs")
    live.install()
    (live.node / "a/f").write_bytes(b"unknown")
    (live.node / "a/b").mkdir()
    remove(live.node / "a/deep")
    (live.node / "a/deep").write_bytes(b"no directory")
    verified = live.run("verify", live.node, "--json", code=1).document
    assert verified["unknown"] == ["a/b", "a/f"]
    for exclude in (["--exclude", "deep"], []):
        found = live.run("verify", live.node, "--json", *exclude, code=1).document
        assert found["unknown"] == ["a/b", "a/f"]
    live.pull("--mirror", "--exclude", "deep")
    assert os.listdir(live.node / "a") == ["deep"]


def test_what_was_changed_is_saved_and_what_is_unknown_goes(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    (live.node / "top").write_bytes(b"own")
    remove(live.node / "link")
    (live.node / "link").write_bytes(b"no link any more")
    remove(live.node / "var/f")
    (live.node / "unknown/keep").mkdir(parents=True)
    (live.node / "unknown/keep/f").write_bytes(b"kept")
    (live.node / "unknown/f").write_bytes(b"goes")
    dry = live.pull("--mirror", "--dry-run", "--exclude", "keep/")
    ended = live.pull("--mirror", "--exclude", "keep/")
    assert [line for line in dry.changes if line[0] in "DA"] == ["D\tunknown/f", "A\tvar/f"]
    assert live.saved() == {"top": b"own", "link": b"no link any more"}
    assert sorted(path.name for path in live.node.rglob("unknown/**/*")) == ["f", "keep"]
    assert ended.err.count("was changed here, kept as") == 2
    live.pull("--mirror")
    live.is_image()
    # No patterns now: nothing of it is excluded any more.
    assert not (live.node / "unknown").exists()


def test_whatever_the_image_leaves_alone_without_mirror_is_mended_with_it(quick: Path) -> None:
    """The image changes only metadata, or takes away what is something else here."""
    live = Live(quick)
    build(live.tree)
    (live.tree / "gone").write_bytes(b"gone")
    live.install()
    (live.tree / "top").chmod(0o600)
    (live.tree / "data/two").chmod(0o700)
    (live.tree / "srv").chmod(0o700)
    (live.tree / "data/one/new").write_bytes(b"new")
    remove(live.tree / "gone")
    (live.node / "top").write_bytes(b"own")
    remove(live.node / "gone")
    (live.node / "gone").mkdir()
    (live.node / "gone/mine").write_bytes(b"mine")
    remove(live.node / "data/two")
    remove(live.node / "srv")
    os.symlink("elsewhere", live.node / "srv")
    (live.node / "data/one").rename(quick / "disk")
    os.symlink(quick / "disk", live.node / "data/one")
    live.commit()
    report = live.pull("--mirror", "--json").document
    live.is_image()
    assert report["kept"] == []
    assert {item["path"] for item in report["saved"]} == {"top", "srv", "data/one"}
    assert (quick / "disk/f").exists()


@needs_root
def test_mounts_are_not_swept(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    (live.node / "unknown/mounted").mkdir(parents=True)
    (live.node / "unknown/f").write_bytes(b"")
    trees.mount_tmpfs(live.node / "unknown/mounted", "size=1m")
    (live.node / "unknown/mounted/data").write_bytes(b"on another disk")
    live.pull("--mirror")
    assert (live.node / "unknown/mounted/data").read_bytes() == b"on another disk"
    assert not (live.node / "unknown/f").exists()
    trees.unmount(live.node / "unknown/mounted")
    live.pull("--mirror")
    live.is_image()


def test_a_group_of_links_that_was_parted_here_is_joined_again(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    shutil.copy2(live.node / "var/linked", live.node / "copy")
    os.rename(live.node / "copy", live.node / "var/linked")
    live.pull("--mirror")
    live.is_image()

"""`verify --repair`: every kind of drift named and mended, from the node itself where it can be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Live, remove, rewrite_unseen
from support.trees import needs_root


def build(tree: Path) -> None:
    (tree / "d/deep").mkdir(parents=True)
    (tree / "empty").mkdir()
    for name in ("f", "d/f", "d/deep/f", "twin"):
        (tree / name).write_bytes(trees.pseudo_random(name, 20_000))
    (tree / "another twin").write_bytes((tree / "twin").read_bytes())
    os.symlink("f", tree / "link")
    os.mkfifo(tree / "fifo")
    os.link(tree / "d/f", tree / "linked")
    os.setxattr(tree / "f", "user.color", b"red")
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o020666, os.makedev(1, 3))


def retarget(node: Path) -> None:
    remove(node / "link")
    os.symlink("elsewhere", node / "link")


def part(node: Path) -> None:
    shutil.copy2(node / "linked", node / "copy")
    os.rename(node / "copy", node / "linked")


def other_device(node: Path) -> None:
    remove(node / "null")
    os.mknod(node / "null", 0o020666, os.makedev(1, 5))


def to_directory(node: Path) -> None:
    remove(node / "f")
    (node / "f").mkdir()
    (node / "f/mine").write_bytes(b"mine")


def to_file(node: Path) -> None:
    remove(node / "d")
    (node / "d").write_bytes(b"mine")


def to_link(node: Path) -> None:
    (node / "d").rename(node.parent / "moved")
    os.symlink("../moved", node / "d")


# What is done to the node, what verify says of it, what is saved.
DRIFT: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "content": (lambda node: (node / "f").write_bytes(b"own"), ["M\tf"], ["f"]),
    "content unseen": (
        lambda node: rewrite_unseen(node / "f", bytes(20_000)),
        ["M\tf"],
        ["f"],
    ),
    "longer": (lambda node: os.truncate(node / "f", 30_000), ["M\tf"], ["f"]),
    "mode": (lambda node: (node / "f").chmod(0o4755), ["m\tf"], []),
    "time": (lambda node: os.utime(node / "f", ns=(1, 1)), ["m\tf"], []),
    "xattr": (lambda node: os.setxattr(node / "f", "user.color", b"blue"), ["m\tf"], []),
    "no xattr": (lambda node: os.removexattr(node / "f", "user.color"), ["m\tf"], []),
    "more xattrs": (lambda node: os.setxattr(node / "d", "user.more", b""), ["m\td"], []),
    "mode of a directory": (lambda node: (node / "empty").chmod(0o700), ["m\tempty"], []),
    "time of a link": (
        lambda node: os.utime(node / "link", ns=(1, 1), follow_symlinks=False),
        ["m\tlink"],
        [],
    ),
    "mode of a fifo": (lambda node: (node / "fifo").chmod(0o600), ["m\tfifo"], []),
    "target": (retarget, ["m\t.", "M\tlink"], ["link"]),
    "no file": (lambda node: remove(node / "d/deep/f"), ["m\td/deep", "D\td/deep/f"], []),
    "no fifo": (lambda node: remove(node / "fifo"), ["m\t.", "D\tfifo"], []),
    "no directory": (
        lambda node: remove(node / "d/deep"),
        ["m\td", "D\td/deep", "D\td/deep/f"],
        [],
    ),
    "a directory for a file": (to_directory, ["m\t.", "T\tf"], ["f"]),
    "a file for a directory": (
        to_file,
        ["m\t.", "T\td", "D\td/deep", "D\td/deep/f", "D\td/f", "m\tlinked"],
        ["d"],
    ),
    "a link for a directory": (
        to_link,
        ["m\t.", "T\td", "D\td/deep", "D\td/deep/f", "D\td/f", "m\tlinked"],
        ["d"],
    ),
    "a link of its own": (part, ["m\t.", "m\tlinked"], []),
}
ROOT_DRIFT: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "owner": (lambda node: os.chown(node / "f", 7, 8), ["m\tf"], []),
    "device": (other_device, ["m\t.", "M\tnull"], ["null"]),
}


def cases() -> list[object]:
    return [
        *(pytest.param(*case, id=name) for name, case in DRIFT.items()),
        *(pytest.param(*case, id=name, marks=needs_root) for name, case in ROOT_DRIFT.items()),
    ]


@pytest.mark.parametrize(("change", "lines", "saves"), cases())
def test_every_kind_of_drift(
    quick: Path, change: Callable[[Path], object], lines: list[str], saves: list[str]
) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    (live.node / "empty/unknown").write_bytes(b"unknown")
    os.utime(live.node / "empty", ns=(0, (live.tree / "empty").stat().st_mtime_ns))
    change(live.node)
    verified = live.run("verify", live.node, code=1)
    assert [line for line in verified.changes if line[0] != "?"] == lines
    assert "?\tempty/unknown" in verified.changes
    report = live.run("verify", "--repair", live.node, "--json").document
    assert report["changed"] is True
    assert [item["path"] for item in report["saved"]] == saves
    for item in report["saved"]:
        assert os.path.lexists(live.node / item["place"])
    live.is_image(but=(b"empty/unknown",))
    assert live.run("verify", live.node).code == 0
    again = live.run("verify", "--repair", live.node, "--json").document
    assert (again["changed"], again["saved"]) == (False, [])


def test_with_the_remote_gone_from_what_is_elsewhere_in_the_tree(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    os.rename(live.place / "store", live.place / "moved store")
    (live.node / "twin").write_bytes(b"own")
    remove(live.node / "linked")
    (live.node / "f").chmod(0o600)
    report = live.run("verify", "--repair", live.node, "--json").document
    assert (report["fetched"]["chunks"], report["requests"]) == (0, 0)
    assert report["found"]["bytes"] == 20_000
    live.is_image()
    # What is nowhere on the node can't be made again, and then nothing is changed.
    (live.node / "f").write_bytes(b"own")
    (live.node / "twin").write_bytes(b"own")
    before = trees.facts(live.node)
    ended = live.run("verify", "--repair", live.node, code=3)
    assert str(live.place / "store") in ended.err
    assert len(ended.err.splitlines()) == 1
    assert trees.facts(live.node) == before
    os.rename(live.place / "moved store", live.place / "store")
    report = live.run("verify", "--repair", live.node, "--json").document
    assert report["fetched"]["bytes"] == 20_000
    live.is_image()


def test_a_remote_that_does_not_answer(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    remote = stores.in_memory(live.store)
    stores.bring(remote, "web", live.node)
    from chunkstore.objects.names import parse_spec
    from chunkstore.pull import pull

    # Port 1 of this machine: nobody is there.
    pull(
        *(remote, [parse_spec("web")], str(live.node)),
        location="http://127.0.0.1:1",
        options=stores.trusting(),
    )
    (live.node / "twin").write_bytes(b"own")
    live.run("verify", "--repair", live.node)
    (live.node / "f").write_bytes(b"own")
    before = trees.facts(live.node)
    ended = live.run("verify", "--repair", live.node, code=6)
    assert "127.0.0.1:1" in ended.err
    assert trees.facts(live.node) == before


def test_what_the_pull_left_out_stays_out(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.commit()
    live.pull("--exclude", "/d/f", "--exclude", "twin")
    (live.node / "twin").write_bytes(b"own")
    os.utime(live.node, ns=(0, live.tree.stat().st_mtime_ns))
    (live.node / "f").write_bytes(b"own")
    live.run("verify", "--repair", live.node)
    assert (live.node / "twin").read_bytes() == b"own"
    assert not (live.node / "d/f").exists()
    live.run("verify", live.node)
    # And so does what is left out of this repair alone; but that is no reason to lack it later.
    (live.node / "f").write_bytes(b"own")
    (live.node / "link").unlink()
    live.run("verify", "--repair", live.node, "--exclude", "/f", "--exclude", "d/f")
    assert (live.node / "f").read_bytes() == b"own"
    assert (live.node / "link").is_symlink()
    live.run("verify", live.node, code=1)
    live.pull()
    assert (live.node / "d/f").exists()
    assert (live.node / "f").read_bytes() == b"own"


def test_dir_that_was_never_pulled(quick: Path) -> None:
    live = Live(quick)
    assert "nothing was pulled into" in live.run("verify", "--repair", live.tree, code=3).err
    assert "name it" in live.run("verify", "--repair", code=2).err

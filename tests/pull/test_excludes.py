"""What is excluded is never touched, and comes in once it is not excluded any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Live, remove


def build(tree: Path) -> None:
    for folder in ("etc/ssh", "var/log", "home"):
        (tree / folder).mkdir(parents=True)
    for name in ("etc/hosts", "etc/fstab", "etc/ssh/key", "var/log/a.log", "var/log/b", "home/f"):
        (tree / name).write_bytes(trees.pseudo_random(name, 3000))


def ways(live: Live, way: str, rules: list[str]) -> list[str]:
    """Say what is excluded: on the command line, in a file, or on the node itself."""
    if way == "--exclude":
        return [f"--exclude={rule}" for rule in rules]
    text = "# what stays\n" + "".join(f"{rule}\n" for rule in rules)
    if way == "--exclude-from":
        (live.place / "rules").write_text(text)
        return ["--exclude-from", str(live.place / "rules")]
    (live.node / ".imgstore").mkdir(parents=True, exist_ok=True, mode=0o700)
    (live.node / ".imgstore/exclude").write_text(text)
    return []


def without(live: Live, way: str) -> None:
    if way == "on the node":
        (live.node / ".imgstore/exclude").unlink()


RULES = ["/etc/hosts", "*.log", "home/", "/etc/ssh/***"]
OUT = (b"etc/hosts", b"var/log/a.log", b"home", b"home/f", b"etc/ssh", b"etc/ssh/key")
WAYS = ["--exclude", "--exclude-from", "on the node"]


@pytest.mark.parametrize("way", WAYS)
def test_first_pull_update_verify_and_back(quick: Path, way: str) -> None:
    live = Live(quick)
    build(live.tree)
    live.commit()
    options = ways(live, way, RULES)
    live.run("pull", live.remote, live.node, *options)
    live.is_image(but=OUT)
    assert not {*trees.facts(live.node)} & {*OUT}
    # What the node has in such a place is its own.
    (live.node / "etc/hosts").write_bytes(b"mine")
    (live.node / "home").mkdir()
    (live.node / "home/mine").write_bytes(b"mine")
    for name in (".", "etc"):
        os.utime(live.node / name, ns=(0, (live.tree / name).stat().st_mtime_ns))
    own = {path: trees.facts(live.node)[path] for path in (b"etc/hosts", b"home", b"home/mine")}
    stores.settle()

    live.pull(*options)
    live.run("verify", live.node)
    for name in ("etc/hosts", "var/log/a.log", "etc/fstab"):
        (live.tree / name).write_bytes(trees.pseudo_random((name, "new"), 4000))
    remove(live.tree / "home/f")
    (live.tree / "more.log").write_bytes(b"log")
    live.commit()
    for more in ([], ["--mirror"]):
        live.pull(*options, *more)
        live.is_image(but=(*OUT, b"home/mine", b"more.log"))
        found = trees.facts(live.node)
        assert {path: found[path] for path in own} == own
        assert b"more.log" not in found
        assert live.saved() == {}
        live.run("verify", live.node)
    verified = live.run("verify", live.node, "--json").document
    assert verified["sound"] is True

    without(live, way)
    dry = live.pull("--dry-run")
    assert set(dry.changes) >= {"M\tetc/hosts", "A\tvar/log/a.log", "A\tetc/ssh", "A\tmore.log"}
    ended = live.pull("--json").document
    assert ended["changed"] is True
    assert (live.node / "home/mine").read_bytes() == b"mine"
    live.is_image(but=(b"home/mine",))
    assert live.saved() == {"etc/hosts": b"mine"}
    assert live.pull("--json").document["changed"] is False


@pytest.mark.parametrize("way", WAYS)
def test_newly_excluded_paths_stay_as_they_are(quick: Path, way: str) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    before = trees.facts(live.node)
    options = ways(live, way, RULES)
    live.pull(*options)
    assert trees.facts(live.node) == before
    for path in sorted(live.tree.rglob("*"), reverse=True):
        if path.is_file():
            path.write_bytes(b"new " + path.name.encode())
    remove(live.tree / "etc/ssh")
    live.commit()
    live.pull(*options)
    found = trees.facts(live.node)
    assert {path: found[path] for path in OUT} == {path: before[path] for path in OUT}
    assert found[b"etc/fstab"] != before[b"etc/fstab"]
    without(live, way)
    live.pull()
    # The image had dropped it while it was excluded: now it is what the image does not know.
    live.is_image(but=(b"etc/ssh", b"etc/ssh/key"))
    assert live.saved() == {}


def test_what_an_old_version_put_there_is_brought_up_to_date_when_it_is_no_longer_excluded(
    quick: Path,
) -> None:
    """Untouched since the pull before it was excluded, and the image has gone on."""
    live = Live(quick)
    build(live.tree)
    live.install()
    (live.tree / "etc/hosts").write_bytes(b"new")
    live.commit()
    live.pull("--exclude", "/etc/hosts")
    assert (live.node / "etc/hosts").read_bytes() != b"new"
    live.pull()
    live.is_image()
    assert live.saved() == {}


def test_a_directory_that_comes_in_and_grows_at_once_is_named_once(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.commit()
    live.pull("--exclude", "home/")
    (live.tree / "home/new").write_bytes(b"new")
    live.commit()
    changes = ["A\thome", "A\thome/f", "A\thome/new"]
    assert live.pull("--dry-run").changes == changes
    assert live.pull("--json").document["entries_changed"] == len(changes)
    live.is_image()


@pytest.mark.parametrize("more", [[], ["--mirror"]])
def test_no_longer_excluded_and_changed_at_once(quick: Path, more: list[str]) -> None:
    live = Live(quick)
    build(live.tree)
    live.commit()
    live.pull("--exclude", "/etc/hosts", "--exclude", "home")
    (live.tree / "etc/hosts").chmod(0o600)
    (live.tree / "home/new").write_bytes(b"new")
    (live.node / "etc/hosts").write_bytes(b"mine")
    live.commit()
    live.pull(*more)
    live.is_image()
    assert live.saved() == {"etc/hosts": b"mine"}


@pytest.mark.parametrize("excluded", ["a", "b", "c"])
@pytest.mark.parametrize("first", [True, False])
def test_groups_of_links_with_an_excluded_member(quick: Path, excluded: str, first: bool) -> None:
    live = Live(quick)
    (live.tree / "other").write_bytes(b"other")
    (live.tree / "a").write_bytes(b"linked")
    if not first:
        live.install()
    for name in "bcd":
        os.link(live.tree / "a", live.tree / name)
    live.commit()
    options = ["--exclude", f"/{excluded}"]
    live.pull(*options)

    def groups() -> set[frozenset[str]]:
        found: dict[int, set[str]] = {}
        for name in "abcd":
            if (live.node / name).exists():
                found.setdefault((live.node / name).stat().st_ino, set()).add(name)
        return {frozenset(group) for group in found.values()}

    rest = frozenset("abcd") - {excluded}
    assert rest in groups()
    (live.tree / "a").write_bytes(b"linked, with other content")
    live.commit()
    live.pull(*options)
    assert rest in groups()
    assert (live.node / "d").read_bytes() == b"linked, with other content"
    live.run("verify", live.node)
    live.pull()
    assert groups() == {frozenset("abcd")}
    live.is_image()
    assert live.pull("--json").document["changed"] is False


@pytest.mark.parametrize("verb", [["pull"], ["pull", "--mirror"], ["verify", "--repair"]])
def test_what_is_excluded_is_not_changed_through_a_link(quick: Path, verb: list[str]) -> None:
    live = Live(quick)
    (live.tree / "a").write_bytes(b"linked")
    for name in ("b", "c"):
        os.link(live.tree / "a", live.tree / name)
    live.install()
    before = (live.node / "a").stat()
    if verb == ["pull"]:
        (live.tree / "b").chmod(0o600)
        live.commit()
    else:
        (live.node / "b").chmod(0o711)
    mode = (live.node / "a").stat().st_mode
    live.run(*verb, live.node, "--exclude", "/a")
    after = (live.node / "a").stat()
    assert (after.st_ino, after.st_mode, after.st_nlink) == (before.st_ino, mode, 1)
    assert (live.node / "b").stat().st_ino == (live.node / "c").stat().st_ino
    assert (live.node / "b").stat().st_mode == (live.tree / "b").stat().st_mode


@pytest.mark.parametrize("kind", ["file", "symlink"])
@pytest.mark.parametrize("below", ["d/own", "d/deep/own"])
def test_a_directory_with_something_excluded_gives_way_to_nothing(
    quick: Path, kind: str, below: str
) -> None:
    """Moving it to `saved` would be touching what is excluded."""
    live = Live(quick)
    (live.tree / "d/deep").mkdir(parents=True)
    (live.tree / "d/deep/f").write_bytes(b"f")
    live.install()
    (live.node / below).write_bytes(b"own")
    remove(live.tree / "d")
    (live.tree / "d").write_bytes(b"d") if kind == "file" else os.symlink("x", live.tree / "d")
    live.commit()
    before = trees.facts(live.node)
    for more in (["--dry-run"], [], ["--mirror"]):
        ended = live.pull("--exclude", "own", *more, code=7)
        assert ended.err == (
            f"imgstore: d has to make room for what the image has there, and {below} in it is "
            "excluded: move that, or leave out d as well\n"
        )
        assert trees.facts(live.node) == before
    live.pull("--exclude", "own", "--exclude", "/d")
    assert {**trees.facts(live.node), b"": before[b""]} == before
    live.pull()
    live.is_image()
    assert live.saved()[below] == b"own"


def test_a_removed_directory_stays_for_what_is_excluded_in_it(quick: Path) -> None:
    live = Live(quick)
    (live.tree / "d/deep").mkdir(parents=True)
    (live.tree / "d/deep/f").write_bytes(b"f")
    (live.tree / "d/own").write_bytes(b"the image's, once")
    live.commit()
    live.pull("--exclude", "own")
    (live.node / "d/own").write_bytes(b"own")
    remove(live.tree / "d")
    live.commit()
    dry = live.pull("--exclude", "own", "--dry-run")
    live.pull("--exclude", "own")
    assert [str(p.relative_to(live.node)) for p in live.node.glob("d/**/*")] == ["d/own"]
    assert set(dry.changes) == {"m\t.", "D\td/deep", "D\td/deep/f"}


def test_a_rule_that_can_match_nothing_is_refused_before_anything_is_done(quick: Path) -> None:
    live = Live(quick)
    build(live.tree)
    live.install()
    before = trees.facts(live.node)
    (live.tree / "etc/fstab").write_bytes(b"")
    live.commit()
    assert "can match nothing" in live.pull("--exclude", "a//b", code=2).err
    (live.node / ".imgstore/exclude").write_bytes(b"[a\n")
    assert "can match nothing" in live.pull(code=2).err
    assert trees.facts(live.node) == before

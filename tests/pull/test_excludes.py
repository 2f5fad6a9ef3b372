"""Excluded paths are never touched, and come in when they no longer are."""

from __future__ import annotations

import os
from pathlib import Path

from support import trees
from support.live import Live


def build(tree: Path, salt: bytes = b"") -> None:
    for name in ("etc/keep/a", "etc/hosts", "var/log/x.log", "var/lib/db", "top"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(name.encode() + salt)


def test_on_the_first_pull_and_on_updates(place: Path) -> None:
    live = Live(place)
    build(live.tree)
    live.commit()
    rules = place / "rules"
    rules.write_text("# a comment\n*.log\n")
    excludes = ("--exclude", "/etc/keep", "--exclude-from", rules)
    live.pull(*excludes)
    assert not (live.node / "etc/keep").exists()
    assert not (live.node / "var/log/x.log").exists()
    assert (live.node / "etc/hosts").read_bytes() == b"etc/hosts"
    (live.node / "etc/keep").mkdir()
    (live.node / "etc/keep/a").write_bytes(b"mine")
    build(live.tree, b" again")
    (live.tree / "etc/keep/b").write_bytes(b"new below")
    live.commit()
    live.pull(*excludes)
    assert (live.node / "etc/keep/a").read_bytes() == b"mine"
    assert os.listdir(live.node / "etc/keep") == ["a"]
    assert live.saved() == {}
    verified = live.run("verify", live.node, *excludes)
    assert verified.changes == []
    mirrored = live.pull(*excludes, "--mirror")
    assert "already" in mirrored.lines[0]


def test_they_come_in_when_nothing_excludes_them_any_more(place: Path) -> None:
    live = Live(place)
    build(live.tree)
    os.link(live.tree / "etc/hosts", live.tree / "var/linked")
    live.commit()
    (live.node / ".imgstore").mkdir(parents=True, mode=0o700)
    (live.node / ".imgstore").chmod(0o700)
    (live.node / ".imgstore/exclude").write_text("/etc/hosts\n/var/log/\n")
    live.run("pull", live.remote, live.node)
    assert not (live.node / "var/log").exists()
    assert (live.node / "var/linked").stat().st_nlink == 1
    assert "already" in live.pull().lines[0]
    (live.node / ".imgstore/exclude").unlink()
    dry = live.pull("--dry-run")
    assert {"A\tetc/hosts", "A\tvar/log", "A\tvar/log/x.log"} <= set(dry.changes)
    live.pull()
    live.is_image()
    assert os.path.samefile(live.node / "etc/hosts", live.node / "var/linked")
    assert "already" in live.pull().lines[0]


def test_what_is_newly_excluded_stays_as_it_is(place: Path) -> None:
    live = Live(place)
    build(live.tree)
    live.install()
    build(live.tree, b" again")
    (live.tree / "top").unlink()
    live.commit()
    live.pull("--exclude", "top", "--exclude", "/var")
    assert (live.node / "top").read_bytes() == b"top"
    assert (live.node / "var/lib/db").read_bytes() == b"var/lib/db"
    assert (live.node / "etc/hosts").read_bytes() == b"etc/hosts again"
    assert trees.facts(live.node).keys() >= {b"top", b"var/log/x.log"}


def test_a_directory_that_has_to_give_way_and_holds_an_excluded_file(place: Path) -> None:
    live = Live(place)
    (live.tree / "data").mkdir()
    (live.tree / "data/file").write_bytes(b"x")
    live.install()
    (live.node / "data/mine.keep").write_bytes(b"mine")
    (live.tree / "data/file").unlink()
    (live.tree / "data").rmdir()
    (live.tree / "data").write_bytes(b"a file now")
    live.commit()
    before = trees.facts(live.node)
    refused = live.pull("--exclude", "*.keep", code=7)
    assert "data/mine.keep in it is excluded" in refused.err
    assert trees.differences(before, trees.facts(live.node)) == []

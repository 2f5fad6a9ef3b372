"""Hooks around a pull: when they run, what they are told, and what their failure means."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import trees
from support.live import Live


def script(node: Path, stage: str, text: str) -> None:
    folder = node / f".imgstore/hooks/{stage}-apply.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "50-test").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "50-test").chmod(0o755)


@pytest.fixture
def live(place: Path) -> Live:
    live = Live(place)
    (live.tree / "file").write_bytes(b"one")
    (live.tree / "gone").write_bytes(b"gone")
    live.install()
    (live.tree / "file").write_bytes(b"two")
    (live.tree / "gone").unlink()
    (live.tree / "new\nline").write_bytes(b"new")
    live.commit()
    return live


def test_a_failing_one_before_stops_all(live: Live) -> None:
    before = trees.facts(live.node)
    script(live.node, "pre", "echo not today; exit 3")
    failed = live.pull("--post-apply", f"touch {live.place}/ran", code=7)
    assert "not today" in failed.err
    assert trees.differences(before, trees.facts(live.node)) == []
    assert not (live.place / "ran").exists()
    script(live.node, "pre", "exit 0")
    live.pull()
    live.is_image()


def test_they_see_the_tree_before_and_after_and_what_changes(live: Live) -> None:
    lines = live.pull("--dry-run").changes
    script(live.node, "pre", 'cat file > "$IMGSTORE_DIR/../before"; cp $IMGSTORE_CHANGES ../told')
    live.pull("--post-apply", "cat file > ../after; echo $IMGSTORE_IMAGE $IMGSTORE_STAGE > ../say")
    assert (live.place / "before").read_bytes() == b"one"
    assert (live.place / "after").read_bytes() == b"two"
    assert (live.place / "say").read_text() == "web post-apply\n"
    told = (live.place / "told").read_text().splitlines()
    assert sorted(told) == sorted(lines)
    assert "A\tnew\\nline" in told


def test_a_failing_one_after_is_owed_until_it_succeeds(live: Live) -> None:
    script(
        live.node, "post", f'test -e {live.place}/ready && echo "$IMGSTORE_NEW_VERSION" > ../ran'
    )
    failed = live.pull(code=7)
    live.is_image()
    assert "post-apply" in failed.err
    again = live.pull(code=7)
    assert "already" in again.lines[0]
    live.run("recover", live.node, code=7)
    (live.place / "ready").write_bytes(b"")
    live.run("recover", live.node)
    assert len((live.place / "ran").read_text().strip()) == 64
    (live.place / "ran").unlink()
    live.pull()
    assert not (live.place / "ran").exists()


@pytest.mark.parametrize("how", ["--atomic", "first", "rollback", "--repair"])
def test_wherever_a_tree_changes(live: Live, how: str) -> None:
    ran = live.place / "ran"
    options = ("--pre-apply", f"echo pre >> {ran}", "--post-apply", f"echo post >> {ran}")
    match how:
        case "--atomic":
            live.pull("--atomic", *options)
            live.is_image()
        case "first":
            live.run("pull", live.remote, live.place / "fresh", *options)
        case "rollback":
            live.pull()
            live.run("rollback", live.node, *options)
        case "--repair":
            live.pull()
            (live.node / "file").write_bytes(b"changed")
            live.run("verify", "--repair", live.node, *options)
            live.is_image()
    assert ran.read_text() == "pre\npost\n"

"""Hooks around pulls, as the administrator sees them: when they run, with what, and what if not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import trees
from support.live import Live, remove, state_facts


def build(tree: Path) -> None:
    for folder in ("etc", "usr"):
        (tree / folder).mkdir(parents=True)
    for name in ("etc/hosts", "etc/odd\nname", "usr/program", "kernel"):
        (tree / name).write_bytes(trees.pseudo_random(name, 3000))


def next_version(live: Live, salt: str) -> str:
    (live.tree / "usr/program").write_bytes(f"program {salt}".encode())
    (live.tree / "etc" / salt).write_bytes(b"")
    return live.commit()


@pytest.fixture
def live(quick: Path) -> Live:
    live = Live(quick)
    build(live.tree)
    return live


def told(live: Live, stage: str) -> list[str]:
    """An option for a command that writes down what it is told, and keeps the changes."""
    log = live.place / stage
    command = (
        f'echo "$IMGSTORE_STAGE $IMGSTORE_DIR $IMGSTORE_IMAGE $IMGSTORE_OLD_VERSION '
        f'$IMGSTORE_NEW_VERSION $(pwd)" >> {log}; cp "$IMGSTORE_CHANGES" {log}.changes'
    )
    return [f"--{stage}", command]


def heard(live: Live, stage: str) -> list[list[str]]:
    log = live.place / stage
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split(" ") for line in lines]


def executable(live: Live, stage: str, name: str, text: str) -> Path:
    path = live.node / f".imgstore/hooks/{stage}.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        folder.chmod(0o700)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o700)
    return path


def changes(live: Live, stage: str) -> list[str]:
    return sorted((live.place / f"{stage}.changes").read_text().splitlines())


@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_what_hooks_are_told(live: Live, atomic: list[str]) -> None:
    both = [*told(live, "pre-apply"), *told(live, "post-apply"), *atomic]
    node = str(live.node)
    first = live.commit()
    dry = live.run("pull", live.remote, live.node, "--dry-run", *both)
    assert heard(live, "pre-apply") == heard(live, "post-apply") == []
    live.pull(*both)
    assert heard(live, "pre-apply") == [["pre-apply", node, "web", "", first, node]]
    assert heard(live, "post-apply") == [["post-apply", node, "web", "", first, node]]
    assert changes(live, "pre-apply") == changes(live, "post-apply") == sorted(dry.changes)

    live.pull(*both)
    assert heard(live, "pre-apply") == heard(live, "post-apply") == []

    remove(live.tree / "etc/odd\nname")
    (live.tree / "kernel").chmod(0o600)
    second = next_version(live, "one")
    dry = live.pull("--dry-run", *both)
    live.pull(*both)
    line = ["pre-apply", node, "web", first, second, node]
    assert heard(live, "pre-apply") == [line]
    assert heard(live, "post-apply") == [["post-apply", *line[1:]]]
    assert changes(live, "pre-apply") == changes(live, "post-apply") == sorted(dry.changes)
    assert "D\tetc/odd\\nname" in dry.changes

    back = [option for option in both if option != "--atomic"]
    live.run("rollback", live.node, *back)
    line = ["pre-apply", node, "web", second, first, node]
    assert heard(live, "pre-apply") == [line]
    assert heard(live, "post-apply") == [["post-apply", *line[1:]]]
    assert "A\tetc/odd\\nname" in changes(live, "post-apply")
    assert (live.node / "etc/odd\nname").exists()


def test_a_mirror_or_a_repair_that_changes_something_runs_them(live: Live) -> None:
    both = [*told(live, "pre-apply"), *told(live, "post-apply")]
    version = live.commit()
    live.pull()
    live.pull("--mirror", *both)
    live.run("verify", live.node, "--repair", *both)
    assert heard(live, "pre-apply") == heard(live, "post-apply") == []
    for verb in (["pull", "--mirror"], ["verify", "--repair"]):
        (live.node / "kernel").write_bytes(b"own")
        live.run(*verb, live.node, *both)
        for stage in ("pre-apply", "post-apply"):
            assert heard(live, stage) == [
                [stage, str(live.node), "web", version, version, str(live.node)]
            ]
            assert changes(live, stage) == ["M\tkernel"]


@pytest.mark.parametrize("how", ["command", "executable"])
@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_a_failing_pre_hook_stops_it_before_anything_changed(
    live: Live, how: str, atomic: list[str]
) -> None:
    live.install()
    next_version(live, "one")
    options = list(atomic)
    if how == "command":
        options += ["--pre-apply", "echo not today; exit 3", *told(live, "post-apply")]
        place = "pre-apply command 'echo not today; exit 3'"
    else:
        place = str(executable(live, "pre-apply", "10-no", "echo not today; exit 3\n"))
    before = trees.facts(live.node)
    ended = live.pull(*options, code=7)
    name = "pre-apply" if how == "command" else "10-no"
    assert ended.err == (
        f"imgstore: {name}: not today\n"
        f"imgstore: {place} ended with status 3: not today; "
        "nothing was changed: mend it and run it again\n"
    )
    assert trees.facts(live.node) == before
    assert heard(live, "post-apply") == []
    assert [name for name in os.listdir(live.place) if "imgstore" in name] == []
    shutil.rmtree(live.node / ".imgstore/hooks", ignore_errors=True)
    live.pull()
    live.is_image()


def test_a_failing_pre_hook_of_a_first_installation(live: Live) -> None:
    live.commit()
    live.run("pull", live.remote, live.node, "--pre-apply", "false", code=7)
    assert os.listdir(live.node) == [".imgstore"]
    live.run("pull", live.remote, live.node)
    live.is_image()


@pytest.mark.parametrize("verb", ["pull", "recover", "next version"])
@pytest.mark.parametrize("how", ["command", "executable"])
@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_a_failing_post_hook_is_run_again_until_it_succeeds(
    live: Live, how: str, verb: str, atomic: list[str]
) -> None:
    live.install()
    first = live.commit()
    (live.tree / "kernel").write_bytes(b"a new kernel")
    second = next_version(live, "one")
    go = live.place / "go"
    text = (
        f'cp "$IMGSTORE_CHANGES" {live.place}/post-apply.changes; '
        f'echo "$IMGSTORE_OLD_VERSION $IMGSTORE_NEW_VERSION" >> {live.place}/post-apply; '
        f"test -e {go} || exit 9"
    )
    options = list(atomic)
    if how == "command":
        options += ["--post-apply", text]
        place = f"post-apply command '{text}'"
    else:
        place = str(executable(live, "post-apply", "10-boot", text + "\n"))
    dry = live.pull("--dry-run")
    ended = live.pull(*options, code=7)
    live.is_image()
    assert ended.err.endswith(
        f"imgstore: {place} ended with status 9; the next pull runs it again\n"
    )
    assert ended.lines[-1].startswith(f"{live.node} is web ")
    assert heard(live, "post-apply") == [[first, second]]
    again = ["recover", live.node] if verb == "recover" else ["pull", live.node]
    assert live.run(*again, "--json", code=7).document["hook_error"]
    assert heard(live, "post-apply") == [[first, second]]
    assert changes(live, "post-apply") == sorted(dry.changes)
    if verb == "next version":
        second = next_version(live, "two")
        # It is told of all that changed since it last succeeded, the kernel as well.
        live.pull(*atomic, code=7)
        live.is_image()
        assert heard(live, "post-apply") == [[first, second]]
        assert {*dry.changes, "A\tetc/two", "M\tusr/program"} <= {*changes(live, "post-apply")}
    go.touch()
    live.run(*again)
    assert heard(live, "post-apply") == [[first, second]]
    live.run(*again)
    assert heard(live, "post-apply") == []


def test_the_first_that_fails_ends_it(live: Live) -> None:
    live.install()
    next_version(live, "one")
    log = live.place / "log"
    executable(live, "post-apply", "10-a", f"echo a >> {log}\n")
    executable(live, "post-apply", "20-b", f"echo b >> {log}; exit 1\n")
    executable(live, "post-apply", "30-c", f"echo c >> {log}\n")
    executable(live, "post-apply", "15-x.bak", f"echo x >> {log}\n")
    live.pull("--post-apply", f"echo command >> {log}", code=7)
    assert log.read_text().split() == ["a", "b"]
    executable(live, "post-apply", "20-b", f"echo b >> {log}\n")
    live.pull()
    assert log.read_text().split() == ["a", "b", "a", "b", "c", "command"]


def test_an_untrusted_hook_stops_it_before_anything_changed(live: Live) -> None:
    live.install()
    next_version(live, "one")
    for stage, code in (("pre-apply", 5), ("post-apply", 7)):
        path = executable(live, stage, "10-x", "true\n")
        path.chmod(0o722)
        before = trees.facts(live.node)
        ended = live.pull(code=code)
        assert "may be written by others" in ended.err
        if stage == "pre-apply":
            assert trees.facts(live.node) == before
            path.unlink()
        else:
            live.is_image()
            path.chmod(0o700)
            live.pull()


@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_cut_off_between_the_change_and_the_hook(live: Live, atomic: list[str]) -> None:
    """Power fails when the tree is the new version and the hook has not run."""
    live.install()
    next_version(live, "one")

    class Cut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise Cut

    both = [*told(live, "pre-apply"), *told(live, "post-apply")]
    for again in (["recover", live.node], ["pull", live.node]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("chunkstore.pull.hooks.after", cut)
            # The program says what happened to it and ends with the code for a fault of its own.
            assert "Cut" in live.pull(*both, *atomic, code=7).err
        live.is_image()
        assert heard(live, "post-apply") == []
        live.run(*again)
        assert len(heard(live, "post-apply")) == 1
        live.run(*again)
        assert heard(live, "post-apply") == []
        next_version(live, "two")


def test_a_hook_may_look_at_the_tree_and_finds_the_old_and_the_new(live: Live) -> None:
    live.install()
    before = (live.node / "usr/program").read_text("latin-1")
    next_version(live, "one")
    live.pull(
        "--pre-apply",
        f"cat usr/program > {live.place}/before",
        "--post-apply",
        f"cat usr/program > {live.place}/after",
    )
    assert (live.place / "before").read_text("latin-1") == before
    assert (live.place / "after").read_text() == "program one"


def test_hooks_of_a_dry_run_are_not_run_and_leave_no_list(live: Live) -> None:
    live.install()
    next_version(live, "one")
    executable(live, "pre-apply", "10", f"touch {live.place}/ran\n")
    before = state_facts(live.node)
    live.pull("--dry-run", "--pre-apply", "false")
    assert state_facts(live.node) == before
    assert not (live.place / "ran").exists()

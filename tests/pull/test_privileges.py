"""Without root, or where something can't be set: one line for each kind, or an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from support import trees
from support.live import Live, imgstore

from chunkstore.worktree.preload import everything

NOBODY = 65534


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def as_nobody(place: Path, *arguments: object) -> Ended:
    """The command line run by somebody who owns nothing here, in a copy of this process.

    He might not be allowed to read the interpreter, so all of it is in memory before.
    """
    everything()
    pid = os.fork()
    if not pid:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            ended = imgstore(*arguments)
            (place / "his/out").write_bytes(ended.raw)
            (place / "his/err").write_text(ended.err)
            code = ended.code
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(code, (place / "his/out").read_text(), (place / "his/err").read_text())


@pytest.fixture
def live(place: Path) -> Live:
    live = Live(place)
    (live.tree / "dev").mkdir()
    for number in range(3):
        (live.tree / f"file {number}").write_bytes(b"root's")
    os.mknod(live.tree / "dev/null", 0o20666, os.makedev(1, 3))
    os.mknod(live.tree / "dev/zero", 0o20666, os.makedev(1, 5))
    live.commit()
    place.chmod(0o755)
    for folder, folders, files in os.walk(live.store.root):
        folders[:] = [name for name in folders if name != "local"]  # keys are ours alone
        os.chmod(folder, 0o755)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)
    (place / "his").mkdir()
    os.chown(place / "his", NOBODY, NOBODY)
    return live


@trees.needs_root
def test_each_kind_is_one_line_with_a_count(live: Live) -> None:
    node = live.place / "his/node"
    done = as_nobody(live.place, "pull", live.remote, node)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len([line for line in lines if "owners could not be set on 5 paths" in line]) == 1
    assert len([line for line in lines if "devices could not be set on 2 paths" in line]) == 1
    assert (node / "file 1").read_bytes() == b"root's"
    assert os.listdir(node / "dev") == []
    again = as_nobody(live.place, "pull", node)
    assert "already" in again.stdout
    (live.tree / "file 1").write_bytes(b"new")
    live.commit()
    updated = as_nobody(live.place, "pull", node)
    assert updated.returncode == 0, updated.stderr
    assert "changed here" not in updated.stderr
    assert (node / "file 1").read_bytes() == b"new"


@trees.needs_root
def test_strict_fails_before_an_update_changes_anything(live: Live) -> None:
    node = live.place / "his/node"
    refused = as_nobody(live.place, "pull", "--strict", live.remote, node)
    assert refused.returncode == 7
    assert as_nobody(live.place, "pull", live.remote, node).returncode == 0
    (live.tree / "file 1").write_bytes(b"new")
    live.commit()
    before = trees.facts(node)
    refused = as_nobody(live.place, "pull", "--strict", node)
    assert refused.returncode == 7
    assert "owners can't be set on file 1" in refused.stderr
    assert trees.differences(before, trees.facts(node)) == []


@trees.needs_root
def test_devices_that_are_not_wanted(live: Live) -> None:
    node = live.place / "plain"
    done = live.run("pull", "--no-devices", live.remote, node)
    assert "devices could not be set on 2 paths" in done.err
    assert os.listdir(node / "dev") == []
    live.run("pull", live.remote, live.place / "with")
    assert sorted(os.listdir(live.place / "with/dev")) == ["null", "zero"]

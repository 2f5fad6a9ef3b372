"""What can't be set: one line for each kind of thing, or with `--strict` an error."""

from __future__ import annotations

import os
import pickle
import re
import struct
from pathlib import Path

import pytest
from support import trees
from support.live import Ended, Live, imgstore
from support.trees import needs_root

from chunkstore.worktree.preload import everything

pytestmark = needs_root

NOBODY = 65534


def as_nobody(*arguments: object) -> Ended:
    """Run a command line without any privilege."""
    everything()
    imgstore("pull", "--help")  # what comes with the verb
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with open(writing, "wb") as pipe:
                pickle.dump(imgstore(*arguments), pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    ended = pickle.loads(data)
    assert isinstance(ended, Ended)
    return ended


@pytest.fixture
def live(quick: Path) -> Live:
    """An image with things that only root can set, and a node that belongs to nobody."""
    quick.chmod(0o755)
    live = Live(quick)
    (live.tree / "d").mkdir()
    for number in range(3):
        (live.tree / f"d/owned {number}").write_bytes(b"owned")
        os.chown(live.tree / f"d/owned {number}", 1, 2)
    (live.tree / "plain").write_bytes(b"plain")
    for path in (live.tree, live.tree / "d", live.tree / "plain"):
        os.chown(path, NOBODY, NOBODY)
    os.mknod(live.tree / "null", 0o020666, os.makedev(1, 3))
    os.mknod(live.tree / "zero", 0o020666, os.makedev(1, 5))
    able = live.tree / "able"
    able.write_bytes(b"")
    os.chown(able, NOBODY, NOBODY)
    os.setxattr(able, "security.capability", struct.pack("<5I", 0x02000001, 0x2400, 0, 0, 0))
    live.commit()
    live.node.mkdir()
    os.chown(live.node, NOBODY, NOBODY)
    return live


def kinds(ended: Ended) -> dict[str, int]:
    """Warnings by what they are about, with their counts."""
    found = {}
    for line in ended.err.splitlines():
        told = re.fullmatch(r"imgstore: (.+) could not be set on (\d+) paths?, .+: .+", line)
        assert told, line
        assert told[1] not in found, "one line for each kind"
        found[told[1]] = int(told[2])
    return found


def test_one_line_for_each_kind(live: Live) -> None:
    ended = as_nobody("pull", live.remote, live.node)
    assert ended.code == 0, ended
    assert kinds(ended) == {"owners": 3, "devices": 2, "security xattrs": 1}
    assert (live.node / "d/owned 1").read_bytes() == b"owned"
    assert (live.node / "d/owned 1").stat().st_uid == NOBODY
    assert not (live.node / "null").exists()
    (live.tree / "d/owned 1").write_bytes(b"owned by another")
    (live.tree / "plain").write_bytes(b"changed")
    os.mknod(live.tree / "more", 0o020666, os.makedev(1, 5))
    live.commit()
    report = as_nobody("pull", live.node, "--json")
    assert report.code == 0, report
    found = {item["kind"]: item["count"] for item in report.document["shortfalls"]}
    assert found == {"owners": 1, "devices": 1}
    assert (live.node / "plain").read_bytes() == b"changed"
    assert (live.node / "d/owned 1").read_bytes() == b"owned by another"


def test_strict_stops_an_update_before_the_tree_changes(live: Live) -> None:
    assert as_nobody("pull", live.remote, live.node).code == 0
    before = trees.facts(live.node)
    (live.tree / "plain").write_bytes(b"changed")
    (live.tree / "d/owned 1").write_bytes(b"owned by another")
    live.commit()
    ended = as_nobody("pull", live.node, "--strict")
    assert ended.code == 7
    assert ended.err.startswith("imgstore: owners can't be set on d/owned 1: ")
    assert len(ended.err.splitlines()) == 1
    assert trees.facts(live.node) == before
    assert as_nobody("verify", live.node, "--json").document["pending"] is False
    assert as_nobody("pull", live.node).code == 0
    assert (live.node / "plain").read_bytes() == b"changed"


def test_strict_is_content_when_all_can_be_set(live: Live) -> None:
    assert as_nobody("pull", live.remote, live.node).code == 0
    (live.tree / "plain").write_bytes(b"changed")
    live.commit()
    ended = as_nobody("pull", live.node, "--strict")
    assert (ended.code, ended.err) == (0, "")
    assert (live.node / "plain").read_bytes() == b"changed"


def test_what_shows_only_in_the_tree_is_told_when_all_else_is_done(live: Live) -> None:
    """New metadata for a file that stays where it is."""
    assert as_nobody("pull", live.remote, live.node).code == 0
    os.chown(live.tree / "plain", 1, 2)
    (live.tree / "new").write_bytes(b"new")
    os.chown(live.tree / "new", NOBODY, NOBODY)
    live.commit()
    ended = as_nobody("pull", live.node, "--strict")
    assert ended.code == 7
    assert "owners could not be set on plain" in ended.err
    assert ended.err.endswith("all else is done\n")
    assert (live.node / "new").read_bytes() == b"new"
    again = as_nobody("pull", live.node, "--strict")
    assert (again.code, again.err) == (0, "")


def test_strict_stops_a_first_installation(live: Live) -> None:
    ended = as_nobody("pull", live.remote, live.node, "--strict")
    assert ended.code == 7
    assert len(ended.err.splitlines()) == 1
    assert "can't be set on" in ended.err
    # It goes on without, from where it was.
    ended = as_nobody("pull", live.node)
    assert ended.code == 0
    assert kinds(ended).keys() == {"owners", "devices", "security xattrs"}
    assert as_nobody("verify", live.node, "--json").document["pending"] is False


def test_devices_may_be_refused(live: Live) -> None:
    ended = live.run("pull", live.remote, live.node, "--no-devices")
    assert kinds(ended) == {"devices": 2}
    assert not (live.node / "null").exists()
    ended = live.run("pull", live.node, "--no-devices", "--mirror", "--strict", code=7)
    assert "devices can't be set on null" in ended.err
    live.run("pull", live.node, "--mirror")
    live.is_image()


def test_a_tree_of_somebody_else(live: Live) -> None:
    """Unprivileged, on a tree that root pulled: a line, and nothing is changed."""
    live.run("pull", live.remote, live.node)
    before = trees.facts(live.node)
    for verb in (["pull"], ["pull", "--dry-run"], ["verify"], ["recover"], ["rollback"]):
        ended = as_nobody(*verb, live.node)
        assert ended.code == 7, ended
        assert len(ended.err.splitlines()) == 1
        assert "fault" not in ended.err
    assert trees.facts(live.node) == before


def test_atomic_without_privilege(live: Live) -> None:
    (live.place / "home").mkdir()
    os.chown(live.place / "home", NOBODY, NOBODY)
    node = live.place / "home/node"
    assert as_nobody("pull", live.remote, node).code == 0
    (live.tree / "plain").write_bytes(b"changed")
    live.commit()
    assert as_nobody("pull", node, "--atomic").code == 0
    assert (node / "plain").read_bytes() == b"changed"
    assert as_nobody("rollback", node).code == 0
    assert (node / "plain").read_bytes() == b"plain"

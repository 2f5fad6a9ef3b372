"""The node's own state: what it says survives, and what it does not say is never guessed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support import trees

from chunkstore.errors import Conflict, Corrupt, LocalError
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.manifest import NodeRef
from chunkstore.worktree.installed import After, Installed, Layer, Source
from chunkstore.worktree.node import NodeState


def version(number: int) -> Installed:
    root = NodeRef(b"", bytes([number]) * 32, 100 + number, 10, 1000)
    return Installed(bytes(16), (Layer("web", bytes([100 + number]) * 32),), root)


SOURCE = Source("http://head:8730/", "web:latest")


def test_a_new_node_knows_nothing(quick: Path) -> None:
    with NodeState(str(quick)) as state:
        assert state.is_new
        assert (state.installed, state.pending, state.halves, state.source) == (
            None,
            None,
            [],
            None,
        )
        assert state.nodes.get(bytes(32)) is None
    assert (quick / ".imgstore").stat().st_mode & 0o777 == 0o700


def test_what_was_said_is_known_the_next_time(quick: Path) -> None:
    with NodeState(str(quick)) as state:
        state.begin(version(1), SOURCE)
    with NodeState(str(quick)) as state:
        assert not state.is_new
        assert (state.installed, state.pending) == (None, version(1))
        state.complete(version(1), SOURCE)
    with NodeState(str(quick)) as state:
        assert (state.installed, state.pending, state.halves) == (version(1), None, [])
        assert state.source == SOURCE


def test_every_version_the_tree_may_hold_parts_of_is_kept(quick: Path) -> None:
    with NodeState(str(quick)) as state:
        state.complete(version(1), SOURCE)
        for number in (2, 3, 2, 3, 4):
            state.begin(version(number), SOURCE)
    with NodeState(str(quick)) as state:
        assert state.pending == version(4)
        assert sorted(half.version for half in state.halves) == [
            version(number).version for number in (2, 3, 4)
        ]
        state.complete(version(4), SOURCE)
        assert state.halves == []


def test_what_was_before_and_what_has_to_run_after(quick: Path) -> None:
    after = After("web", "", "ab", ("true",))
    with NodeState(str(quick)) as state:
        state.begin(version(1), SOURCE, b"token", after=after)
    with NodeState(str(quick)) as state:
        assert (state.token, state.pending_source, state.after) == (b"token", SOURCE, None)
        state.complete(version(1), SOURCE, excludes=(b"/var",))
    with NodeState(str(quick)) as state:
        assert (state.token, state.previous, state.after) == (b"", None, after)
        assert state.excludes == (b"/var",)
        state.complete(version(2), SOURCE)
    with NodeState(str(quick)) as state:
        assert (state.previous, state.after, state.excludes) == (version(1), None, ())
        state.complete(version(2), SOURCE)
        assert state.previous == version(1)


def test_a_look_changes_nothing(quick: Path) -> None:
    with NodeState(str(quick / "never"), read_only=True) as state:
        assert state.is_new
        state.nodes.add({bytes(32): b"node"})
        assert state.nodes.missing([bytes(32)]) == []
    assert os.listdir(quick) == []
    with NodeState(str(quick)) as state:
        state.complete(version(1), SOURCE)
    before = trees.facts(quick, skip=())
    digest = chunk_digest(b"node")
    with NodeState(str(quick), read_only=True) as state:
        assert state.installed == version(1)
        state.nodes.add({digest: b"node"})
        assert state.nodes.get(digest) == b"node"
        assert state.nodes.missing([digest, bytes(32)]) == [bytes(32)]
    assert trees.differences(before, trees.facts(quick, skip=())) == []
    with NodeState(str(quick)) as state:
        assert state.nodes.get(digest) is None


def test_nodes(quick: Path) -> None:
    nodes = {chunk_digest(data): data for data in (b"one", b"two", b"three")}
    one, two, three = nodes
    with NodeState(str(quick)) as state:
        state.nodes.add(nodes)
        state.nodes.add({one: b"one"})
        assert state.nodes.missing([one, bytes(32), three]) == [bytes(32)]
        assert state.nodes.get(two) == b"two"
        assert state.nodes.count() == 3
        state.keep_nodes([one, three, bytes(32)])
        assert state.nodes.get(two) is None
        assert state.nodes.get(three) == b"three"
        assert state.nodes_kept == state.nodes.count() == 2


def test_a_damaged_node_is_a_missing_one(quick: Path) -> None:
    digest = chunk_digest(b"node")
    with NodeState(str(quick)) as state:
        state.nodes.add({digest: b"node"})
    database = sqlite3.connect(quick / ".imgstore/state.sqlite")
    database.execute("UPDATE node SET data = ?", (b"n0de",))
    database.commit()
    database.close()
    with NodeState(str(quick)) as state:
        assert state.nodes.get(digest) is None
        state.nodes.add({digest: b"node"})
        assert state.nodes.get(digest) == b"node"


def test_one_at_a_time(quick: Path) -> None:
    with NodeState(str(quick)), pytest.raises(Conflict, match="another pull"):
        NodeState(str(quick))
    with NodeState(str(quick)):
        pass


def test_a_baseline_is_locked_once_and_not_for_every_question(quick: Path) -> None:
    """A pull asks it for every file, and has the node to itself."""
    with NodeState(str(quick)) as state:
        path = quick / ".imgstore/baseline.sqlite"
        baseline = state.baseline()
        baseline.note(b"file", quick.stat())
        baseline.flush()
        with closing(sqlite3.connect(path, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("SELECT * FROM mark").fetchone()
            baseline.close()
            assert other.execute("SELECT count(*) FROM mark").fetchone() == (1,)
    assert [name for name in os.listdir(quick / ".imgstore") if "journal" in name] == []


def test_nothing_stays_open(quick: Path) -> None:
    before = trees.open_descriptors()
    with NodeState(str(quick)), pytest.raises(Conflict):
        NodeState(str(quick))
    (quick / ".imgstore/state.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(Corrupt):
        NodeState(str(quick))
    assert trees.open_descriptors() == before


def test_a_later_version_of_the_state(quick: Path) -> None:
    with NodeState(str(quick)):
        pass
    database = sqlite3.connect(quick / ".imgstore/state.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(Corrupt, match="version 99"):
        NodeState(str(quick))


def test_a_place_that_is_not_ours(quick: Path) -> None:
    (quick / "elsewhere").mkdir()
    os.symlink("elsewhere", quick / ".imgstore")
    with pytest.raises(LocalError, match="not a directory of ours"):
        NodeState(str(quick))
    (quick / ".imgstore").unlink()
    (quick / ".imgstore").write_bytes(b"")
    with pytest.raises(LocalError, match="not a directory of ours"):
        NodeState(str(quick))
    (quick / ".imgstore").unlink()
    if os.geteuid() == 0:
        (quick / ".imgstore").mkdir()
        os.chown(quick / ".imgstore", 65534, 65534)
        with pytest.raises(LocalError, match="not a directory of ours"):
            NodeState(str(quick))
    assert os.listdir(quick / "elsewhere") == []
    with pytest.raises(LocalError):
        NodeState(str(quick / "nowhere"))

"""Nothing is opened that need not be, and what can't be read is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import record

from chunkstore.errors import LocalError


@trees.needs("strace")
def test_an_unchanged_tree_is_not_opened(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    script = """
import sys, time
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
assert not stores.record(Store(sys.argv[1]), Path(sys.argv[2])).is_new
"""
    search = os.pathsep.join([str(stores.PROJECT), str(stores.PROJECT / "tests")])
    trace = place / "trace"
    traced = "trace=open,openat,openat2,creat,open_by_handle_at,readlink,readlinkat,listxattr"
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-y", "-e", traced, "-o", str(trace)),
            *(sys.executable, "-c", script, str(store.root), str(tree)),
        ],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    touched = [line for line in trace.read_text().splitlines() if str(tree) in line]
    files = [line for line in touched if "O_DIRECTORY" not in line]
    assert len(touched) > len([*tree.rglob("*/")]), "the trace shows the directories"
    # The worktree's own exclude file is asked for; there is none.
    assert [line for line in files if ".imgstore/exclude" not in line] == []


@trees.needs_root
def test_what_can_not_be_read_is_named_and_nothing_recorded(place: Path) -> None:
    place.chmod(0o755)
    tree = place / "tree"
    tree.mkdir(mode=0o755)
    for name in ("fine", "secret", "also secret"):
        (tree / name).write_bytes(b"")
        os.chown(tree / name, 1, 1)
        (tree / name).chmod(0o600)
    os.chown(tree / "fine", 65534, 65534)
    (tree / "locked").mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    script = """
import os, sys
from pathlib import Path
from support import stores
from chunkstore.errors import LocalError
from chunkstore.objects.chunker import _library
_library()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = stores.make_store(Path(sys.argv[1]))
try:
    stores.record(store, Path(sys.argv[2]))
except LocalError as error:
    print(error)
print(store.images(), sorted(stores.listing(store)))
"""
    process = stores.python(script, place / "store", tree)
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    said, left = output.decode().splitlines()
    for name in ("secret", "also secret", "locked"):
        assert f"{name}: Permission denied" in said
    assert "fine" not in said
    assert "nothing was recorded" in said
    assert left == "[] ['roots/1', 'store.json']"


def test_a_worktree_that_is_not_there(place: Path) -> None:
    store = stores.make_store(place / "store")
    with pytest.raises(LocalError, match="nowhere"):
        record(store, place / "nowhere")

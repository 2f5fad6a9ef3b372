"""The tree that is updated may hold the very program that updates it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support import stores, trees
from support.live import Live
from support.stores import PROJECT

WATCHER = """
import sys
from chunkstore.worktree import apply, journal
if sys.argv.pop(1) == "fail":
    def run(self):
        raise OSError(28, "no room, says the test")
    apply.Applier.run = run
real = journal.write
def write(*arguments):
    real(*arguments)
    def hook(event, details):
        if event == "import":
            sys.stderr.write(f"late import of {details[0]}\\n")
    sys.addaudithook(hook)
journal.write = write
from imgstore.app import main
sys.exit(main(sys.argv[1:]))
"""


def run(script: str, *arguments: object, path: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([str(path), str(path / "cli")])
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_imported_once_the_tree_changes(place: Path) -> None:
    live = Live(place)
    (live.tree / "file").write_bytes(b"one")
    (live.tree / "gone").write_bytes(b"gone")
    live.install()
    (live.tree / "file").write_bytes(b"two")
    (live.tree / "gone").unlink()
    live.commit()
    (live.node / "file").write_bytes(b"changed here")
    failed = run(WATCHER, "fail", "pull", "-vv", live.node)
    assert failed.returncode == 7
    assert "no room, says the test" in failed.stderr
    assert "late import" not in failed.stderr
    (live.tree / "file").write_bytes(b"three")
    live.commit()
    done = run(WATCHER, "work", "pull", "--post-apply", "true", live.node)
    assert done.returncode == 0, done.stderr
    assert "late import" not in done.stderr
    live.is_image()


def test_its_own_modules_are_replaced_by_something_else(place: Path) -> None:
    live = Live(place)
    home = live.tree / "opt/imgstore"
    for package in ("chunkstore", "cli"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / package, home / package, ignore=ignore)
    live.install()
    for path in home.rglob("*.py"):
        path.write_text("raise SystemExit('this is another version')\n")
    (home / "cli/imgstore/hints.py").unlink()
    live.commit()
    stores.settle()
    own = live.node / "opt/imgstore"
    start = "import sys; from imgstore.app import main; sys.exit(main(sys.argv[1:]))"
    done = run(start, "pull", live.node, path=own)
    assert done.returncode == 0, done.stderr
    caches = [path for path in trees.facts(live.node) if b"__pycache__" in path]
    live_facts = {k: v for k, v in trees.facts(live.node).items() if k not in caches}
    image = trees.facts(live.tree)
    assert live_facts.keys() == image.keys()
    assert all(live_facts[path].content == facts.content for path, facts in image.items())
    assert "another version" in run(start, "pull", live.node, path=own).stderr


def test_all_that_works_on_a_tree_is_in_memory(place: Path) -> None:
    """Also what nothing needs until something goes wrong."""
    script = (
        "import sys; from chunkstore.worktree.preload import everything; everything(); "
        "print(*sys.modules, sep='\\n')"
    )
    loaded = set(run(script).stdout.split())
    for package in ("objects", "storage/backends", "worktree", "pull"):
        for file in (PROJECT / "chunkstore" / package).glob("*.py"):
            if file.stem != "__init__":
                assert f"chunkstore.{package.replace('/', '.')}.{file.stem}" in loaded
    assert {"traceback", "encodings.idna", "http.client"} <= loaded

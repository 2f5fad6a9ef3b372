"""A tree that holds the program that updates it: nothing is read from it once it changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import zstandard
from support import stores, trees
from support.servers import nginx
from support.stores import record

from chunkstore.storage.backends.local import LocalBackend

CODE = [stores.PROJECT / "chunkstore", stores.PROJECT / "cli/imgstore"]
PACKAGES = Path(zstandard.__file__).parent.parent

WATCHED = """
import os, sys
late = []
absent = []
def all_modules():
    # Listed without importing: whatever the library has for trees and remotes.
    import chunkstore
    top = os.path.dirname(chunkstore.__file__)
    for package in ("objects", "storage/backends", "worktree", "pull"):
        for name in os.listdir(os.path.join(top, package)):
            if name.endswith(".py") and name != "__init__.py":
                yield ".".join(("chunkstore", *package.split("/"), name[:-3]))
    yield from ("encodings.idna", "traceback", "http.client", "json", "imgstore.hints")
is_late = False
def hook(event, arguments):
    if is_late and event == "import":
        late.append(arguments[0])
sys.addaudithook(hook)

from imgstore.app import main
from chunkstore.worktree import journal
from chunkstore.worktree.apply import Applier
real_write, real_run = journal.write, Applier.run
def write(*arguments):
    global is_late
    real_write(*arguments)
    is_late = True
journal.write = write
trouble = os.environ.get("TROUBLE")
def run(self):
    global is_late
    is_late = True
    absent.extend(name for name in all_modules() if name not in sys.modules)
    real_run(self)
    if trouble == "disk":
        raise OSError(5, os.strerror(5), b"some/path")
    if trouble == "interrupt":
        raise KeyboardInterrupt
    if trouble == "fault":
        raise ZeroDivisionError("a fault")
    if trouble == "corrupt":
        from chunkstore.errors import Corrupt
        raise Corrupt("a damaged thing", where="x")
    if trouble == "memory":
        raise MemoryError
Applier.run = run
code = main(sys.argv[1:])
is_late = False
sys.stdout.flush()
print("code", code, *sorted({*late, *absent}), file=sys.stderr)
"""

SITUATIONS = {
    "plain": ([], ""),
    "JSON": (["--json"], ""),
    "verbose": (["-v"], ""),
    "a failing disk": ([], "disk"),
    "a failing disk, told at length": (["-vv"], "disk"),
    "interrupted": ([], "interrupt"),
    "a fault": (["-vv"], "fault"),
    "corrupt": ([], "corrupt"),
    "no memory": ([], "memory"),
    "a hook": (["--post-apply", "echo hello"], ""),
    "a hook that fails": (["--post-apply", "exit 3"], ""),
    "a mirror": (["--mirror"], ""),
    "limited": (["--limit-rate", "10M"], ""),
    "atomic": (["--atomic"], ""),
}
CODES = {"disk": 7, "interrupt": 130, "fault": 7, "corrupt": 4, "memory": 7}


@pytest.mark.parametrize(
    ("situation", "remote"),
    [
        *((situation, "path") for situation in SITUATIONS),
        *((situation, "http") for situation in ("JSON", "a failing disk", "a hook", "limited")),
    ],
)
def test_nothing_is_imported_once_the_tree_changes(
    place: Path, situation: str, remote: str
) -> None:
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    (tree / "file").write_bytes(b"one")
    (tree / "changed").write_bytes(b"one")
    store = stores.make_store(place / "store")
    options, trouble = SITUATIONS[situation]

    def call(*arguments: str, trouble: str = "") -> tuple[str, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *arguments],
            env={**os.environ, "TROUBLE": trouble, "PYTHONPATH": os.pathsep.join(_roots())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        last = done.stderr.splitlines()[-1].split()
        assert last[0] == "code", done.stderr
        return last[1], last[2:]

    def work(location: str) -> None:
        assert call("pull", "--trust-first", f"{location}/web", str(node))[0] == "0"
        (node / "changed").write_bytes(b"changed here")
        (tree / "file").write_bytes(b"two")
        (tree / "changed").write_bytes(b"two")
        (tree / "new").mkdir()
        stores.settle()
        record(store, tree)
        code, late = call("pull", *options, f"{location}/web", str(node), trouble=trouble)
        expected = 7 if situation == "a hook that fails" else CODES.get(trouble, 0)
        assert code == str(expected)
        assert late == []
        if trouble:
            assert call("recover", str(node)) == ("0", [])

    record(store, tree)
    if remote == "path":
        work(store.root)
    else:
        with nginx(Path(store.root), place / "server") as url:
            work(url)


def _roots() -> list[str]:
    return [str(path.parent) for path in CODE]


def environment_in(tree: Path) -> Path:
    """A Python of its own, with its library and this program; its interpreter."""
    home = tree / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = home / "lib" / version
    (home / "bin").mkdir(parents=True)
    interpreter = Path(sys._base_executable)  # type: ignore[attr-defined]
    shutil.copy(os.path.realpath(interpreter), home / "bin" / version)
    skipped = ("site-packages", "test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip")
    skipped += ("pydoc_data", "unittest", "distutils", "xmlrpc", "wsgiref", "curses", "dbm")
    ignore = shutil.ignore_patterns(*skipped, "__pycache__", "turtledemo", "config-*", "*.a")
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=ignore, symlinks=True)
    shared = sysconfig.get_config_var("LDLIBRARY") or ""
    place = Path(sysconfig.get_config_var("LIBDIR") or "/") / shared
    if ".so" in shared and place.exists():
        shutil.copy(place, home / "lib" / shared)
    for path in CODE:
        shutil.copytree(path, library / path.name, ignore=ignore)
    for name in sorted(os.listdir(PACKAGES)):
        needed = ("blake3", "cryptography", "fastcdc", "isal", "lz4", "msgpack", "shtab", "tqdm")
        if name.startswith((*needed, "zlib_ng", "zstandard", "_zstandard", "_cffi", "cffi")):
            source, target = PACKAGES / name, library / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignore)
            else:
                shutil.copy(source, target)
    return home / "bin" / version


@pytest.mark.parametrize("options", [("--post-apply", "true"), ("--json", "--mirror")])
def test_a_program_that_replaces_itself(place: Path, options: tuple[str, ...]) -> None:
    """Every file of the interpreter, its library and the program becomes something else."""
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    environment_in(tree)
    store = stores.make_store(place / "store", chunker=None)
    record(store, tree)
    stores.bring(LocalBackend(store.root), "web", node)
    stale = 0
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            stale += 1
            path.write_bytes(b"garbage " + os.fsencode(path.name))
    assert stale > 500
    (tree / "python/lib/new").write_bytes(b"new")
    stores.settle()
    record(store, tree)
    interpreter = next((node / "python/bin").iterdir())
    libraries = str(node / "python/lib")
    done = subprocess.run(
        [interpreter, "-B", "-m", "imgstore", "pull", *options, f"{store.root}/web", str(node)],
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": libraries, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    if "--json" in options:
        assert json.loads(done.stdout)["changed"] is True
    else:
        assert b"changed" in done.stdout
    trees.assert_same(tree, node)


def test_a_watch_goes_on_as_the_program_it_pulled(place: Path) -> None:
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    environment_in(tree)
    store = stores.make_store(place / "store", chunker=None)
    record(store, tree)
    stores.bring(LocalBackend(store.root), "web", node)
    program = next(tree.rglob("imgstore/commands/pull.py"))
    program.write_text(program.read_text() + "\nprint('the new program', flush=True)\n")
    stores.settle()
    record(store, tree)
    interpreter = next((node / "python/bin").iterdir())
    with subprocess.Popen(
        [interpreter, "-B", "-m", "imgstore", "pull", "--watch", f"{store.root}/web", str(node)],
        env={
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(node / "python/lib"),
            "LC_ALL": "C.UTF-8",
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        try:
            lines = [watching.stdout.readline() for _ in range(3)]
        finally:
            watching.terminate()
    assert "changed" in lines[0]
    assert lines[1] == "the new program\n"
    assert "already" in lines[2]
    assert watching.returncode == 130

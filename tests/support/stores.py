"""Stores to commit to and pull from, and ways to look at what they hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from chunkstore.checkout import CheckoutReport, checkout
from chunkstore.commit import CommitReport, commit
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import parse_spec
from chunkstore.pull import PullReport, pull
from chunkstore.storage import store as stores
from chunkstore.storage.backend import Reader
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.storage.store import Store

SMALL = Parameters(1024, 4096, 16384)
"""Cuts small files into several chunks, so that trees of a few megabytes have list nodes."""
SETTLE = 0.06
"""Seconds after which a timestamp is clearly past."""
PROJECT = Path(__file__).resolve().parent.parent.parent


def make_store(path: Path, *, chunker: Parameters | None = SMALL, **options: str) -> Store:
    return stores.create(str(path), chunker=chunker, **options)


def settle() -> None:
    """Wait until nothing that was written so far looks as if it might still change unseen."""
    time.sleep(SETTLE)


def record(store: Store, tree: Path, image: str = "web", **options: object) -> CommitReport:
    """Commit with the time of day."""
    return commit(store, image, str(tree), now=time.time_ns(), **options)  # type: ignore[arg-type]


def restore(store: Store, spec: str, directory: Path) -> CheckoutReport:
    return checkout(store, store.resolve(parse_spec(spec)).version, str(directory))


def bring(reader: Reader, spec: str, directory: Path) -> PullReport:
    return pull(reader, parse_spec(spec), str(directory))


def listing(store: Store, *, local: bool = False) -> dict[str, tuple[int, int]]:
    """Every file of a store with inode and time, which change when it is written again."""
    found = {}
    for above, folders, names in os.walk(store.root):
        if not local and "local" in folders:
            folders.remove("local")
        for name in names:
            path = os.path.join(above, name)
            status = os.stat(path)
            found[os.path.relpath(path, store.root)] = (status.st_ino, status.st_mtime_ns)
    return found


def in_memory(store: Store) -> MemoryBackend:
    """The public part of a store, as a remote."""
    backend = MemoryBackend()
    for name in listing(store):
        backend.put(name, Path(store.root, name).read_bytes())
    return backend


def entries_of(store: Store, root: NodeRef) -> list[Entry]:
    with store.chunks() as chunks:
        return list(manifest.walk(root, chunks.get))


def chunks_of(store: Store, root: NodeRef) -> set[bytes]:
    """The digests of all content of a version."""
    with store.chunks() as chunks:
        return {
            digest
            for entry in manifest.walk(root, chunks.get)
            for digest, _ in chunklist.walk(entry, chunks.get)
            if digest != chunklist.HOLE
        }


def fresh_root(place: Path, tree: Path, excludes: Iterable[bytes] = ()) -> NodeRef:
    """The manifest root of a tree as a store makes it that has never seen it."""
    path = place / f"fresh {time.monotonic_ns()}"
    store = make_store(path)
    try:
        return record(store, tree, excludes=list(excludes)).version.version.root
    finally:
        store.backend.close()
        subprocess.run(["rm", "-rf", str(path)], check=True)


def python(script: str, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
    """Start Python on a script that can import the project and `support`."""
    search = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill a process that has said it is ready, after a time; whether it was still running."""
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready, process.stderr.read() if process.stderr else b""
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode != 0

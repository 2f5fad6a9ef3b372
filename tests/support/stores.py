"""Stores to commit to and pull from, and ways to look at what they hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunkstore.checkout import CheckoutReport, checkout
from chunkstore.commit import CommitReport, commit
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import parse_layers, parse_spec
from chunkstore.pull import PullOptions, PullReport, Trust, pull
from chunkstore.storage import founding
from chunkstore.storage.backend import Reader
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.storage.store import Store

SMALL = Parameters(1024, 4096, 16384)
"""Cuts small files into several chunks, so that trees of a few megabytes have list nodes."""
SETTLE = 0.06
"""Seconds after which a timestamp is clearly past."""
PROJECT = Path(__file__).resolve().parent.parent.parent


def make_store(path: Path, *, chunker: Parameters | None = SMALL, **options: Any) -> Store:
    return founding.create(str(path), **{"now": time.time_ns(), "chunker": chunker, **options})


def settle() -> None:
    """Wait until nothing that was written so far looks as if it might still change unseen."""
    time.sleep(SETTLE)


def record(store: Store, tree: Path, image: str = "web", **options: object) -> CommitReport:
    """Commit with the time of day."""
    return commit(store, image, str(tree), now=time.time_ns(), **options)  # type: ignore[arg-type]


def restore(store: Store, spec: str, directory: Path) -> CheckoutReport:
    return checkout(store, store.resolve(parse_spec(spec)).version, str(directory))


def bring(reader: Reader, spec: str, directory: Path, **options: Any) -> PullReport:
    options = {"trust": Trust.FIRST, "clock": time.time_ns(), **options}
    return pull(reader, parse_layers(spec), str(directory), options=PullOptions(**options))


def trusting() -> PullOptions:
    """Options of a pull for whose test it does not matter who signed."""
    return PullOptions(trust=Trust.FIRST, clock=time.time_ns())


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


_WORKERS = """
import json, os, sys, traceback
exec(sys.argv[1], globals())
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work(*json.loads(line))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


class Workers:
    """Processes that do `work(*arguments)` of a script, and can be killed at it.

    Forked from one that has everything imported, so that there can be many. A context manager.
    """

    def __init__(self, script: str) -> None:
        self._parent = python(_WORKERS, script, stdin=subprocess.PIPE)

    def run(self, *arguments: object, kill_after: float | None = None) -> bool:
        """Let one work, for so many seconds at most; whether it was killed."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(list(map(str, arguments))).encode() + b"\n")
        self._parent.stdin.flush()
        pid = int(self._parent.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = int(self._parent.stdout.readline())
        assert status in (0, signal.SIGKILL), f"the worker failed with {status}"
        return status != 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        _, errors = self._parent.communicate()
        assert self._parent.returncode == 0, errors.decode()
        assert errors == b"", errors.decode()

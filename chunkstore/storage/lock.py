"""The lock of a store: one writer at a time, and a name for who holds it.

Promises: held by the kernel (`flock`), so a killed holder lets go. Readers need no lock: what they
can see is never changed, only added to, and deleted after a grace time.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chunkstore.errors import Conflict, local_errors


@contextmanager
def exclusive(
    path: str, purpose: str, *, wait: float, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock at `path` for `purpose`; wait up to `wait` seconds for another holder.

    `waiting` is told once who holds it. Raises `Conflict` when the wait is over.
    """
    with local_errors("can't lock the store"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, wait, waiting)
        holder = {"pid": os.getpid(), "purpose": purpose, "since": int(time.time())}
        with local_errors("can't lock the store"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(
    descriptor: int, path: str, wait: float, waiting: Callable[[str], None] | None
) -> None:
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Conflict(f"store is locked by {_holder(descriptor)} ({path})") from None
        else:
            return
        if waiting is not None and not told:
            waiting(_holder(descriptor))
            told = True
        time.sleep(0.05)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        since = time.strftime("%H:%M:%S", time.localtime(found["since"]))
        return f"process {found['pid']} ({found['purpose']}, since {since})"
    except (ValueError, KeyError, TypeError):
        return "another process"

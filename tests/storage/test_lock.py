from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support import stores

from chunkstore.errors import Conflict, LocalError
from chunkstore.storage import lock

HOLDER = """
import sys
from chunkstore.storage import lock
with lock.exclusive(sys.argv[1], "imgstore gc", wait=0):
    print("ready", flush=True)
    sys.stdin.readline()
"""
"""Holds the lock until it is sent a line, or stdin ends."""


@pytest.fixture
def path(quick: Path) -> str:
    return str(quick / "lock")


def test_who_waits_is_told_once_for_whom(path: str) -> None:
    holder = stores.python(HOLDER, path, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    told: list[str] = []

    def waiting(whom: str) -> None:
        told.append(whom)
        assert holder.stdin is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()

    with lock.exclusive(path, "imgstore commit web", wait=60, waiting=waiting):
        pass
    assert len(told) == 1
    assert told[0].startswith(f"process {holder.pid} (imgstore gc, since ")
    holder.communicate()


def test_who_waits_too_long_is_told_too(path: str) -> None:
    holder = stores.python(HOLDER, path, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with (
        pytest.raises(Conflict, match=rf"locked by process {holder.pid} \(imgstore gc"),
        lock.exclusive(path, "imgstore commit web", wait=0.1),
    ):
        pytest.fail("there can't be two")
    holder.kill()
    holder.communicate()
    with lock.exclusive(path, "imgstore commit web", wait=0):
        pass


def test_threads_keep_each_other_out(path: str) -> None:
    inside = [0]
    seen = []

    def work() -> None:
        for _ in range(3):
            with lock.exclusive(path, "a thread", wait=30):
                inside[0] += 1
                seen.append(inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 12


def test_it_is_let_go_when_the_work_fails(path: str) -> None:
    with pytest.raises(RuntimeError), lock.exclusive(path, "one", wait=0):
        raise RuntimeError
    with lock.exclusive(path, "two", wait=0):
        pass


@pytest.mark.parametrize("said", [b"", b"garbage", b"{}", b"[1]", b'{"pid": 1, "purpose": 2}'])
def test_a_holder_that_left_no_name(path: str, said: bytes) -> None:
    with lock.exclusive(path, "one", wait=0):
        Path(path).write_bytes(said)
        with pytest.raises(Conflict, match="another process"), lock.exclusive(path, "x", wait=0):
            pass


def test_the_name_of_a_longer_purpose_leaves_nothing_behind(path: str) -> None:
    with lock.exclusive(path, "a very long purpose " * 20, wait=0):
        pass
    with lock.exclusive(path, "short", wait=0):
        told: list[str] = []
        with pytest.raises(Conflict), lock.exclusive(path, "x", wait=0.06, waiting=told.append):
            pass
    assert f"process {os.getpid()} (short," in told[0]


def test_where_there_can_be_no_lock(quick: Path) -> None:
    with (
        pytest.raises(LocalError, match="can't lock the store"),
        lock.exclusive(str(quick / "nowhere/lock"), "x", wait=0),
    ):
        pass

"""Files that are in use while they are replaced: programs that run, and files being written to."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import stores, trees
from support.forge import Forge
from support.stores import bring

from chunkstore.worktree.apply import Applier


def versions(forge: Forge) -> list[list[object]]:
    return [
        [
            *(forge.directory(b""), forge.directory(b"log"), forge.file(b"log/gone", salt)),
            *(forge.file(b"log/kept", b"same"), forge.file(b"log/replaced", salt)),
        ]
        for salt in (b"one", b"two")
    ]


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_program_that_runs_goes_on(place: Path) -> None:
    """Its file can't be opened for writing (ETXTBSY); it is replaced all the same."""
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    shutil.copy(shutil.which("cat") or "/bin/cat", tree / "tool")
    shutil.copy(shutil.which("cat") or "/bin/cat", tree / "gone")
    store = stores.make_store(place / "store")
    stores.record(store, tree)
    remote = stores.in_memory(store)
    bring(remote, "web", node)
    with running(node / "tool") as one, running(node / "gone") as other:
        (tree / "tool").write_bytes(b"#!/bin/sh\necho new\n")
        (tree / "gone").unlink()
        stores.settle()
        stores.record(store, tree)
        report = bring(stores.in_memory(store), "web", node)
        assert report.saved == []
        for process in (one, other):
            out, _ = process.communicate(b"still here\n")
            assert (out, process.returncode) == (b"still here\n", 0)
    trees.assert_same(tree, node)
    assert subprocess.run([node / "tool"], capture_output=True, check=True).stdout == b"new\n"


def test_open_and_mapped_files_keep_their_content(quick: Path) -> None:
    forge, node = Forge(), quick / "node"
    one, two = versions(forge)
    forge.publish(*one)
    bring(forge.backend, "web", node)
    with open(node / "log/replaced", "rb") as reader, open(node / "log/gone", "rb") as other:
        mapped = mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ)
        fcntl.flock(reader, fcntl.LOCK_EX)
        forge.publish(*two[:2], *two[3:])
        bring(forge.backend, "web", node)
        assert (mapped[:], reader.read(), other.read()) == (b"one", b"one", b"one")
        mapped.close()
    assert (node / "log/replaced").read_bytes() == b"two"
    assert not (node / "log/gone").exists()


@pytest.mark.parametrize("fate", ["replaced", "gone"])
@pytest.mark.parametrize("how", ["appended", "written over", "truncated", "exchanged"])
def test_what_is_written_between_the_plan_and_the_deed_is_kept(
    quick: Path, fate: str, how: str
) -> None:
    forge, node = Forge(), quick / "node"
    one, two = versions(forge)
    forge.publish(*one)
    bring(forge.backend, "web", node)
    path = node / "log" / fate

    def write() -> None:
        if how == "exchanged":
            (node / "log/tmp").write_bytes(b"my own words")
            os.rename(node / "log/tmp", path)
        else:
            with open(path, "ab" if how == "appended" else "r+b") as file:
                file.truncate(0 if how == "truncated" else 3)
                file.write(b"" if how == "truncated" else b"my own words")

    real = Applier.run

    def run(applier: Applier) -> None:
        write()
        real(applier)

    forge.publish(*(two if fate == "replaced" else [*two[:2], *two[3:]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Applier, "run", run)
        report = bring(forge.backend, "web", node)
    (saved,) = (place for old, place in report.saved if old == f"log/{fate}".encode())
    content = (node / os.fsdecode(saved)).read_bytes()
    assert content == {"appended": b"one", "written over": b""}.get(how, b"") + (
        b"" if how == "truncated" else b"my own words"
    )
    assert not path.exists() if fate == "gone" else path.read_bytes() == b"two"


WRITER = """
import os, sys
path, done = sys.argv[1:]
# Opens anew each time, as programs that log do; each line is acknowledged once it is written.
print("ready", flush=True)
number = 0
while not os.path.exists(done):
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\\n" % number)
    number += 1
print(number, flush=True)
"""


def test_a_log_that_is_written_to_all_the_time(quick: Path) -> None:
    """Every line is in the file or in one of the saved ones, but for those of one moment each.

    Between the last look at a file and the rename over it there is a moment that no system call
    closes; a writer that has opened the old file then writes into what has no name any more.
    """
    forge, node = Forge(), quick / "node"
    one, two = versions(forge)
    forge.publish(*one)
    bring(forge.backend, "web", node)
    log = node / "log/replaced"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(log), str(quick / "done")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pulls = 30
    for number in range(pulls):
        forge.publish(*(two if number % 2 == 0 else one))
        bring(forge.backend, "web", node)
    (quick / "done").touch()
    out, _ = process.communicate()
    written = int(out)
    found: set[bytes] = set()
    files = [log, *(path for path in (node / ".imgstore/saved").rglob("*") if path.is_file())]
    for path in files:
        found |= set(path.read_bytes().removeprefix(b"one").removeprefix(b"two").split(b"\n"))
    lost = {b"%d" % number for number in range(written)} - found
    assert written > 500
    assert len(lost) < written // 4, "no more than what is written in a few moments"
    assert len(files) > pulls // 2


LEASE = """
import fcntl, os, signal, sys, time
held = [os.open(name, os.O_RDWR) for name in sys.argv[1:]]
def asked(*_):
    # In good time before the kernel takes it away, but not at once.
    time.sleep(0.2)
    for one in held:
        fcntl.fcntl(one, fcntl.F_SETLEASE, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, asked)
for one in held:
    fcntl.fcntl(one, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@trees.needs_root
def test_a_lease_on_a_file_does_not_stop_an_update(quick: Path) -> None:
    """Whoever owns a file can take a lease, and with it make every open of it wait or fail."""
    forge, node = Forge(), quick / "node"
    root = forge.directory(b"")
    forge.publish(root, forge.file(b"dressed", b"x", mode=0o600), forge.file(b"replaced", b"one"))
    bring(forge.backend, "web", node)
    forge.publish(root, forge.file(b"dressed", b"x", mode=0o644), forge.file(b"replaced", b"two"))
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c", LEASE),
            *(str(node / "dressed"), str(node / "replaced")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        bring(forge.backend, "web", node)
    finally:
        holder.communicate()
    assert (node / "replaced").read_bytes() == b"two"
    assert (node / "dressed").stat().st_mode & 0o777 == 0o644

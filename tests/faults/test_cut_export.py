"""Exports that are cut off: what stood there stands, and nothing is left beside it.

A failure or a signal leaves nothing. What SIGKILL leaves the next export takes away, but nothing
that another one is at work on, nor what is somebody else's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import strace, trees
from support.program import Program, environment
from support.strace import BEFORE, Fault, needs_strace

from chunkstore import fsio
from chunkstore.export.output import replacing, replacing_folder

LEFT = ".export-1-1-0123abcd"
FORMS = {
    "image.tar.gz": (),
    "image-diff.tar": ("--base", "web:base"),
    "layout": ("--format", "oci"),
    "layout.tar": ("--format", "oci"),
}
HOLDER = """
import sys, time
from chunkstore.export.output import replacing
with replacing(sys.argv[1]) as file:
    file.write(bytes(1_000_000))
    file.flush()
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with Program() as made:
        yield made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, program: Program) -> Path:
    """A store with two versions of `web`."""
    place = tmp_path_factory.mktemp("store")
    for number in range(2):
        (place / "tree" / f"folder {number}").mkdir(parents=True)
        (place / "tree/file").write_bytes(trees.pseudo_random(number, 200_000))
        assert program.run("--store", place / "s", "commit", "web", place / "tree").code == 0
    return place / "s"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Exports:
    """One export into a directory where the archive of before stands, as often as one likes."""

    def __init__(self, program: Program, store: Path, place: Path, name: str) -> None:
        self.program = program
        self.folder = place / "out"
        self.arguments = ("-q", "--store", store, "export", "web", *FORMS[name])
        self.arguments += ("-o", self.folder / name)
        self.folder.mkdir()
        ended, lines = strace.record(program, *self.arguments)
        assert ended.code == 0, ended.err
        self.calls = [
            call
            for call in strace.changing_calls(lines, self.folder)
            if call.name not in ("unlink", "unlinkat", "rmdir")
        ]
        self.whole = names(self.folder)
        self.clear()

    def clear(self) -> None:
        subprocess.run(["rm", "-rf", self.folder], check=True)
        self.folder.mkdir()

    def trial(self, what: str, call: strace.Call) -> strace.Outcome:
        self.clear()
        return strace.trial(self.program, Fault(what, call), *self.arguments)


@pytest.fixture(params=FORMS)
def exports(
    program: Program, store: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Exports:
    return Exports(program, store, tmp_path, request.param)


@needs_strace
def test_what_a_kill_leaves_goes_with_the_next_export(exports: Exports) -> None:
    left = 0
    for call in exports.calls:
        outcome = exports.trial(BEFORE, call)
        assert outcome.ended.killed, (call, outcome)
        left += any(name.startswith(".export-") for name in names(exports.folder))
        if "layout" in names(exports.folder):
            continue  # whole, and a layout is never written over
        again = exports.program.run(*exports.arguments)
        assert (again.code, names(exports.folder)) == (0, exports.whole), (call, again.err)
    assert left > 1


@needs_strace
@pytest.mark.parametrize("what", ["SIGINT", "SIGTERM", "ENOSPC"])
def test_a_signal_or_a_failure_leaves_nothing(exports: Exports, what: str) -> None:
    codes = set()
    for call in exports.calls:
        outcome = exports.trial(what, call)
        codes.add(outcome.ended.code)
        found = names(exports.folder)
        # The list of deletions comes before its archive, and both are whole.
        assert set(found) <= set(exports.whole), (call, outcome)
        if outcome.ended.code == 0:
            assert found == exports.whole, (call, outcome)
    assert (130 if what.startswith("SIG") else 7) in codes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_leftover_lasts_until_the_next_export(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "image.tar"
    command = [sys.executable, "-c", HOLDER, str(target)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"begun\n"
        [begun] = names(tmp_path)

        with replacing(str(target)) as file:
            file.write(b"another")

        assert names(tmp_path) == [begun, "image.tar"], "that one is at work"
        holder.send_signal(number)
        holder.wait()
    assert (begun in names(tmp_path)) == (number == signal.SIGKILL)
    with replacing(str(tmp_path / "other.tar")):
        assert begun not in names(tmp_path)
    assert names(tmp_path) == ["image.tar", "other.tar"]
    assert target.read_bytes() == b"another"


def test_only_what_killed_exports_leave_is_swept(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_bytes(b"half")
    folder = tmp_path / LEFT.replace("1-1", "1-2")
    (folder / "blobs").mkdir(parents=True)
    kept = [".export-me", f"{LEFT}.gz", "export-1-1-0123abcd", fsio.fresh_name()]
    for name in kept:
        (tmp_path / name).write_bytes(b"mine")

    with replacing_folder(str(tmp_path / "layout")):
        pass

    assert names(tmp_path) == sorted([*kept, "layout"])


def test_what_is_planted_by_that_name_holds_nobody_up(tmp_path: Path) -> None:
    fifo, link, folder = (LEFT.replace("1-1", f"1-{number}") for number in range(2, 5))
    os.mkfifo(tmp_path / fifo)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_bytes(b"mine")
    (tmp_path / link).symlink_to("precious")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "link").symlink_to(tmp_path / "precious")

    with replacing(str(tmp_path / "image.tar")):
        pass

    assert (tmp_path / "precious/file").read_bytes() == b"mine"
    assert names(tmp_path) == [fifo, link, "image.tar", "precious"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_what_another_user_left_stays(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_bytes(b"half")
    os.chown(tmp_path / LEFT, 12345, -1)

    with replacing(str(tmp_path / "image.tar")):
        pass

    assert names(tmp_path) == [LEFT, "image.tar"]


def test_many_exports_into_one_directory(tmp_path: Path) -> None:
    """Each sweeps while others begin: none loses what it is at work on."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for count in range(60):
                if count % 2:
                    with replacing(str(tmp_path / f"{number}.tar")) as file:
                        file.write(b"%d" % count)
                else:
                    with replacing_folder(str(tmp_path / f"{number}-{count}")):
                        pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert not any(name.startswith(".") for name in names(tmp_path))
    assert all((tmp_path / f"{number}.tar").read_bytes() == b"59" for number in range(4))

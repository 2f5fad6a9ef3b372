"""A small real tree, a store of its own for each test, and two ways to run the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imgstore
import pytest
from imgstore.app import main
from support import live

import chunkstore

DEADLINE = 60.0


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code and what it printed."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.raw)


def _environment() -> dict[str, str]:
    roots = [Path(package.__path__[0]).parent for package in (chunkstore, imgstore)]
    path = os.pathsep.join(str(root) for root in dict.fromkeys(roots))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount something for the time of a test, or skip the test where that is not allowed."""
    mounted: list[Path] = []

    def call(place: Path, *arguments: str) -> None:
        ended = subprocess.run(["mount", *arguments, place], capture_output=True, check=False)
        if ended.returncode != 0:
            pytest.skip(f"can't mount here: {ended.stderr.decode().strip()}")
        if not any("remount" in argument for argument in arguments):
            mounted.append(place)

    yield call
    for place in reversed(mounted):
        # Lazily: runs in this process leave descriptors to the garbage collector.
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a subprocess that runs this very code."""
    return _environment()


class Process:
    """A run in a process of its own, still under way."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "imgstore", *arguments]
        self.popen = subprocess.Popen(command, env=_environment(), **options)
        self._err = b""

    def await_error(self, text: str) -> None:
        """Wait until stderr says `text`."""
        assert self.popen.stderr is not None
        os.set_blocking(self.popen.stderr.fileno(), False)
        deadline = time.monotonic() + DEADLINE
        while text.encode() not in self._err:
            assert time.monotonic() < deadline, self._err
            assert self.popen.poll() is None, self._err + (self.popen.stderr.read() or b"")
            self._err += self.popen.stderr.read() or b""
            time.sleep(0.01)
        os.set_blocking(self.popen.stderr.fileno(), True)

    def signal(self, number: signal.Signals) -> Ended:
        """Send a signal and wait for the end."""
        self.popen.send_signal(number)
        return self.end()

    def end(self) -> Ended:
        """Wait for the end."""
        out, err = self.popen.communicate(timeout=DEADLINE)
        return Ended(self.popen.returncode, out or b"", (self._err + (err or b"")).decode())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's store is, or will be."""
    path = tmp_path / "store"
    monkeypatch.setenv("IMGSTORE_STORE", str(path))
    monkeypatch.setenv("TZ", "UTC")
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a bit of everything that needs no privilege."""
    return _make_tree(tmp_path / "tree")


def _make_tree(root: Path) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "usr/share").mkdir(parents=True)
    (root / "etc/fstab").write_text("proc /proc proc\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    os.link(root / "etc/fstab", root / "etc/hard")
    (root / "etc/link").symlink_to("fstab")
    (root / "usr/share/data").write_bytes(bytes(range(256)) * 2000)
    with (root / "usr/share/sparse").open("wb") as file:
        file.write(b"begin")
        file.truncate(3 << 20)
    os.mkfifo(root / "usr/pipe")
    (root / "etc/new\nline").write_text("")
    with open(os.fsencode(root) + b"/etc/bad\xff", "wb"):
        pass
    return root


Run = Callable[..., Ended]


@pytest.fixture
def run(store: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line in this process."""

    def call(*arguments: str | Path) -> Ended:
        capsysbinary.readouterr()
        code = main(live.trusting(arguments))
        captured = capsysbinary.readouterr()
        return Ended(code, captured.out, live.without_trust(captured.err.decode()))

    return call


@pytest.fixture
def done(run: Run) -> Run:
    """Run a command line that has to succeed without a word on stderr."""

    def call(*arguments: str | Path) -> Ended:
        ended = run(*arguments)
        assert (ended.code, ended.err) == (0, ""), arguments
        return ended

    return call


@pytest.fixture
def process(store: Path) -> Iterator[Callable[..., Process]]:
    """Start a command line as a process; what still runs at the end is killed."""
    started: list[Process] = []

    def start(*arguments: str | Path, **options: Any) -> Process:
        started.append(Process(*map(str, arguments), **options))
        return started[-1]

    yield start
    for each in started:
        if each.popen.poll() is None:
            each.popen.kill()
        each.popen.communicate()


@pytest.fixture
def web(store: Path, tree: Path) -> Path:
    """Two versions of the image `web`: the tree, and the tree after an administrator's edits."""
    return _make_web(store, tree)


def _make_web(store: Path, tree: Path) -> Path:
    commit = ["--store", str(store), "-q", "commit", "web"]
    assert main([*commit, str(tree), "-m", "first", "-t", "v1"]) == 0
    (tree / "etc/motd").write_text("welcome\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost web\n")
    (tree / "etc/link").unlink()
    (tree / "etc/link").mkdir()
    (tree / "usr/pipe").unlink()
    (tree / "usr/share/data").chmod(0o600)
    assert main([*commit, "-m", "second\nwith more to say"]) == 0
    return tree


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store and the tree of `web`, for all tests that only look."""
    root = tmp_path_factory.mktemp("web")
    _make_web(root / "store", _make_tree(root / "tree"))
    return root


@pytest.fixture
def shared(made_once: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`web` without the time it takes to make it; nothing in it may be changed."""
    monkeypatch.setenv("IMGSTORE_STORE", str(made_once / "store"))
    return made_once / "tree"

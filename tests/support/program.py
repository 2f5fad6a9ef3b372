"""Runs of the command line by the dozen: forked from a process that has it all imported.

Every run is a process of its own with exit code, stdout and stderr, as if it had been started by
a shell, but for the quarter of a second that Python and the imports take. It can be held before
its first step, for a tracer to get at it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imgstore

import chunkstore

from . import live

DEADLINE = 120.0
"""Seconds after which a run that does not end is a fault."""

_SERVER = """
import importlib, importlib.util, json, os, pkgutil, signal, sys
# A module written to its cache would be a change that the next run does not make.
sys.dont_write_bytecode = True
import imgstore.commands
for module in pkgutil.iter_modules(imgstore.commands.__path__):
    if module.name != "serve":
        importlib.import_module("imgstore.commands." + module.name)
from imgstore.app import main

def child(arguments, out, err, held):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    if held:
        os.kill(os.getpid(), signal.SIGSTOP)
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return code

for line in sys.stdin:
    arguments = json.loads(line)
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = child(*arguments)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    if arguments[-1]:
        os.waitpid(pid, os.WUNTRACED)
    print(pid, flush=True)
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, less than 0 for a signal, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    """The environment of a process that runs this very code."""
    roots = [Path(package.__path__[0]).parent for package in (chunkstore, imgstore)]
    path = os.pathsep.join(str(root) for root in dict.fromkeys(roots))
    return {**os.environ, "PYTHONPATH": path}


def command(*arguments: object) -> list[str]:
    """The command line as a shell would start it, without any shim."""
    return [sys.executable, "-m", "imgstore", *map(str, arguments)]


class Program:
    """One run at a time, each in a process of its own. A context manager.

    `prefix` is a command that starts another, such as `nsenter`.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self.prefix = tuple(prefix)
        self._scratch = tempfile.TemporaryDirectory(prefix="imgstore-test-")
        self._server = subprocess.Popen(
            [*prefix, sys.executable, "-c", _SERVER],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what waits in a buffer of ours is nothing that `select` could see
        )
        self._pid = 0

    def start(self, *arguments: object, held: bool = False) -> int:
        """Start a run; its process. `held`: it is stopped until it gets SIGCONT."""
        assert not self._pid, "one run at a time"
        request = [live.trusting(arguments), *map(str, self._outputs()), held]
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._pid = self._number(DEADLINE)
        return self._pid

    def kill(self) -> None:
        """Kill the run under way; nothing when it has ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def ended(self, within: float = DEADLINE) -> Ended:
        """Wait for the run to end."""
        try:
            code = self._number(within)
        except TimeoutError:
            self.kill()
            self._number(DEADLINE)
            raise
        finally:
            self._pid = 0
        out, err = (path.read_text(errors="backslashreplace") for path in self._outputs())
        return Ended(code, out, live.without_trust(err))

    def run(self, *arguments: object, kill_after: float | None = None) -> Ended:
        """A whole run, killed after so many seconds if it has not ended."""
        self.start(*arguments)
        if kill_after is not None:
            time.sleep(kill_after)
            self.kill()
        return self.ended()

    def _outputs(self) -> Iterable[Path]:
        return (Path(self._scratch.name, name) for name in ("out", "err"))

    def _number(self, within: float) -> int:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], within)[0]:
            raise TimeoutError(f"the run did not end within {within} seconds")
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate()
        self._scratch.cleanup()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

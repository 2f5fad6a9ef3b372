"""Run one command and take its measure.

Wall time is taken around the command. CPU time (user and system) and peak memory come from
`wait4`, so they cover the command and every process it waited for: of a pipeline all parts, of the
memory the largest single process. The kernel counts a new process as at least as large as the one
that started it: what is smaller than `floor` can't be told apart.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """What to run, and where."""

    arguments: Sequence[str]
    folder: Path | None = None


def shell(script: str, folder: Path | None = None) -> Command:
    """A pipeline or a few commands in a row; the first that fails ends it."""
    return Command(["bash", "-euo", "pipefail", "-c", script], folder)


class Failed(Exception):
    """A command did not end well."""


@dataclass(frozen=True)
class Measure:
    """Seconds, bytes of the largest process, and what the command printed."""

    wall: float
    cpu: float
    peak: int
    output: str


def measure(command: Command) -> Measure:
    """Run a command to its end. Raises `Failed` with what it said."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            # A pipeline is more than one process, and none of it may outlive this one.
            start_new_session=True,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        text = output.read().decode(errors="replace")
        if process.returncode:
            said = errors.read().decode(errors="replace").strip() or text.strip()
            shown = " ".join(command.arguments)
            raise Failed(f"exit code {process.returncode}: {shown}\n{said[-2000:]}")
    return Measure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text)


def run(command: Command) -> str:
    """Run a command that is not measured; returns what it printed."""
    return measure(command).output


def floor() -> int:
    """The peak memory that even the smallest program seems to have."""
    return measure(Command(["true"])).peak

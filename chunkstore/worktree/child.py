"""One program run on the side: no terminal, no input, its output line by line, ended as a group.

Promises: when the caller is interrupted while a program runs, the program and what it started are
ended first, those that don't listen by SIGKILL. A program that has ended may leave something
running behind, which is let go, with its output. Leaves what to run and what its end means to
`hooks`.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

_PIPE: Final = 1 << 20
"""More than a pipe holds: one read empties it."""
_POLL_MS: Final = 50
_GRACE: Final = 5.0
_MAX_LINE: Final = 1 << 16


class Ending(NamedTuple):
    """How a program ended: its status, negative for a signal, and the last line it printed."""

    status: int
    last_line: str

    def __str__(self) -> str:
        if self.status >= 0:
            return f"ended with status {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"


def start(
    program: str,
    arguments: Sequence[str],
    *,
    folder: int,
    environment: Mapping[str, str],
    passed: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `program` in the directory that `folder` is a descriptor of, for `follow`.

    Descriptors in `passed` stay open in it. Raises `OSError`.
    """
    return subprocess.Popen(
        arguments,
        executable=program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        pass_fds=passed,
        cwd=f"/proc/self/fd/{folder}",
        env=environment,
        # A group of its own, to be ended as one; and no terminal, where a question in an update
        # that runs by itself would wait for ever.
        start_new_session=True,
    )


def follow(process: subprocess.Popen[bytes], say: Callable[[str], None]) -> Ending:
    """Wait for the end of a program; `say` gets each line it prints that is not blank.

    They come from stdout and stderr in their order, decoded with `surrogateescape`.
    """
    lines = _Lines(say)
    assert process.stdout is not None
    with process.stdout:
        try:
            _pass_on(process, process.stdout.fileno(), lines)
        except BaseException:
            _end(process)
            raise
    return Ending(process.returncode, lines.last)


class _Lines:
    """Makes lines of what arrives; `last` is the last that is not blank."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = b""
        self.last = ""

    def add(self, data: bytes) -> None:
        # Programs that show how far they are go back to the beginning of the line.
        *whole, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > _MAX_LINE:
            whole.append(self._rest)
            self._rest = b""
        for line in whole:
            text = line.decode("utf-8", "surrogateescape").rstrip()
            if text:
                self.last = text
                self._say(text)


def _pass_on(process: subprocess.Popen[bytes], descriptor: int, lines: _Lines) -> None:
    """Pass on what a program prints until it has ended."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = None
    while data != b"":
        # Asked before reading: what it printed is in the pipe by then. Its end is not waited for,
        # since something that was left running may hold the pipe open.
        has_ended = process.poll() is not None
        if poller.poll(0 if has_ended else _POLL_MS):
            data = os.read(descriptor, _PIPE)
            lines.add(data)
        if has_ended:
            break
    process.wait()
    lines.add(b"\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started: kindly, then for sure."""
    if process.returncode is not None:
        return
    deadline = time.monotonic() + _GRACE
    try:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)
        # Looked at, not waited for: once the program is, its number may become another group's.
        while _has_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _has_members(group: int) -> bool:
    """Whether a process of this group is still at work."""
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, _, number = file.read().rpartition(b")")[2].split()[:3]
                if int(number) == group and state not in (b"Z", b"X"):
                    return True
    return False

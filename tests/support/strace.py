"""Faults from outside: strace makes a system call of a run fail, or kills the run at it.

    calls = changing_calls(record(program, "pull", node), node)
    for call in calls:
        trial(program, Fault("before", call.name, call.when), "pull", node)

strace counts the calls of each name in each thread by itself: a fault strikes where the first of
them comes to its `when`. Calls of other threads than the main one are therefore told by their file
as well.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

import pytest

from support.program import Ended, Program, command, environment

_CALL: Final = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_FILE: Final = re.compile(r'AT_FDCWD<[^>]*>, "(/[^"]+)"|"(/[^"]+)"|\d+<(/[^>]+)>')
_OPENING: Final = ("open", "openat", "openat2", "creat")
_WRITING: Final = ("write", "writev", "pwrite64", "pwritev", "sendfile", "copy_file_range")
_CHANGING: Final = (
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("link", "linkat", "symlink", "symlinkat", "mknod", "mknodat"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "utimensat", "futimesat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *("truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "syncfs"),
)
_CONTROLS: Final = ("FS_IOC_SETFLAGS", "FS_IOC_FSSETXATTR", "FICLONE", "FICLONERANGE")
_TRACED: Final = (*_OPENING, *_WRITING, *_CHANGING, "ioctl")

BEFORE: Final = "before"
AFTER: Final = "after"


def _is_allowed() -> bool:
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return done.returncode == 0


needs_strace = pytest.mark.skipif(not _is_allowed(), reason="needs strace, and leave to trace")


class Call(NamedTuple):
    """A system call of a run: the `when`-th of that name in its thread, counted from 1.

    With a `file` only calls that name it are counted.
    """

    name: str
    when: int
    file: str = ""


@dataclass(frozen=True)
class Fault:
    """What shall happen at a call: `before` or `after` it a SIGKILL, else an errno's or another
    signal's name."""

    what: str
    call: Call
    lasting: bool = False
    """The error comes again at every later call of that name."""

    def __str__(self) -> str:
        name, when, file = self.call
        return f"{self.what} at {name} {when}{'+' * self.lasting} {file}".rstrip()

    @property
    def options(self) -> tuple[str, ...]:
        """What to tell strace."""
        name, when, file = self.call
        is_signal = self.what.startswith("SIG")
        how = {BEFORE: "signal=KILL", AFTER: "delay_exit=60s"}.get(
            self.what, f"{'signal' if is_signal else 'error'}={self.what}"
        )
        injection = f"inject={name}:{how}:when={when}{'+' * self.lasting}"
        return ("-e", f"trace={name}", "-e", injection, *(("-P", file) if file else ()))


@dataclass(frozen=True)
class Outcome:
    """How a run with a fault ended, and the call that it struck, empty for none."""

    ended: Ended
    struck: str


def record(program: Program, *arguments: object) -> tuple[Ended, list[str]]:
    """A run without faults and the calls it made, a line each in the order they began."""
    traced = ",".join(f"?{name}" for name in _TRACED)
    with _traced(program, arguments, "-e", f"trace={traced}") as (lines, _):
        calls = list(lines)
    return program.ended(), calls


def changing_calls(lines: Iterable[str], below: Path) -> list[Call]:
    """Those of the recorded calls that change files, or make changes durable, in their order.

    Of writes only those to files `below` count.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    found: dict[Call, None] = {}
    main = ""
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        thread, name, rest = match.groups()
        main = main or thread
        file = "" if thread == main else _file(rest)
        counts[thread, name, file] += 1
        if _is_change(name, rest, str(below)):
            found[Call(name, counts[thread, name, file], file)] = None
    return list(found)


def _file(rest: str) -> str:
    match = _FILE.match(rest)
    return next(filter(None, match.groups())) if match else ""


def _is_change(name: str, rest: str, below: str) -> bool:
    if name in _CHANGING:
        return True
    if name in _OPENING:
        return "O_CREAT" in rest or name == "creat"
    if name in _WRITING:
        return below in rest
    return any(control in rest for control in _CONTROLS)


def is_change(line: str, below: Path) -> bool:
    """Whether a recorded line is of a call as `changing_calls` gives them."""
    match = _CALL.match(line)
    return match is not None and _is_change(match[2], match[3], str(below))


def trial(
    program: Program,
    fault: Fault,
    *arguments: object,
    strike: Callable[[], None] = lambda: None,
) -> Outcome:
    """A run with one fault; `strike` is done before a kill that comes after its call."""
    struck = ""
    begun: dict[str, str] = {}
    with _traced(program, arguments, *fault.options) as (lines, tracer):
        for line in lines:
            if fault.what == AFTER and "(DELAYED)" in line:
                # The call is done, and its caller does not know yet. The tracer would wait for
                # the end of the delay before it lets go of the dead.
                strike()
                program.kill()
                tracer.kill()
            whole = _whole(line, begun)
            if "(DELAYED)" in line or "(INJECTED)" in line or line.endswith("= ?"):
                struck = struck or whole
    return Outcome(program.ended(), struck)


def killed_from_start(program: Program, call: Call, *arguments: object) -> Outcome:
    """A run started by strace itself, the interpreter and all, and killed before a call.

    Only for names that the interpreter does not use until the command line runs.
    """
    fault = Fault(BEFORE, call)
    done = subprocess.run(
        [*program.prefix, "strace", "-f", "-y", *fault.options, *command(*arguments)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    struck = [line for line in done.stderr.splitlines() if line.endswith("= ?")]
    # strace ends as its child did: itself by that signal.
    return Outcome(Ended(done.returncode, done.stdout, done.stderr), *struck[-1:] or [""])


def _whole(line: str, begun: dict[str, str]) -> str:
    """The line with its beginning, if another thread's came in between."""
    thread = line.partition(" ")[0]
    start, unfinished, _ = line.partition(" <unfinished ...>")
    if unfinished:
        begun[thread] = start
    resumed = _RESUMED.match(line)
    return line if resumed is None else begun.pop(thread, line) + resumed[2]


@contextmanager
def _traced(
    program: Program, arguments: Iterable[object], *options: str
) -> Iterator[tuple[Iterator[str], subprocess.Popen[bytes]]]:
    pid = program.start(*arguments, held=True)
    reading, writing = os.pipe()
    output = ("-o", f"/dev/fd/{writing}")
    tracer = subprocess.Popen(
        # With the eyes of the traced: else it could not name files on mounts of their own.
        [*program.prefix, "strace", "-f", "-y", *options, *output, "-p", str(pid)],
        stderr=subprocess.PIPE,
        pass_fds=[writing],
    )
    os.close(writing)
    assert tracer.stderr is not None
    with os.fdopen(reading, errors="backslashreplace") as lines:
        try:
            _await_attached(tracer.stderr)
            os.kill(pid, signal.SIGCONT)
            yield (line.rstrip("\n") for line in lines), tracer
        except BaseException:
            program.kill()
            raise
        finally:
            tracer.communicate()


def _await_attached(said: IO[bytes]) -> None:
    lines = []
    for line in said:
        lines.append(line)
        if b"attached" in line:
            return
    raise AssertionError(f"strace did not attach: {lines}")

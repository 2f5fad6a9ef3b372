"""The program: parse, run one verb, turn what went wrong into a line and an exit code.

Promises: whatever happens, stderr gets one line that says what, where and what to do next, and the
exit code is one of the table in `docs/cli.md`. A verb is only imported when it runs, so that
`--help` and the quick ones answer at once. SIGTERM and SIGHUP unwind like Ctrl-C, so that what is
under way is cleaned up.
"""

from __future__ import annotations

import errno
import importlib
import keyword
import os
import resource
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from chunkstore.errors import (
    ChunkstoreError,
    Corrupt,
    LocalError,
    NotFound,
    TransferError,
    Untrusted,
    Usage,
)
from imgstore.hints import next_step
from imgstore.output import Output, warn
from imgstore.parser import parse

DONE: Final = 0
FOUND: Final = 1
"""Differences or damage found."""
INTERRUPTED: Final = 130
NO_READER: Final = 128 + signal.SIGPIPE

EXIT_CODES: Final[dict[type[BaseException], int]] = {
    Usage: 2,
    NotFound: 3,
    Corrupt: 4,
    Untrusted: 5,
    TransferError: 6,
    LocalError: 7,
    OSError: 7,
    MemoryError: 7,
}
_FAULT: Final = 7


class _Terminated(KeyboardInterrupt):
    """Somebody asked this process to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    options = Namespace(verb="", verbose=0)
    _prepare()
    try:
        with _terminable():
            options = parse(sys.argv[1:] if arguments is None else arguments)
            code = _run(options)
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # --help and --version
        return _after_help(stop)
    except BaseException as error:
        return _failed(error, options)


def _run(options: Namespace) -> int:
    module = importlib.import_module(module_of(options.verb))
    output = Output(as_json=options.json, quiet=options.quiet, verbose=options.verbose)
    code: int = module.run(options, output)
    return code


def module_of(verb: str) -> str:
    """The module that does what a verb says; `import` can't be the name of one."""
    return f"imgstore.commands.{verb}{'_' if keyword.iskeyword(verb) else ''}"


def _prepare() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Names may hold characters that this locale can't show; that is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Who starts a process with a signal ignored, such as nohup, means it.
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _terminate)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(_number: int, _frame: Any) -> None:
    raise _Terminated


def _after_help(stop: SystemExit) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        _forget_stdout()
    return stop.code if isinstance(stop.code, int) else DONE


def _failed(error: BaseException, options: Namespace) -> int:
    code = _judge(error, options)
    if options.verbose > 1 and code != NO_READER:
        import traceback

        traceback.print_exception(error)
    try:
        sys.stdout.flush()
    except OSError:
        _forget_stdout()
    return code


def _judge(error: BaseException, options: Namespace) -> int:
    """Say what happened; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        warn("terminated" if isinstance(error, _Terminated) else "interrupted")
        return INTERRUPTED
    if isinstance(error, OSError | LocalError) and error.errno == errno.EPIPE:
        # Whoever reads our output has seen enough: nothing to report.
        return NO_READER
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            step = next_step(error, options.verb)
            warn(f"{_text(error)}; {step}" if step else _text(error))
            return code
    if isinstance(error, ModuleNotFoundError) and error.name:
        warn(f"the Python package {error.name} is missing: install imgstore again with pip")
    else:
        again = "" if options.verbose > 1 else "; -vv shows where"
        warn(f"this is a fault in imgstore: {type(error).__name__}: {error}{again}")
    return _FAULT


def _text(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and not isinstance(error, ChunkstoreError):
        place = error.filename
        name = os.fsdecode(place) if isinstance(place, bytes) else place
        reason = error.strerror or str(error)
        return reason if name is None else f"{name}: {reason}"
    return str(error)


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere, else it complains about the same again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

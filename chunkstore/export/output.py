"""Where archives are written to: counted, hashed, in place of the old file whole or not at all.

Promises: whatever ends an export, the old file stands or the new one does. A failure or a signal
leaves nothing else behind; what SIGKILL or a power cut leaves goes with the next export into the
same directory, never what another one is at work on: the kernel's locks tell these apart.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

from chunkstore import fsio
from chunkstore.archive.compression import Sink

_PREFIX: Final = ".export"
"""Of what has no name of its own yet; what others leave is not ours to sweep."""
_SWEPT: Final = -1
_LEFT: Final = re.escape(_PREFIX) + r"-[0-9]+-[0-9]+-[0-9a-f]{8}"


class Counted:
    """A sink that counts what is written to it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.written = 0

    def write(self, data: bytes, /) -> object:
        """Take `data`. Raises `OSError`."""
        self.written += len(data)
        return self._sink.write(data)


class Hashed(Counted):
    """A sink that also takes the SHA-256 of it."""

    def __init__(self, sink: Sink) -> None:
        from hashlib import sha256  # here, since it loads OpenSSL and most archives go without

        super().__init__(sink)
        self._hash = sha256()

    def write(self, data: bytes, /) -> object:
        """Take `data`. Raises `OSError`."""
        self._hash.update(data)
        return super().write(data)

    @property
    def digest(self) -> str:
        """Of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, durably, if all goes well. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _draft(path, lambda name: os.open(name, flags, 0o644)) as (_, descriptor):
        with open(descriptor, "wb", buffering=1 << 20, closefd=False) as file:
            yield file
        # Before the rename: else a power cut may leave the new name on an empty file.
        os.fsync(descriptor)


@contextmanager
def replacing_folder(path: str) -> Iterator[str]:
    """A new directory that takes the place of `path`, which is empty or not there, likewise.

    What is in it, the caller makes durable.
    """
    with _draft(path, _make_folder) as (temporary, _):
        yield temporary


def _make_folder(name: str) -> int:
    os.mkdir(name)
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _SWEPT


@contextmanager
def _draft(path: str, make: Callable[[str], int]) -> Iterator[tuple[str, int]]:
    """What `make` makes by another name, and its descriptor, until it is given its own."""
    folder = os.path.dirname(path) or "."
    _sweep(folder)
    descriptor = _SWEPT
    while descriptor == _SWEPT:
        temporary = os.path.join(folder, fsio.fresh_name(_PREFIX))
        # All of it in here: a signal may come as soon as there is a file.
        try:
            descriptor = _make_locked(make, temporary, path)
            if descriptor != _SWEPT:
                try:
                    yield temporary, descriptor
                    os.rename(temporary, path)
                finally:
                    os.close(descriptor)
        except BaseException:
            _remove(temporary)
            raise
    fsio.sync_directory(folder)


def _make_locked(make: Callable[[str], int], temporary: str, path: str) -> int:
    """Make and lock it: what is not locked was left by somebody who was killed.

    Gives `_SWEPT` when somebody who sweeps came between the two.
    """
    try:
        descriptor = make(temporary)
    except OSError as error:
        error.filename = path  # nobody knows the other name
        raise
    if descriptor == _SWEPT:
        return _SWEPT
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError:
        return descriptor  # no locks here, so nobody who sweeps gets one either
    else:
        if os.path.lexists(temporary):
            return descriptor
    os.close(descriptor)
    _remove(temporary)
    return _SWEPT


def _sweep(folder: str) -> None:
    """Take away what killed exports of this user have left in a directory, as far as possible."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if re.fullmatch(_LEFT, name):
                with suppress(OSError):
                    _sweep_one(os.path.join(folder, name))


def _sweep_one(place: str) -> None:
    # Others may write here, too: neither a link nor a fifo of that name leads or holds us up.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(place, flags)
    try:
        status = os.fstat(descriptor)
        is_ours = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        if is_ours and status.st_uid == os.geteuid():
            # Shared is enough, and all that a network file system gives who only reads.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            _remove(place)
    finally:
        os.close(descriptor)


def _remove(place: str) -> None:
    try:
        os.unlink(place)
    except IsADirectoryError:
        shutil.rmtree(place, ignore_errors=True)
    except OSError:
        pass  # gone, or for the next one to sweep

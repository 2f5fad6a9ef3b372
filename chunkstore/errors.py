"""The error tree: everything that can go wrong, told apart by what the reader should do next.

    ChunkstoreError
    ├── Usage            the request makes no sense: a bad name, a bad SPEC
    ├── NotFound         what was asked for is not there
    ├── Corrupt          bytes are not what they must be
    │   ├── Unsupported  a format version this program does not know
    │   └── DamagedState what a node remembers of its tree is damaged, and no remote is to blame
    ├── Untrusted        bytes are whole but nobody who may has vouched for them
    ├── TransferError    a remote did not deliver
    │   └── Unreachable  there is no such host, or no server on it
    └── LocalError       this machine refused: space, permission, a missing library
        ├── Conflict     somebody else holds, or changed, what we wanted to change
        └── HookFailed   a program the administrator wants run says no

Each carries the digest, path or URL it is about in its message; the ones that a caller acts on
also carry it as an attribute. Foreign exceptions are translated where they enter: `OSError` in
`fsio` and the backends, decoder errors in `objects`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class ChunkstoreError(Exception):
    """Base of all declared failures."""


class Usage(ChunkstoreError):
    """A request that can't be understood or makes no sense."""


class NotFound(ChunkstoreError):
    """Something asked for by name is not there; `name` is the object, image, tag or path."""

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class Corrupt(ChunkstoreError):
    """Bytes that are not what they must be; `where` is the object or path they came from."""

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class Unsupported(Corrupt):
    """A format version or algorithm this program does not know."""


class DamagedState(Corrupt):
    """What a node remembers of its own tree is not what was written there."""


class Untrusted(ChunkstoreError):
    """Nobody who may vouch for this has done so."""


class TransferError(ChunkstoreError):
    """A remote did not deliver what it has; `retryable` says whether asking again may help."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class Unreachable(TransferError):
    """There is no such host, or nothing listens there.

    `amiss` says what to look at: the "name" of the host, the "server" on it, or the "proxy".
    """

    def __init__(self, message: str, *, amiss: str = "server") -> None:
        super().__init__(message)
        self.amiss = amiss


class LocalError(ChunkstoreError):
    """This machine refused; `errno` is the system's reason where there is one."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class Conflict(LocalError):
    """Somebody else holds, or has changed, what was to be changed."""


class HookFailed(LocalError):
    """A hook did not end well, or could not be run: then `status` is None.

    `stage` says when it ran, `hook` which it is: its path, or its command line; `status` is how it
    ended, negative for a signal.
    """

    def __init__(self, message: str, *, stage: str, hook: str, status: int | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.hook = hook
        self.status = status


@contextmanager
def local_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` raised inside into `LocalError("<what>: <reason>")`."""
    try:
        yield
    except OSError as error:
        name = error.filename
        place = (
            "" if name is None else f" ({os.fsdecode(name) if isinstance(name, bytes) else name})"
        )
        reason = error.strerror or str(error)
        raise LocalError(f"{what}: {reason}{place}", errno=error.errno) from error

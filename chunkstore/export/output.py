"""Where archives are written to: counted, hashed, in place of the old file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from chunkstore import fsio
from chunkstore.archive.compression import Sink


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
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, fsio.fresh_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o644)
    except OSError as error:
        error.filename = path  # nobody knows the other name
        raise
    try:
        with open(descriptor, "wb", buffering=1 << 20) as file:
            yield file
        fsio.move_durably(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

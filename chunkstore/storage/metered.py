"""A reader that counts what it is asked for: the figures `pull` reports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from chunkstore.storage.backend import Reader, abandon, doubt


class Traffic(NamedTuple):
    """Requests made and bytes received."""

    requests: int
    received: int


class MeteredReader:
    """Passes everything on to `inner` and counts; `came` is told of bytes as they come."""

    def __init__(self, inner: Reader, came: Callable[[int], None] = lambda _: None) -> None:
        self._inner = inner
        self._came = came
        self._lock = threading.Lock()
        self._requests = 0
        self._received = 0

    @property
    def traffic(self) -> Traffic:
        """What has been counted so far."""
        with self._lock:
            return Traffic(self._requests, self._received)

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        data = b""
        try:
            data = self._inner.get(name, start, stop)
        finally:
            self._count(len(data))
        return data

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        self._count(0)
        return self._inner.size(name)

    def close(self) -> None:
        """See `Reader.close`."""
        self._inner.close()

    def abandon(self) -> None:
        """See `Abandonable.abandon`."""
        abandon(self._inner)

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """See `Doubtable.doubt`."""
        return doubt(self._inner, name, start, stop)

    def _count(self, received: int) -> None:
        with self._lock:
            self._requests += 1
            self._received += received
        self._came(received)

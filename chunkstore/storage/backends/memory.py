"""Objects in memory: the reference every other backend is measured by, and one that fails.

Promises: what the protocol says, in the fewest words that say it. Nothing outlives the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from chunkstore.errors import ChunkstoreError, Conflict, NotFound, TransferError, local_errors
from chunkstore.storage.backend import Backend
from chunkstore.storage.backends import check_name, check_prefix, check_range


class MemoryBackend:
    """A dictionary of objects."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _object(self, name: str) -> bytes:
        try:
            return self._objects[check_name(name)]
        except KeyError:
            raise NotFound(f"no object {name}", name=name) from None

    def get(self, name: str, start: int, stop: int) -> bytes:
        """Part of an object."""
        check_range(start, stop)
        return self._object(name)[start:stop]

    def size(self, name: str) -> int:
        """Length of an object."""
        return len(self._object(name))

    def close(self) -> None:
        """Nothing is held that would have to be given back."""

    def put(self, name: str, data: bytes) -> None:
        """Store an object."""
        with self._lock:
            self._objects[check_name(name)] = bytes(data)

    def put_file(self, name: str, path: str) -> None:
        """Store a file as an object."""
        check_name(name)
        with local_errors(f"can't store {name}"):
            with open(path, "rb") as file:
                data = file.read()
            self.put(name, data)
            os.unlink(path)

    def list(self, prefix: str) -> Iterator[str]:
        """Names below a prefix."""
        check_prefix(prefix)
        with self._lock:
            names = sorted(name for name in self._objects if name.startswith(prefix))
        return iter(names)

    def delete(self, name: str) -> None:
        """Remove an object."""
        with self._lock:
            self._objects.pop(check_name(name), None)

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> None:
        """Replace an object that still is `old`."""
        with self._lock:
            if self._objects.get(check_name(name)) != old:
                raise Conflict(f"{name} was changed by somebody else meanwhile")
            if new is None:
                self._objects.pop(name, None)
            else:
                self._objects[name] = bytes(new)


class FailingBackend:
    """Does `after` calls on another backend, then fails every one: how trouble is rehearsed.

    A failing call has no effect. `calls` counts all of them, so a first run without failure tells
    a test how many places there are to fail at.
    """

    def __init__(
        self, inner: Backend, *, after: int | None = None, error: ChunkstoreError | None = None
    ) -> None:
        self.inner = inner
        self.after = after
        self.error = error or TransferError("this backend fails on purpose")
        self.calls = 0
        self._lock = threading.Lock()

    def _count(self) -> Backend:
        with self._lock:
            if self.after is not None and self.calls >= self.after:
                # Without a traceback each time, one error object raised often grows for ever.
                raise self.error.with_traceback(None)
            self.calls += 1
        return self.inner

    def get(self, name: str, start: int, stop: int) -> bytes:
        """Part of an object, or the failure."""
        return self._count().get(name, start, stop)

    def size(self, name: str) -> int:
        """Length of an object, or the failure."""
        return self._count().size(name)

    def close(self) -> None:
        """Close the backend behind; never fails."""
        self.inner.close()

    def put(self, name: str, data: bytes) -> None:
        """Store an object, or the failure."""
        self._count().put(name, data)

    def put_file(self, name: str, path: str) -> None:
        """Store a file, or the failure; the file then is still there."""
        self._count().put_file(name, path)

    def list(self, prefix: str) -> Iterator[str]:
        """Names below a prefix, or the failure."""
        return self._count().list(prefix)

    def delete(self, name: str) -> None:
        """Remove an object, or the failure."""
        self._count().delete(name)

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> None:
        """Replace an object, or the failure."""
        self._count().swap(name, old, new)

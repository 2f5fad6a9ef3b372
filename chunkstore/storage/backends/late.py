"""A remote that is opened when it is first asked for something.

For what may be done without it: then it does not matter that it is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from chunkstore.storage.backend import Reader, abandon, doubt


class LateReader:
    """The reader that `open_it` opens; what that raises, every call raises."""

    def __init__(self, open_it: Callable[[], Reader]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self._reader: Reader | None = None

    def _opened(self) -> Reader:
        with self._lock:
            if self._reader is None:
                self._reader = self._open_it()
            return self._reader

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        return self._opened().get(name, start, stop)

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        return self._opened().size(name)

    def close(self) -> None:
        """Close the reader if it was opened."""
        if self._reader is not None:
            self._reader.close()

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """See `Doubtable.doubt`."""
        return self._reader is not None and doubt(self._reader, name, start, stop)

    def abandon(self) -> None:
        """See `Abandonable.abandon`."""
        if self._reader is not None:
            abandon(self._reader)

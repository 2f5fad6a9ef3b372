"""Having the disk begin before all is written, so that the end need not wait for all of it.

What is written waits in memory, often until somebody asks for it to be durable: then the processor
has nothing to do, and while it is busy the disk has nothing to do. Promises nothing about what is
durable: whoever needs that calls `fsio.sync_filesystem` after `finish`. That a disk failed is told
once only, so what is told here is passed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chunkstore import fsio
from chunkstore.storage.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

STEP: Final = 128 * 1024 * 1024
"""Bytes written before the disk is set going: smaller trees are not worth a thread."""


class EarlySync:
    """The file system of an open directory, which stays open until `close`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._threads = Threads(1, "sync")
        self._under_way: Future[None] | None = None
        self._written = 0

    def wrote(self, size: int) -> None:
        """So many bytes more have been written. Raises `OSError` when the disk had failed."""
        self._written += size
        if self._written < STEP:
            return
        if self._under_way is not None:
            if not self._under_way.done():
                return
            self._under_way.result()
        self._written = 0
        self._under_way = self._threads.submit(fsio.sync_filesystem, self._descriptor)

    def finish(self) -> None:
        """Wait for what is under way. Raises `OSError` when the disk failed."""
        if self._under_way is not None:
            self._under_way.result()

    def close(self) -> None:
        """Wait for what is under way, whatever became of it."""
        self._threads.close()

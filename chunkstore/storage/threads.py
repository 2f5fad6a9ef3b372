"""Threads that are there once they are needed.

What starts threads takes longer to import than a commit that finds nothing changed may take for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Threads:
    """At most `count` threads, named for what they do."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    def submit(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Future[Result]:
        """Have a thread do it."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
        return self._pool.submit(work, *args, **options)

    def close(self) -> None:
        """Wait for what is being done; what has not begun never will."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

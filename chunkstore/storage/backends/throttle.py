"""Reading no faster than allowed, so that a pull leaves room on the line for others.

Promises: in any span of time all who share a throttle read at most its rate, and a fraction of a
second's worth besides; while there is something to read, hardly less. Who has read waits until
that is paid for, in portions small enough that nothing comes in gulps.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from chunkstore.errors import Usage
from chunkstore.storage.backend import Reader, abandon

CREDIT: Final = 0.1
"""Seconds of reading that may be caught up on: sleep ends a little late every time."""

_PORTIONS: Final = 20.0
_LEAST, _MOST = 1024, 64 * 1024


class Throttle:
    """`rate` bytes per second for all threads together. Raises `Usage` when that is nothing."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if not (rate > 0 and math.isfinite(rate)):
            raise Usage(f"can't read at {rate} bytes per second: a limit is more than 0")
        self.rate = rate
        self.portion = int(min(max(rate / _PORTIONS, _LEAST), _MOST))
        """Bytes to read at once at most."""
        self._clock = clock
        self._released = threading.Event()
        self._sleep = sleep or self._released.wait
        self._lock = threading.Lock()
        self._paid_until = clock()

    def pay(self, count: int) -> float:
        """Wait until `count` bytes that were read are paid for; how many seconds that took."""
        with self._lock:
            now = self._clock()
            # What nobody read yesterday is no reason to hurry today.
            self._paid_until = max(self._paid_until, now - CREDIT) + count / self.rate
            wait = self._paid_until - now
        if wait <= 0 or self._released.is_set():
            return 0.0
        self._sleep(wait)
        return wait

    def release(self) -> None:
        """Let all go on who wait, and never wait again."""
        self._released.set()


class ThrottledReader:
    """A reader of another place, such as a mounted one, that waits after each read."""

    def __init__(self, inner: Reader, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        # At once, since an object may be replaced between two reads.
        data = self._inner.get(name, start, stop)
        self._throttle.pay(len(data))
        return data

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        return self._inner.size(name)

    def close(self) -> None:
        """See `Reader.close`."""
        self._inner.close()

    def abandon(self) -> None:
        """See `Abandonable.abandon`."""
        self._throttle.release()
        abandon(self._inner)

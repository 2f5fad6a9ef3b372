"""Watch: wait until a ref of a remote moves, have it applied, and wait again.

Promises: what moved is applied, and again until that has succeeded, without waiting for another
move; a remote that fails, or shows what can't be believed, is waited for, longer and longer but
never for ever. Every few hours `apply` is called without a move, since that a ref has expired is
seen by nothing that moves. Waits differ by chance, so that a fleet does not come all at the same
second. Leaves to `apply` what is to be done: it finds out by itself what the refs say by then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from chunkstore.errors import NotFound, TransferError, Untrusted
from chunkstore.objects.documents import MAX_REF
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader
from chunkstore.storage.polling import poll

INTERVAL: Final = 60.0
"""Seconds between polls, on average."""
FIRST_RETRY: Final = 10.0
"""Seconds after the first failure of an outage; doubled with each that follows."""
LAST_RETRY: Final = 900.0
"""Seconds after which a remote in an outage is tried at the latest, or the interval if longer."""
RECHECK: Final = 6 * 3600.0
"""Seconds of waiting after which `apply` is called though nothing has moved."""
JITTER: Final = 0.5
"""Part of a wait that chance adds or takes away."""

Outage = TransferError | Untrusted


def watch(
    reader: Reader,
    images: Iterable[str],
    apply: Callable[[], object],
    *,
    interval: float = INTERVAL,
    tell: Callable[[Outage | None], object] = lambda _: None,
    sleep: Callable[[float], object] = time.sleep,
    chance: Callable[[float, float], float] = random.uniform,
) -> NoReturn:
    """Call `apply` now, and whenever the ref of one of `images` has moved.

    `tell` hears the first error of each outage, and None when it is over. An outage is a
    `TransferError` of a poll or of `apply`, or an `Untrusted` of `apply`; whatever else they raise,
    or `sleep`, ends the watch.
    """
    watched = _Refs(reader, images)
    failures = 0
    waited = 0.0
    while True:
        try:
            if watched.have_moved() or waited >= RECHECK:
                apply()
                waited = 0.0
                watched.settle()
        except (TransferError, Untrusted) as error:
            failures += 1
            if failures == 1:
                tell(error)
        else:
            if failures:
                tell(None)
            failures = 0
        wait = _retry(failures, interval) if failures else interval
        wait = chance(wait * (1 - JITTER), wait * (1 + JITTER))
        sleep(wait)
        waited += wait


def _retry(failures: int, interval: float) -> float:
    # The exponent is bounded since an outage may last for years of attempts.
    return min(FIRST_RETRY * 2.0 ** min(failures - 1, 30), max(LAST_RETRY, interval))


class _Refs:
    """The refs that are watched, and whether any has moved since the last `settle`."""

    def __init__(self, reader: Reader, images: Iterable[str]) -> None:
        self._reader = reader
        self._seen: dict[str, str | None] = {layout.ref(image): None for image in images}
        self._moved = True

    def have_moved(self) -> bool:
        """Poll all; a move stays known when a later poll fails. Raises `TransferError`."""
        for name, seen in self._seen.items():
            try:
                polled = poll(self._reader, name, seen, limit=MAX_REF + 1)
            except NotFound:
                # `apply` will meet the same and say it better, or else find it there again.
                self._seen[name] = None
                self._moved = True
                continue
            self._seen[name] = polled.validator
            self._moved |= polled.data is not None
        return self._moved

    def settle(self) -> None:
        """What has moved so far was applied."""
        self._moved = False

"""Several places that hold the same store: tried in order, and ranges of packs in parallel.

Small documents come from the first place that has them, so that one answer fits the other; packs
from whichever has the least to do. Promises: what one place can't give, the next is asked for, and
what turned out to be wrong (`doubt`) is not taken from the same place again; one that was wrong
three times is only asked when no other is left. A bad mirror costs time. Leaves to the caller to
find out what is wrong: nothing is believed here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from chunkstore.errors import NotFound, TransferError
from chunkstore.storage.backend import Polled, Reader, abandon
from chunkstore.storage.polling import poll

STRIKES: Final = 3
"""So often a place may fail or be wrong before it comes last."""

_SPREAD: Final = (".pack", ".idx")
_REMEMBERED: Final = 4096
Part = tuple[str, int, int]
_T = TypeVar("_T")


class _Source:
    """A place, and how it has done so far."""

    def __init__(self, number: int, reader: Reader) -> None:
        self.number = number
        self.reader = reader
        self.strikes = 0
        self.busy = 0
        self.asked = 0

    @property
    def load(self) -> tuple[int, int]:
        """What it is at, and what it has done: quick places get more."""
        return self.busy, self.asked

    @property
    def is_bad(self) -> bool:
        return self.strikes >= STRIKES


class MirrorReader:
    """Reads what any of `readers` has; the first is asked first."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._sources = [_Source(number, reader) for number, reader in enumerate(readers)]
        self._lock = threading.Lock()
        self._served: OrderedDict[Part, _Source] = OrderedDict()
        self._refused: OrderedDict[Part, set[int]] = OrderedDict()

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        part = (name, start, stop)

        def read(source: _Source) -> bytes:
            data = source.reader.get(name, start, stop)
            with self._lock:
                self._served[part] = source
                while len(self._served) > _REMEMBERED:
                    self._served.popitem(last=False)
            return data

        return self._ask(name, read, part)

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        return self._ask(name, lambda source: source.reader.size(name))

    def poll(self, name: str, seen: str | None, *, limit: int) -> Polled:
        """See `Watchable.poll`."""
        return self._ask(name, lambda source: poll(source.reader, name, seen, limit=limit))

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """See `Doubtable.doubt`."""
        part = (name, start, stop)
        with self._lock:
            source = self._served.pop(part, None)
            if source is None:
                return False
            source.strikes += 1
            refused = self._refused.setdefault(part, set())
            refused.add(source.number)
            while len(self._refused) > _REMEMBERED:
                self._refused.popitem(last=False)
            return len(refused) < len(self._sources)

    def close(self) -> None:
        """See `Reader.close`."""
        for source in self._sources:
            source.reader.close()

    def abandon(self) -> None:
        """See `Abandonable.abandon`."""
        for source in self._sources:
            abandon(source.reader)

    def _ask(self, name: str, read: Callable[[_Source], _T], part: Part | None = None) -> _T:
        """What the first place says that says anything. Raises what the last one raised.

        That it is not there counts only if nobody was out of reach.
        """
        tried: set[int] = set()
        missing: NotFound | None = None
        failed: TransferError | None = None
        while (source := self._next(name, tried, part)) is not None:
            tried.add(source.number)
            try:
                return read(source)
            except NotFound as absent:
                missing = absent
            except TransferError as broken:
                failed = broken
                with self._lock:
                    source.strikes += 1
            finally:
                with self._lock:
                    source.busy -= 1
        error = failed or missing
        if error is None:
            raise TransferError(f"{name}: every mirror was wrong about it", retryable=False)
        raise error

    def _next(self, name: str, tried: set[int], part: Part | None) -> _Source | None:
        with self._lock:
            refused = self._refused.get(part, set()) if part is not None else set()
            left = [
                source
                for source in self._sources
                if source.number not in tried and source.number not in refused
            ]
            if not left:
                return None
            is_spread = name.endswith(_SPREAD)
            best = min(
                left,
                key=lambda source: (source.is_bad, source.load if is_spread else (), source.number),
            )
            best.busy += 1
            best.asked += is_spread
            return best

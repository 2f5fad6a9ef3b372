"""How far a verb has come, on a terminal: bytes, files, rate and time left, on stderr.

Promises: a verb that is done at once shows nothing, and never loads what draws the bar.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from chunkstore.progress import Progress, Unwatched
from imgstore.readable import counted, human

if TYPE_CHECKING:
    from tqdm import tqdm

_PATIENCE: Final = 0.5
_REDRAW: Final = 0.2
_COLUMNS: Final = 80


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """Progress as a bar, which is gone afterwards."""
    bar = _Bar(title)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def unwatched() -> Iterator[Progress]:
    """Progress nobody sees."""
    yield Unwatched()


class _Bar:
    """Counts, and after a moment begins to draw. Threads may share it."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._lock = threading.Lock()
        self._begun = self._drawn = time.monotonic()
        self._files = self._size = 0
        self._all_files = self._all_size = 0
        self._came = (0, 0, 0)
        self._bar: tqdm[NoReturn] | None = None

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        """Set what is ahead."""
        with self._lock:
            self._all_files, self._all_size = files, size

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        """Count, and draw if it is time."""
        with self._lock:
            self._files += files
            self._size += size
            now = time.monotonic()
            if now - self._begun > _PATIENCE and now - self._drawn > _REDRAW:
                self._drawn = now
                self._draw()

    def came(self, *, peers: int = 0, server: int = 0, own: int = 0) -> None:
        """Count where bytes come from, and draw if it is time."""
        with self._lock:
            self._came = (self._came[0] + peers, self._came[1] + server, self._came[2] + own)
        self.advance()

    def _sources(self) -> str:
        named = zip(("from peers", "from server", "here"), self._came, strict=True)
        return "".join(f"{human(size)} {name}, " for name, size in named if size)

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = self._first()
        bar = self._bar
        bar.total = self._all_size or None
        done, size = counted(self._files, "file"), human(self._size)
        share = ""
        if self._all_size:
            share = "{percentage:.0f}%, "
            done = f"{self._files:,} of {counted(self._all_files, 'file')}"
            size = f"{size} of {human(self._all_size)}"
        last = "{remaining} left" if self._all_size else "{elapsed}"
        # A narrow terminal cuts off the end.
        bar.bar_format = f"{{desc}}: {share}{self._sources()}{size}, {done}, {{rate_fmt}}, {last}"
        bar.n = self._size
        bar.ncols = _columns()
        bar.refresh()

    def _first(self) -> tqdm[NoReturn]:
        from tqdm import tqdm

        # Its thread that looks after stuck bars would outlive the verb.
        tqdm.monitor_interval = 0
        # Left to itself it draws nothing on a terminal that doesn't know its size.
        bar = tqdm(
            desc=self._title,
            unit="B",
            unit_scale=True,
            leave=False,
            mininterval=0,
            ncols=_columns(),
            nrows=24,
            delay=1e-9,  # else it draws itself before it is told what to show
        )
        bar.start_t -= time.monotonic() - self._begun
        return bar

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None


def _columns() -> int:
    try:
        # Serial lines and some containers say 0: they don't know.
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except OSError:
        return _COLUMNS

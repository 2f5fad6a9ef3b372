"""How a node reads a pack from the server while it is alone, so that a crowd can still form.

Ranges are cut into slices at the borders of pieces: short on a slow line, so that little is under
way when somebody comes, long on a quick one, so that nothing is lost if nobody does. What the
server sent is kept in the pack's file, for others to have from here. Not safe from several threads
by itself: `Fetch` has the lock.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import Final

from chunkstore.objects.torrent import Torrent

SLICE: Final = 128 * 1024
"""Bytes asked for at once; more as long as they come quickly."""
QUICK_SECONDS: Final = 0.25
SLOW_SECONDS: Final = 1.0
KEPT_RATE: Final = 4 * 1024 * 1024
"""What comes quicker, in bytes per second of one connection, is not kept: a node with such a line
is done by the time there is a crowd, and to write everything twice is what would make it slow."""

SMALL_GAP: Final = 1 / 8
"""Of a piece. See `Alone.is_settled`."""


class Alone:
    """Slices of one pack, and its file in `directory` as far as it is written here."""

    def __init__(self, torrent: Torrent, directory: int) -> None:
        self._torrent = torrent
        self._directory = directory
        self._slice = SLICE
        self._file = -1
        self._asked: Counter[int] = Counter()

    def ask(self, start: int, stop: int) -> int:
        """Where the slice ends that begins at `start`; it counts as asked for."""
        piece = self._torrent.piece
        end = min((start + max(self._slice, piece)) // piece * piece, stop)
        for piece in self._torrent.covering(start, end):
            low, high = self._torrent.span(piece)
            self._asked[piece] += min(high, end) - max(low, start)
        return end

    def is_settled(self, piece: int, wanted: int) -> bool:
        """Whether a piece with so many `wanted` bytes need not come by a swarm any more.

        Whoever has a part of a piece can give nothing of it. So a piece of which little was not
        asked for, such as the head of a pack, comes once more, and one with large gaps does not.
        """
        low, high = self._torrent.span(piece)
        asked = self._asked[piece]
        return asked >= high - low or wanted <= asked < (high - low) * (1 - SMALL_GAP)

    def came(self, start: int, data: bytes, seconds: float) -> None:
        """Take in what came, and how long it took."""
        if seconds < QUICK_SECONDS:
            self._slice *= 2
        elif seconds > SLOW_SECONDS:
            self._slice = max(self._slice // 2, SLICE)
        if len(data) < KEPT_RATE * seconds:
            # A full disk is no trouble: then others have it from the server.
            with suppress(OSError):
                if self._file < 0:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                    name = self._torrent.name
                    self._file = os.open(name, flags, 0o600, dir_fd=self._directory)
                os.pwrite(self._file, data, start)

    def close(self) -> None:
        """Give back the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

"""A socket that is read at a pace: no peer may hold up a reader by sending slowly.

Promises: a request whose reply falls behind the pace ends in `TimeoutError`, wherever http.client
happens to be reading: status line, headers, chunk sizes or data. Bytes are counted as they come.
A throttle is paid for each of them, and the time that takes is not held against the peer.
"""

from __future__ import annotations

import io
import socket
import time
from typing import Any, Final, cast

from chunkstore.storage.backends.throttle import Throttle

FLOOR_RATE: Final = 4 * 1024
"""Bytes per second; a peer that falls behind this for as long as the timeout is dropped."""
HEAD_ALLOWANCE: Final = 64 * 1024
"""Bytes of status line and headers that earn time like data does."""

_BUFFER: Final = 64 * 1024


class Pace:
    """How long a peer may still take. Time is earned by delivering, up to what was asked for.

    So a peer that sends nothing is dropped after `patience` seconds, one that drips bytes not much
    later, and one that sends more than it should earns nothing by it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._start = 0.0
        self.begin()

    def begin(self) -> None:
        """A request goes out now."""
        self._start = time.monotonic()
        self.allowance = HEAD_ALLOWANCE
        self.received = 0
        self.ended = False

    def excuse(self, seconds: float) -> None:
        """For so long it was us who did not read."""
        self._start += seconds

    def left(self) -> float:
        """Seconds to wait for the next bytes. Raises `TimeoutError` when there are none left."""
        earned = min(self.received, self.allowance) / FLOOR_RATE
        left = self._start + self._patience + earned - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        return min(left, self._patience)


class _PacedReader(io.RawIOBase):
    """The receiving side of a socket, which counts what comes and never waits too long."""

    def __init__(self, sock: socket.socket, pace: Pace, throttle: Throttle | None) -> None:
        self._socket = sock
        # http.client may close a socket while its reply is still being read; what makefile
        # returns keeps it open as long as it is needed.
        self._raw = cast(io.RawIOBase, sock.makefile("rb", buffering=0))
        self._pace = pace
        self._throttle = throttle

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._pace.left())
        room = buffer if self._throttle is None else memoryview(buffer)[: self._throttle.portion]
        count = self._raw.readinto(room)
        if count:
            self._pace.received += count
            if self._throttle is not None:
                self._pace.excuse(self._throttle.pay(count))
        else:
            self._pace.ended = True
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class PacedSocket:
    """As much of a socket as http.client uses once it is connected."""

    stream: io.BufferedReader
    """The receiving side, made anew for each reply; http.client reads the head from it."""

    def __init__(self, sock: socket.socket, pace: Pace, throttle: Throttle | None) -> None:
        self._socket = sock
        self._pace = pace
        self._throttle = throttle

    def makefile(self, *_: object) -> io.BufferedReader:
        """Make the receiving side."""
        raw = _PacedReader(self._socket, self._pace, self._throttle)
        self.stream = io.BufferedReader(raw, _BUFFER)
        return self.stream

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._socket.settimeout(self._pace.left())
        self._socket.sendall(data)

    def close(self) -> None:
        """Close the socket once no reply is read from it any more."""
        self._socket.close()

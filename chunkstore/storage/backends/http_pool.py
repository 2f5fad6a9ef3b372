"""Lending connections to many threads, and counting what goes over them.

Promises: at most so many connections at a time; one is used again only after a reply that was read
to its end, and one that died while it idled is replaced without a word.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from chunkstore.errors import Usage
from chunkstore.storage.backends.http_access import Access
from chunkstore.storage.backends.http_connection import Connection, Reply, WentAway
from chunkstore.storage.backends.http_url import Origin, Url
from chunkstore.storage.backends.throttle import Throttle


class Traffic(NamedTuple):
    """What has gone over the network: requests sent, bytes received with headers, retries."""

    requests: int = 0
    received: int = 0
    retries: int = 0


class Meter:
    """Adds up traffic from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._received = self._retries = 0

    def add(self, *, requests: int = 0, received: int = 0, retries: int = 0) -> None:
        """Count what has happened."""
        with self._lock:
            self._requests += requests
            self._received += received
            self._retries += retries

    def read(self) -> Traffic:
        """The sums so far."""
        with self._lock:
            return Traffic(self._requests, self._received, self._retries)


WELL: Final = 16
"""Replies in a row after which one more connection is tried again."""


class Pool:
    """Connections that are lent out, at most `limit` at a time, and fewer on a line too narrow.

    Many nodes with many connections each leave each connection so little of a server's line that
    both sides drop it for slowness. So `narrow` takes one of them out of use, and replies that come
    well bring it back.
    """

    def __init__(
        self,
        *,
        limit: int,
        patience: float,
        meter: Meter,
        tls: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
        access: Access | None = None,
        home: Origin | None = None,
    ) -> None:
        self._access = access or Access()
        self._home = home
        self._away: ssl.SSLContext | None = tls
        self._limit = limit
        # Connections out of use; those of them that are still lent; replies since that came well.
        self._narrowed = self._owed = self._well = 0
        self._patience = patience
        self._meter = meter
        self._tls = tls
        self._throttle = throttle
        self._turns = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._closed = False

    @contextmanager
    def ask(self, method: str, url: Url, headers: Mapping[str, str]) -> Iterator[Reply]:
        """Send a request; a long body left unread costs the connection. Raises `TransferError`."""
        self._turns.acquire()
        try:
            connection, reply = self._sent(method, url, headers)
            try:
                yield reply
                reply.finish()
            except BaseException:
                self._drop(connection)
                raise
            finally:
                self._meter.add(received=connection.pace.received)
            self._take_back(connection, reply)
            self._widen()
        finally:
            self._end_turn()

    def narrow(self) -> None:
        """Use one connection less, if there is more than one."""
        with self._lock:
            self._well = 0
            if self._narrowed < self._limit - 1:
                self._narrowed += 1
                if not self._turns.acquire(blocking=False):
                    self._owed += 1  # all are lent: the next that comes back is not lent again

    def _widen(self) -> None:
        with self._lock:
            self._well += 1
            if self._narrowed and self._well >= WELL:
                self._well = 0
                self._narrowed -= 1
                if self._owed:
                    self._owed -= 1
                else:
                    self._turns.release()

    def _end_turn(self) -> None:
        with self._lock:
            if self._owed:
                self._owed -= 1
            else:
                self._turns.release()

    def _sent(self, method: str, url: Url, headers: Mapping[str, str]) -> tuple[Connection, Reply]:
        while True:
            connection = self._idle_one(url.origin) or self._new_one(url)
            self._meter.add(requests=1)
            try:
                return connection, connection.ask(method, url, headers)
            except WentAway:
                # No failure: the next one is new, or else proves itself in the same way.
                self._drop(connection)
            except BaseException:
                self._meter.add(received=connection.pace.received)
                self._drop(connection)
                raise

    def _idle_one(self, origin: Origin) -> Connection | None:
        with self._lock:
            if self._closed:
                raise _closed()
            for place in reversed(range(len(self._idle))):
                if self._idle[place].origin == origin:
                    connection = self._idle.pop(place)
                    if connection.is_quiet():
                        self._lent.add(connection)
                        return connection
                    connection.close()
        return None

    def _new_one(self, url: Url) -> Connection:
        tls = self._context(url.origin) if url.origin.scheme == "https" else None
        proxy = self._access.proxy(url.origin)
        connection = Connection(url, self._patience, tls, self._throttle, proxy)
        with self._lock:
            # Whoever closed or abandoned meanwhile did not see it.
            if not self._closed:
                self._lent.add(connection)
                return connection
        connection.close()
        raise _closed()

    def _context(self, origin: Origin) -> ssl.SSLContext:
        """How to speak to an origin: the client's certificate is shown to the store's own only."""
        with self._lock:
            if origin == self._home:
                self._tls = self._tls or self._access.context(is_home=True)
                return self._tls
            self._away = self._away or self._access.context(is_home=False)
            return self._away

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            # No longer ours to abort: once it is closed, its descriptor may be another's.
            self._lent.discard(connection)
        connection.close()

    def _take_back(self, connection: Connection, reply: Reply) -> None:
        spare: Connection | None = connection
        with self._lock:
            self._lent.discard(connection)
            if reply.is_complete and connection.is_open() and not self._closed:
                self._idle.append(connection)
                # Connections to servers that redirects led to may have piled up.
                spare = self._idle.pop(0) if len(self._idle) > self._limit else None
        if spare is not None:
            spare.close()

    def close(self) -> None:
        """Close what is idle now, and what is lent out when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """Close, and cut what is lent out."""
        self.close()
        with self._lock:
            for connection in self._lent:
                connection.abort()


def _closed() -> Usage:
    return Usage("the reader was closed")

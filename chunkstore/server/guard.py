"""Connections: how many, and how long each may stay silent.

aiohttp parses and answers; it has no bound on connections, and its keep-alive
timer has changed meaning between releases. So each connection here is an
aiohttp RequestHandler that reports to one Guard. A connection is either
waiting for a request head or busy with a request; `delivery` says which.
The Guard cuts those that wait too long; a busy one that reads too slowly is
cut by `delivery`, which knows how much it was given.

Only public names of aiohttp are used.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from chunkstore.server.limits import Limits

logger = logging.getLogger("chunkstore.server")
# Without this, logging prints warnings of a library on stderr by itself.
logger.addHandler(logging.NullHandler())

# How long to read, and drop, what a client whose request was refused goes on
# sending. Closing over unread bytes makes the kernel send a reset, which can
# overtake the answer.
_LINGER_SECONDS = 1.0

# A new connection needs five turns of the event loop from its first byte to the
# handler: connection made, reader added, read, parsed, handled.
_TURNS_TO_CATCH_UP = 8

# On every response. aiohttp would name itself and Python, with versions.
FIXED_HEADERS = {"X-Content-Type-Options": "nosniff", "Server": "imgstore"}


@dataclass(frozen=True, slots=True)
class Access:
    """One answered request, for the access log.

    `path` is as the client sent it, so quote it before showing it. `bytes` is
    of the body, handed to the kernel. `complete` is false when the client went
    away or was cut. Method and path are empty when the head was not HTTP.
    """

    peer: str
    method: str
    path: str
    status: int
    bytes: int
    seconds: float
    complete: bool


OnRequest = Callable[[Access], None]


class Connection(web.RequestHandler):
    """An aiohttp connection that tells its Guard what it is doing."""

    __slots__ = ("guard", "waiting_since")

    def __init__(self, server: web.Server, guard: Guard, limits: Limits) -> None:
        self.guard = guard
        self.waiting_since = math.inf  # while it is not waiting for a head
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=logger,
            access_log=None,  # type: ignore[arg-type]  # None turns it off, as AppRunner's users do
            max_line_size=limits.max_line_bytes,
            max_field_size=limits.max_field_bytes,
            max_headers=limits.max_fields,
            lingering_time=_LINGER_SECONDS,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register; called by asyncio."""
        self.waiting_since = asyncio.get_running_loop().time()
        self.guard.joined(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back; called by asyncio."""
        self.guard.left(self)
        super().connection_lost(exc)

    def begin(self) -> None:
        """A request head has arrived."""
        self.waiting_since = math.inf

    def end(self) -> None:
        """The response is in the kernel; wait for the next head."""
        self.waiting_since = asyncio.get_running_loop().time()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what was not a request. Scanners are no news: no traceback."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        self.guard.report(Access(request.remote or "", "", "", status, 0, 0.0, True))
        response = web.Response(status=status, text="not a request this server can read\n")
        response.headers.update(FIXED_HEADERS)
        response.force_close()
        return response


class Guard:
    """The register of all connections of one server."""

    def __init__(self, limits: Limits, on_request: OnRequest | None = None) -> None:
        self._limits = limits
        self._on_request = on_request
        self._connections: set[Connection] = set()
        self._places = asyncio.Semaphore(limits.max_connections)
        self._queued = 0

    async def take_place(self) -> None:
        """Wait until one more connection may be served."""
        self._queued += 1
        try:
            await self._places.acquire()
        finally:
            self._queued -= 1

    def give_place(self) -> None:
        """Return a place; for one that never became a connection."""
        self._places.release()

    def joined(self, connection: Connection) -> None:
        """A place has become a connection."""
        self._connections.add(connection)

    def left(self, connection: Connection) -> None:
        """A connection has closed."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._places.release()

    def report(self, access: Access) -> None:
        """Hand one line to the access log."""
        if self._on_request is None:
            return
        try:
            self._on_request(access)
        except Exception:  # a broken log must not break the service
            logger.exception("the access log callback failed")

    async def reap(self) -> None:
        """Cut connections that wait too long for a head. Runs until cancelled."""
        limits = self._limits
        tick = min(limits.head_seconds, limits.crowded_head_seconds) / 4
        while True:
            await asyncio.sleep(tick)
            now = asyncio.get_running_loop().time()
            late, idle = now - limits.head_seconds, now - limits.crowded_head_seconds
            if not self._queued:
                idle = late
            suspects = [each for each in self._connections if each.waiting_since <= idle]
            if not suspects:
                continue
            # Their heads may have come already, and this loop be behind with
            # reading them. After these turns it is not: whoever waits still
            # has sent nothing.
            for _ in range(_TURNS_TO_CATCH_UP):
                await asyncio.sleep(0)
            for connection in suspects:
                since, transport = connection.waiting_since, connection.transport
                if transport is None or since > idle:
                    continue
                # In a crowd, one to which data is still on its way isn't idle.
                if since <= late or not _undelivered(transport):
                    transport.abort()


def _undelivered(transport: asyncio.Transport) -> int:
    """How many bytes the kernel holds that the client has not acknowledged."""
    fd = transport.get_extra_info("socket").fileno()
    if fd < 0:
        return 0
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

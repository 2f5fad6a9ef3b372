"""Sending a response, and giving up on those who do not take it.

One middleware does it for every route of the application, also for those added
later: what a handler returns is sent here, in pieces with a deadline each, and
then reported. aiohttp finds the response already sent and goes on to the next
request. Handlers only say what to send.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from io import FileIO
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from chunkstore.server.guard import FIXED_HEADERS, Access, Connection, logger
from chunkstore.server.limits import Limits
from chunkstore.server.proxies import Proxies
from chunkstore.server.sendfile import sendfile

# A piece is what a deadline is set for. Smaller ones find a stalled reader
# sooner, and cost more.
PIECE_BYTES: Final = 1 << 20


class FileResponse(web.StreamResponse):
    """A response whose body is a run of bytes of a file, sent by `delivery`.

    `on_end` is called once it is over, whether all of it was sent or not.
    """

    def __init__(self, file: FileIO, span: range, *, status: int, headers: dict[str, str]) -> None:
        """Take over `file`, which is closed after sending."""
        super().__init__(status=status, headers=headers)
        self.file = file
        self.span = span
        self.on_end: Callable[[], None] = lambda: None

    def end(self) -> None:
        """Close the file, and tell whoever wants to know."""
        self.file.close()
        self.on_end()


def delivering(limits: Limits, proxies: Proxies) -> Middleware:
    """The outermost middleware of the application."""

    @web.middleware
    async def deliver(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol if isinstance(request.protocol, Connection) else None
        started = time.monotonic()
        if connection is not None:
            connection.begin()
        sending: _Sending | None = None
        try:
            response = await _answer(request, handler)
            sending = _Sending(request, response, limits)
            await sending.run()
        finally:
            if connection is not None:
                if sending is not None:
                    seconds = time.monotonic() - started
                    connection.guard.report(sending.access(proxies.client(request), seconds))
                connection.end()
        return response

    return deliver


@web.middleware
async def refuse_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 413 to a request with a body; no route takes one yet.

    The first route that does needs an exception and a limit of its own here.
    """
    if request.body_exists:
        response = web.Response(status=413, text="this server takes no request bodies\n")
        response.force_close()
        return response
    return await handler(request)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refused:
        # Sent as a plain response: aiohttp deprecates returning the exception.
        response = web.Response(status=refused.status, reason=refused.reason, text=refused.text)
        for name in (hdrs.ALLOW, hdrs.LOCATION):
            if name in refused.headers:
                response.headers[name] = refused.headers[name]
    except Exception:
        logger.exception("%s %s failed", request.method, request.raw_path)
        response = web.Response(status=500, text="internal error\n")
    if not response.prepared:
        response.headers.update(FIXED_HEADERS)
    return response


class _Sending:
    """One response on its way: how much of it has been taken."""

    def __init__(self, request: web.Request, response: web.StreamResponse, limits: Limits) -> None:
        self._request = request
        self._response = response
        self._limits = limits
        self._sent = 0
        self._complete = False

    async def run(self) -> None:
        """Send it all, or cut the connection; a half response must not look whole."""
        try:
            await self._send()
            self._complete = True
        except (ConnectionError, TimeoutError):
            pass  # the client left, or took too long: its own affair
        except OSError:
            logger.exception("sending %s failed", self._request.raw_path)
        finally:
            if isinstance(self._response, FileResponse):
                self._response.end()
            if not self._complete:
                self._response.force_close()
                if self._request.transport is not None:
                    self._request.transport.abort()

    def access(self, peer: str, seconds: float) -> Access:
        request = self._request
        return Access(
            peer=peer,
            method=request.method,
            path=request.raw_path,
            status=self._response.status,
            bytes=self._sent,
            seconds=seconds,
            complete=self._complete,
        )

    async def _send(self) -> None:
        response = self._response
        body = response.body if isinstance(response, web.Response) else None
        inline = len(body) if isinstance(body, bytes) and self._request.method != "HEAD" else 0
        if self._request.transport is not None:
            # With a high-water mark of 0 a drained response lies wholly in the
            # kernel: files can then be sent past the transport, the time limits
            # cover the last byte, and a cut drops nothing counted as sent.
            # asyncio's TLS takes 0 for "always full", and would wait for ever.
            is_encrypted = self._request.transport.get_extra_info("ssl_object") is not None
            self._request.transport.set_write_buffer_limits(high=1 if is_encrypted else 0)
        async with asyncio.timeout(self._limits.patience(inline)):
            await response.prepare(self._request)
            if not isinstance(response, FileResponse):
                await response.write_eof()
            await self._request.writer.drain()
        self._sent = inline
        if isinstance(response, FileResponse):
            await self._send_file(response)
            await response.write_eof()

    async def _send_file(self, response: FileResponse) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if transport.get_extra_info("ssl_object") is not None:
            await self._send_encrypted(response)
            return
        # As asyncio's sendfile does: what the client sends meanwhile can wait,
        # its end of file too, on which the transport would close.
        was_reading = transport.is_reading()
        transport.pause_reading()
        try:
            with transport.get_extra_info("socket").dup() as sock:
                for start in range(response.span.start, response.span.stop, PIECE_BYTES):
                    await self._send_piece(response, sock, start)
        finally:
            if was_reading:
                transport.resume_reading()

    async def _send_encrypted(self, response: FileResponse) -> None:
        """The same through the transport, since the kernel can't encrypt."""
        for start in range(response.span.start, response.span.stop, PIECE_BYTES):
            count = min(PIECE_BYTES, response.span.stop - start)
            data = os.pread(response.file.fileno(), count, start)
            if len(data) != count:
                raise OSError(f"{self._request.raw_path} ends at byte {start + len(data)}")
            async with asyncio.timeout(self._limits.patience(count)):
                await response.write(data)
                await self._request.writer.drain()
            self._sent += count

    async def _send_piece(self, response: FileResponse, sock: socket.socket, start: int) -> None:
        count = min(PIECE_BYTES, response.span.stop - start)
        async with asyncio.timeout(self._limits.patience(count)):
            sent = await sendfile(sock, response.file.fileno(), start, count)
        self._sent += sent
        if sent != count:
            raise OSError(f"{self._request.raw_path} ends at byte {start + sent}")

"""Listening: the sockets of a server, and taking connections from them.

The accept loop is ours, not asyncio's: it takes a place from the Guard for
each connection, so that those beyond the limit stay in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from chunkstore.server.guard import Connection, Guard, OnRequest, logger
from chunkstore.server.limits import Limits

Address = tuple[str, int]

_RETRY_ACCEPT_SECONDS = 0.1


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    limits: Limits,
    on_request: OnRequest | None,
    tls: ssl.SSLContext | None,
) -> AsyncIterator[list[Address]]:
    """Serve `app` while the block runs; gives the bound addresses."""
    guard = Guard(limits, on_request)
    runner = web.AppRunner(app, shutdown_timeout=limits.stop_seconds)
    # First of all: what the application opens may want the same address, and tells less of it.
    listeners = _bind(host, port, limits.backlog)
    tasks: list[asyncio.Task[None]] = []
    shaking: set[asyncio.Task[None]] = set()
    try:
        await runner.setup()
        server = runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner has no server after setup")
        tasks.append(asyncio.create_task(guard.reap()))
        tasks += [
            asyncio.create_task(
                _accept(
                    *(each, guard, lambda: Connection(server, guard, limits)),
                    *(tls, limits.head_seconds, shaking),
                )
            )
            for each in listeners
        ]
        yield [each.getsockname()[:2] for each in listeners]
    finally:
        waited_for = [*tasks, *shaking]
        for task in waited_for:
            task.cancel()
        await asyncio.gather(*waited_for, return_exceptions=True)
        for each in listeners:
            each.close()
        # Closes idle connections at once, and the others as they finish.
        await runner.cleanup()


async def _accept(
    listener: socket.socket,
    guard: Guard,
    factory: Callable[[], Connection],
    tls: ssl.SSLContext | None,
    patience: float,
    shaking: set[asyncio.Task[None]],
) -> None:
    """Take connections while there are places. Runs until cancelled.

    Those that are `shaking` hands for TLS have `patience` seconds for it.
    """
    while True:
        try:
            # Not `loop.sock_accept`: cancelled at the wrong moment, it loses an
            # accepted socket. Here nothing is awaited between the two.
            accepted, _ = listener.accept()
        except BlockingIOError:
            await _readable(listener)
            continue
        except ConnectionAbortedError:
            continue
        except OSError as error:
            # Out of descriptors or memory. The listener stays readable, so
            # without a pause this would spin.
            logger.warning("accept: %s", os.strerror(error.errno or 0))
            await asyncio.sleep(_RETRY_ACCEPT_SECONDS)
            continue
        # One is taken before there is a place for it: while it waits, the
        # Guard knows that others queue behind it.
        accepted.setblocking(False)
        try:
            await guard.take_place()
        except BaseException:
            accepted.close()
            raise
        if tls is None:
            await _connect(accepted, guard, factory)
            continue
        # Aside: whoever lingers over his handshake must not keep others waiting.
        task = asyncio.create_task(_connect(accepted, guard, factory, tls, patience))
        shaking.add(task)
        task.add_done_callback(shaking.discard)


async def _connect(
    accepted: socket.socket,
    guard: Guard,
    factory: Callable[[], Connection],
    tls: ssl.SSLContext | None = None,
    patience: float | None = None,
) -> None:
    """Hand a socket over to asyncio, with TLS within `patience` seconds."""
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(
            factory, accepted, ssl=tls, ssl_handshake_timeout=patience if tls else None
        )
    except OSError:
        accepted.close()
        guard.give_place()
    except asyncio.CancelledError:
        accepted.close()
        raise


async def _readable(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(listener, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(listener)


def _bind(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets on every address of `host`, all on one port."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listener = _listen(family, (address[0], port, *address[2:]), backlog)
            except OSError as error:
                # "localhost" has an IPv6 address also where IPv6 is switched off.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error
            else:
                listeners.append(listener)
                port = listener.getsockname()[1]
        if missing is not None and not listeners:
            raise missing
    except BaseException:
        for each in listeners:
            each.close()
        raise
    return listeners


def _listen(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Else peers with IPv4 would show up with two kinds of address.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener

"""Running the server: sockets, start, signals, stop.

`serve_forever` is for the foreground of a process, `running` for a thread
beside other work, as in tests. Both raise OSError untouched when the address
cannot be bound or the store not opened. Nothing is printed; `on_ready` and
`on_request` tell what happens. Both run on the event loop, so must be quick.

The accept loop is ours, not asyncio's: it takes a place from the Guard for
each connection, so that those beyond the limit stay in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from aiohttp import web

from chunkstore.server.entry import Entry
from chunkstore.server.files import application
from chunkstore.server.guard import Connection, Guard, OnRequest, logger
from chunkstore.server.limits import Limits

Address = tuple[str, int]
OnReady = Callable[[list[Address]], None]
Extend = Callable[[web.Application], None]

_RETRY_ACCEPT_SECONDS = 0.1


def serve_forever(
    store_root: Path,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    on_ready: OnReady | None = None,
    on_request: OnRequest | None = None,
    extend: Extend | None = None,
    entry: Entry | None = None,
) -> signal.Signals:
    """Serve until SIGINT or SIGTERM, and return which it was.

    Running responses get `limits.stop_seconds` to finish; a second signal has
    its usual effect. `host` "" means every IPv4 and IPv6 address, and `::` all
    IPv6 ones only. `on_ready` gets the bound addresses, `extend` the application before it
    starts, to add routes, and `entry` says who may come in. Call it in the main thread;
    the soft limit of open files is raised as far as `limits` needs it.
    """
    limits, asked = limits or Limits(), entry or Entry()
    tls = asked.context()
    _raise_file_limit(3 * limits.max_connections + 64)

    async def main() -> signal.Signals:
        loop = asyncio.get_running_loop()
        stopped_by: asyncio.Future[signal.Signals] = loop.create_future()

        def stop(number: signal.Signals) -> None:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)
            stopped_by.set_result(number)

        app = _build(store_root, limits, extend, asked)
        async with _listening(app, host, port, limits, on_request, tls) as addresses:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(each, stop, each)
            if on_ready is not None:
                on_ready(addresses)
            return await stopped_by

    return asyncio.run(main())


@contextmanager
def running(
    store_root: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limits: Limits | None = None,
    on_request: OnRequest | None = None,
    extend: Extend | None = None,
    entry: Entry | None = None,
) -> Iterator[str]:
    """Serve from a thread while the block runs; gives the base URL."""
    limits, asked = limits or Limits(), entry or Entry()
    tls = asked.context()
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, list[Address]]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        app = _build(store_root, limits, extend, asked)
        async with _listening(app, host, port, limits, on_request, tls) as addresses:
            ready.set_result((asyncio.get_running_loop(), stop, addresses))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="imgstore-server")
    thread.start()
    try:
        loop, stop, addresses = ready.result()
        try:
            yield base_url(addresses[0], is_encrypted=tls is not None)
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join()


def base_url(address: Address, *, is_encrypted: bool = False) -> str:
    """The URL of a server bound to `address`."""
    host, port = address
    scheme = "https" if is_encrypted else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _build(
    store_root: Path, limits: Limits, extend: Extend | None, entry: Entry
) -> web.Application:
    app = application(store_root, limits, token=entry.token, proxies=entry.proxies)
    if extend is not None:
        extend(app)
    return app


@asynccontextmanager
async def _listening(
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


def _raise_file_limit(wanted: int) -> None:
    """The soft limit is often 1024, of which each connection may need three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))

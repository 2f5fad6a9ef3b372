"""Running the server: start, signals, stop.

`serve_forever` is for the foreground of a process, `running` for a thread
beside other work, as in tests. Both raise OSError untouched when the address
cannot be bound or the store not opened. Nothing is printed; `on_ready` and
`on_request` tell what happens. Both run on the event loop, so must be quick.
Leaves sockets to `listening`.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from aiohttp import web

from chunkstore.server.entry import Entry
from chunkstore.server.files import application
from chunkstore.server.guard import OnRequest
from chunkstore.server.limits import Limits
from chunkstore.server.listening import Address, listening

OnReady = Callable[[list[Address]], None]
Extend = Callable[[web.Application], None]


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
        async with listening(app, host, port, limits, on_request, tls) as addresses:
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
        async with listening(app, host, port, limits, on_request, tls) as addresses:
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


def _raise_file_limit(wanted: int) -> None:
    """The soft limit is often 1024, of which each connection may need three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))

"""`imgstore serve`: the store over HTTP."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chunkstore.errors import LocalError, Usage, local_errors
from imgstore.output import Output, one_line
from imgstore.peers import session_settings
from imgstore.remotes import read_token
from imgstore.stores import open_store

if TYPE_CHECKING:
    from aiohttp.web import Application

    from chunkstore.server import Access, Address
    from chunkstore.swarm.seed import FirstSeed


def run(options: Namespace, output: Output) -> int:
    """Serve until a signal; print the URL once connections are taken."""
    host, port = _address(options.listen)
    store = open_store(options, output)
    try:
        from chunkstore.server import SERVICE, Entry, Proxies, base_url, serve_forever
    except ModuleNotFoundError as error:
        raise LocalError(
            f"serving needs the Python package {error.name}: pip install 'imgstore[serve]'"
        ) from error

    from chunkstore.swarm.settings import parse_network

    entry = Entry(
        token=read_token(options.token_file) if options.token_file else "",
        certificate=options.tls_cert or "",
        key=options.tls_key or "",
        authority=options.client_ca or "",
        proxies=Proxies(tuple(map(parse_network, options.proxies))),
    )
    seeding = _seeding(options, host, store.root, output)

    def extend(app: Application) -> None:
        app[SERVICE].trackers = tuple(options.trackers)
        app[SERVICE].seed = seeding

    def ready(addresses: list[Address]) -> None:
        is_encrypted = bool(options.tls_cert)
        urls = [base_url(address, is_encrypted=is_encrypted) for address in addresses]
        output.report(
            f"serving {store.root} at {' and '.join(urls)}", {"store": store.root, "urls": urls}
        )
        # Whoever started us may wait for this line, and nothing else will be printed for long.
        sys.stdout.flush()

    with local_errors(f"can't serve at {options.listen}"):
        serve_forever(
            Path(store.root),
            host,
            port,
            on_ready=ready,
            extend=extend,
            on_request=_log if output.verbose else None,
            entry=entry,
        )
    return 0


def _seeding(
    options: Namespace, host: str, root: str, output: Output
) -> Callable[[], FirstSeed] | None:
    """What opens the first seed; None when there is to be none, or can't be."""
    if options.no_seed:
        return None
    from chunkstore.swarm.session import library

    try:
        library()
    except LocalError as error:
        output.note(f"no first seed: {error}")
        return None
    from chunkstore.swarm.seed import FirstSeed
    from chunkstore.swarm.settings import parse_address

    settings = session_settings(options)
    if not options.peer_listen and host and not options.proxies:
        # Where nodes reach the server, and nowhere else.
        with suppress(Usage):
            settings = settings._replace(addresses=(parse_address(host),))
    return lambda: FirstSeed(root, settings, tuple(options.trackers))


def _log(access: Access) -> None:
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    cut = "" if access.complete else " (cut short)"
    sys.stderr.write(
        f"{when} {access.peer} {access.status} {access.bytes} {access.seconds:.3f}s "
        f"{one_line(access.method)} {one_line(access.path)}{cut}\n"
    )


def _address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[HOST]:PORT`; every address when there is no host. Raises `Usage`."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Usage(f"--listen {text}: write ADDRESS:PORT, such as 0.0.0.0:8730")
    if ":" in host and not is_bracketed:
        raise Usage(f"--listen {text}: write an IPv6 address in brackets, such as [::1]:8730")
    return (host[1:-1] if is_bracketed else host), int(port)

"""What a command line says of swarms: where to listen, whom to talk to, what to give."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from imgstore.output import Output
from imgstore.remotes import access

if TYPE_CHECKING:
    from chunkstore.swarm.settings import SessionSettings, SwarmSettings

GIVE_SECONDS: Final = 900.0
"""How long a node goes on giving after a pull, unless nobody wants any before, or it says else."""
_READY_SECONDS: Final = 20.0


def session_settings(options: Namespace) -> SessionSettings:
    """Where to listen for peers, and whom to talk to. Raises `Usage`."""
    from chunkstore.swarm import settings

    return settings.SessionSettings(
        addresses=tuple(map(settings.parse_address, options.peer_listen)) or settings.EVERYWHERE,
        ports=settings.parse_ports(options.peer_port),
        networks=tuple(map(settings.parse_network, options.peer_net)),
        limit_upload=int(options.limit_upload or 0),
        limit_download=int(getattr(options, "limit_rate", None) or 0),
    )


def swarm_settings(
    options: Namespace, location: str, output: Output, came: Callable[[int, int], None]
) -> SwarmSettings | None:
    """How a pull takes part; None when it does not: by its options, or from a directory."""
    if options.transport == "http" or "://" not in location or location.startswith("file:"):
        return None
    from chunkstore.swarm.settings import SwarmSettings

    return SwarmSettings(
        transport=options.transport,
        session=session_settings(options),
        trackers=tuple(options.trackers),
        home=location,
        access=access(options),
        cache_size=options.cache_size,
        staging=options.staging or "",
        tell=output.remark,
        came=came,
        give=None if options.no_seed else giver(options, output),
    )


def giver(options: Namespace, output: Output) -> Callable[[str, bool], None]:
    """Starts a process of its own that gives what a pull brought, and outlives it."""
    command = [sys.executable, "-P", "-m", "imgstore", "seed", "--background"]
    command += [
        "--seed-time",
        str(GIVE_SECONDS if options.seed_time is None else options.seed_time),
    ]
    if options.seed_ratio is not None:
        command += ["--seed-ratio", str(options.seed_ratio)]
    if options.limit_upload:
        command += ["--limit-upload", str(int(options.limit_upload))]
    if options.staging:
        command += ["--staging", options.staging]
    command += ["--peer-port", options.peer_port]
    command += [part for address in options.peer_listen for part in ("--peer-listen", address)]
    command += [part for network in options.peer_net for part in ("--peer-net", network)]
    command += ["--", options.directory]

    def give(_cache: str, is_wanted: bool) -> None:
        import subprocess

        # It says a line once others can connect. Until then this process goes on giving, if there
        # is anybody who would miss it.
        said = subprocess.PIPE if is_wanted else subprocess.DEVNULL
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **_access_variables(options)},
            )
        except OSError as error:
            output.remark(f"nobody goes on giving: {error.strerror}")
            return
        # What was started parts from us and ends; who goes on is nobody's child here.
        if process.wait():
            output.remark("nobody goes on giving: it did not start")
        elif process.stdout is not None:
            with process.stdout as stream:
                if not _first_line(stream.fileno()):
                    output.remark("nobody goes on giving: it did not start")

    return give


def _access_variables(options: Namespace) -> dict[str, str]:
    """What the remote, and so its tracker, wants to see, for a program without such options."""
    names = {
        "IMGSTORE_TOKEN_FILE": "token_file",
        "IMGSTORE_CA": "ca",
        "IMGSTORE_CLIENT_CERT": "client_cert",
        "IMGSTORE_CLIENT_KEY": "client_key",
    }
    given = {name: getattr(options, option, None) for name, option in names.items()}
    return {name: os.path.abspath(value) for name, value in given.items() if value}


def _first_line(descriptor: int) -> bytes:
    import select

    ready, _, _ = select.select([descriptor], [], [], _READY_SECONDS)
    return os.read(descriptor, 200) if ready else b""

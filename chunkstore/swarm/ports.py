"""A port to listen at: the first that is free, and holding one until somebody listens there.

A node announces itself before it knows whether libtorrent is needed at all. Until then its port is
held, so that no other pull of this machine announces the same; whoever connects is a sign that
there is somebody, and is let go.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

from chunkstore.errors import LocalError


def free_ports(addresses: Iterable[str], ports: tuple[int, int]) -> Iterator[int]:
    """The ports, of those from one to the other, that can be had on all addresses there are."""
    for port in range(ports[0], ports[1] + 1):
        found = _bound(addresses, port)
        if found is not None:
            for each in found:
                each.close()
            yield port


def none_free(ports: tuple[int, int]) -> LocalError:
    """What to raise without one."""
    return LocalError(f"can't listen for peers: no port from {ports[0]} to {ports[1]} is free")


class HeldPort:
    """A port that nobody else on this machine can have. See `hold`."""

    def __init__(self, port: int, sockets: list[socket.socket]) -> None:
        self.port = port
        self._sockets = sockets

    def was_called(self) -> bool:
        """Whether somebody has connected since the last look; they are hung up on."""
        is_called = False
        for each in self._sockets:
            with suppress(OSError):
                while True:
                    each.accept()[0].close()
                    is_called = True
        return is_called

    def release(self) -> None:
        """Let somebody else listen there."""
        for each in self._sockets:
            each.close()
        self._sockets = []


def hold(addresses: Iterable[str], ports: tuple[int, int]) -> HeldPort:
    """Hold the first free port. Raises `LocalError` when there is none."""
    addresses = tuple(addresses)
    for port in range(ports[0], ports[1] + 1):
        found = _bound(addresses, port)
        if found is None:
            continue
        try:
            for each in found:
                # Two that are only bound may share a port; two that listen may not.
                each.listen()
                each.setblocking(False)
            return HeldPort(port, found)
        except OSError:  # somebody listens there since our look
            for each in found:
                each.close()
    raise none_free(ports)


def _bound(addresses: Iterable[str], port: int) -> list[socket.socket] | None:
    """Sockets at a port of all of these addresses that exist here; None when one is taken."""
    found: list[socket.socket] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            probe = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError:
            continue  # a machine without that family
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
        except OSError as error:
            probe.close()
            if error.errno in {errno.EADDRINUSE, errno.EACCES, errno.EPERM}:
                for each in found:
                    each.close()
                return None
        else:
            found.append(probe)
    return found

"""Who a client is when a proxy stands before this server, such as nginx: what the proxy says.

Promises: only proxies that were named are believed, and of a chain of addresses only what those
have added to it, so nobody can pass for somebody else. Leaves to the proxy to say so: by
`X-Forwarded-For` who the client is, by `X-Forwarded-Proto` whether it came over TLS.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from chunkstore.swarm.settings import Network

_FOR: Final = "X-Forwarded-For"
_PROTO: Final = "X-Forwarded-Proto"
_DISCARD_PORT: Final = 9


@dataclass(frozen=True)
class Proxies:
    """The networks of the proxies that are believed; none, unless said otherwise."""

    networks: tuple[Network, ...] = ()

    def has_passed(self, request: web.Request) -> bool:
        """Whether a request came through one of them."""
        return _FOR in request.headers and self._knows(request.remote or "")

    def client(self, request: web.Request) -> str:
        """The address of the client; "" when the proxy names none that is one."""
        address = request.remote or ""
        if not self.has_passed(request):
            return address
        chain = ",".join(request.headers.getall(_FOR)).split(",")
        # Each proxy adds whom it was asked by. What the client said itself comes first.
        while chain and self._knows(address):
            address = chain.pop().strip()
        return address if _is_address(address) else ""

    def scheme(self, request: web.Request) -> str:
        """What the client has used to come here: http or https."""
        said = request.headers.get(_PROTO, "").lower()
        is_known = self._knows(request.remote or "") and said in {"http", "https"}
        return said if is_known else request.scheme

    def _knows(self, address: str) -> bool:
        if not self.networks or not _is_address(address):
            return False
        found = ipaddress.ip_address(address)
        return any(found in network for network in self.networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def facing(client: str) -> str:
    """The address of this machine from which a client is reached. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: it only finds the way.
        probe.connect((client, _DISCARD_PORT))
        return str(probe.getsockname()[0])

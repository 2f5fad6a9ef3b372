"""Who may come in: everybody, or who has the token, or a certificate.

Nodes check what they get; this is for stores that not everybody is to read. A
token is only worth something where nobody can listen, so with TLS or on a wire
of one's own.
"""

from __future__ import annotations

import hmac
import ssl
from dataclasses import dataclass, field

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from chunkstore.errors import LocalError, Usage
from chunkstore.server.proxies import Proxies


@dataclass(frozen=True)
class Entry:
    """What is asked of clients, and what the server shows of itself.

    `token`: they have to send it as a bearer token. `certificate` and `key`:
    files for TLS. `authority`: a file with the certificates of those who vouch
    for clients, who then need a certificate. `proxies`: who stands before this
    server and is believed about who comes.
    """

    token: str = ""
    certificate: str = ""
    key: str = ""
    authority: str = ""
    proxies: Proxies = field(default_factory=Proxies)

    def __repr__(self) -> str:
        # The token must not get into a traceback.
        return "Entry(...)"

    def context(self) -> ssl.SSLContext | None:
        """How to speak TLS, or None. Raises `Usage`, `LocalError`."""
        if not self.certificate:
            if self.key or self.authority:
                raise Usage("client certificates need TLS, and that the server's own certificate")
            return None
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.certificate, self.key or None)
            if self.authority:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(filter(None, (self.certificate, self.key, self.authority)))
            reason = error.strerror or type(error).__name__
            raise LocalError(f"can't use the certificates in {names}: {reason}") from error
        return context


def asking(token: str) -> Middleware:
    """A middleware that answers 401 to everything without the token."""
    wanted = f"Bearer {token}".encode()

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
        # In constant time: else the token could be found out letter by letter.
        if not hmac.compare_digest(given, wanted):
            return web.Response(
                status=401, headers={hdrs.WWW_AUTHENTICATE: "Bearer"}, text="who are you?\n"
            )
        return await handler(request)

    return ask

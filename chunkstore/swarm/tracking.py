"""Asking a tracker: one request over the connections that the HTTP reader uses.

Promises: a tracker is waited for only briefly, since a pull goes on without it; a reply is read up
to a bound; credentials in a URL go to its own host only, and into no message.
"""

from __future__ import annotations

from chunkstore.errors import Corrupt, TransferError
from chunkstore.storage.backends.http_access import Access
from chunkstore.storage.backends.http_connection import Reply as HttpReply
from chunkstore.storage.backends.http_pool import Meter, Pool
from chunkstore.storage.backends.http_url import parse_url
from chunkstore.swarm.announce import MAX_REPLY, Announce, Reply, parse_reply

PATIENCE = 4.0
"""Seconds for each step of a request."""


class Tracker:
    """A tracker at a URL, reached as `access` says if it is on the server at `home`."""

    def __init__(self, url: str, *, home: str = "", access: Access | None = None) -> None:
        self._url, own = parse_url(url)
        base, secret = parse_url(home) if home else (None, "")
        is_home = base is not None and base.origin == self._url.origin
        authorization = secret if is_home else ""
        if is_home and access is not None:
            authorization = access.authorization or secret
        self._headers = {"User-Agent": "imgstore", "Accept-Encoding": "identity"}
        if own or authorization:
            self._headers["Authorization"] = own or authorization
        self._pool = Pool(
            limit=1,
            patience=PATIENCE,
            meter=Meter(),
            access=access,
            home=base.origin if base is not None else None,
        )

    def __str__(self) -> str:
        return str(self._url)

    def announce(self, said: Announce) -> Reply:
        """Tell it, and hear what it tells. Raises `TransferError`, `Corrupt`, `LocalError`."""
        query = f"{self._url.query}&{said.query}" if self._url.query else said.query
        url = self._url._replace(query=query)
        with self._pool.ask("GET", url, self._headers) as reply:
            if reply.status != 200:
                raise TransferError(f"{self._url}: the tracker answers {reply.status}")
            return parse_reply(_body(reply, str(self._url)), str(self._url))

    def close(self) -> None:
        """Give back the connection."""
        self._pool.close()

    def abandon(self) -> None:
        """Close, and cut the request of another thread."""
        self._pool.abandon()


def _body(reply: HttpReply, where: str) -> bytes:
    room = bytearray(MAX_REPLY + 1)
    filled = 0
    with memoryview(room) as view:
        while filled < len(room):
            count = reply.read_into(view[filled:])
            if not count:
                break
            filled += count
    if filled > MAX_REPLY:
        raise Corrupt(f"{where}: the tracker's answer is too long", where=where)
    return bytes(room[:filled])

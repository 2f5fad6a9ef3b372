"""URLs of stores, and keeping their secrets out of everything that is shown.

Promises: a `Url` holds no credentials, and neither does a message that comes from here.
"""

from __future__ import annotations

import base64
import re
from typing import Final, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from chunkstore.errors import Usage

PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


class Url(NamedTuple):
    """A URL without its credentials; `str` leaves out the query as well, which may hold a token."""

    origin: Origin
    path: str
    query: str

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"

    @property
    def target(self) -> str:
        """What a request line asks for."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def resolve(self, reference: str) -> Url:
        """What a `Location` names, seen from here. Raises `Usage`."""
        return parse_url(urljoin(f"{self.origin}{self.target}", reference))[0]


def parse_url(text: str) -> tuple[Url, str]:
    """A URL and the `Authorization` header that its credentials make, or "". Raises `Usage`."""
    redacted = re.sub(r"//.*@", "//***@", text.partition("?")[0])[:200]
    if not text.isascii() or not text.isprintable() or " " in text:
        raise Usage(f"{redacted!r} is no URL: other characters than ASCII have to be %-encoded")
    try:
        parts = urlsplit(text)
        origin = Origin(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme])
    except (ValueError, KeyError):
        raise Usage(f"{redacted!r} is no http or https URL") from None
    if not origin.host:
        raise Usage(f"{redacted!r} names no host")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Url(origin, parts.path or "/", parts.query), authorization

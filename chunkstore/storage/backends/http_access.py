"""How a store over HTTP is reached: tokens, certificates, authorities, proxies.

Promises: what identifies this machine (token, client certificate) goes to the store's own origin
and nowhere else, whatever a redirect says; none of it gets into a message. Leaves to the caller
where these come from: the library reads no environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from chunkstore.errors import LocalError, Usage
from chunkstore.storage.backends.http_url import Origin

if TYPE_CHECKING:
    import ssl

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Access(NamedTuple):
    """What is needed to reach a store, all of it optional.

    `token` is sent as a bearer token. `authority` is a file with the certificates of those who may
    vouch for servers, instead of the system's; `certificate` and `key` are files with what this
    machine shows of itself. `http_proxy` and `https_proxy` are URLs, used for hosts that `no_proxy`
    does not name: names, which stand for what is below them too, or `*`. This machine itself is
    never reached through one.
    """

    token: str = ""
    authority: str = ""
    certificate: str = ""
    key: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: Sequence[str] = ()

    def __repr__(self) -> str:
        # Token and proxies hold secrets, which must not get into a traceback.
        return "Access(...)"

    @property
    def authorization(self) -> str:
        """The `Authorization` header of the token, or "". Raises `Usage`."""
        if not self.token:
            return ""
        if not self.token.isascii() or not self.token.isprintable() or " " in self.token:
            raise Usage("the token holds other characters than ASCII, or blanks")
        return f"Bearer {self.token}"

    @property
    def files(self) -> tuple[str, ...]:
        """The files that `context` reads."""
        return tuple(filter(None, (self.authority, self.certificate, self.key)))

    def context(self, *, is_home: bool) -> ssl.SSLContext:
        """How to check a server, and at home to say who we are. Raises `LocalError`."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.authority or None)
            if is_home and self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(self.files)
            reason = error.strerror or error.__class__.__name__
            raise LocalError(f"can't use the certificates in {names}: {reason}") from error
        return context

    def proxy(self, origin: Origin) -> Proxy | None:
        """The proxy on the way to an origin, if there is one. Raises `Usage`."""
        url = self.https_proxy if origin.scheme == "https" else self.http_proxy
        names = [*_LOOPBACK, *self.no_proxy]
        if not url or any(_covers(name, origin.host) for name in names):
            return None
        return _parse_proxy(url)


class Proxy(NamedTuple):
    """A proxy that is spoken to by plain HTTP, and the header that lets us in, or ""."""

    host: str
    port: int
    authorization: str


def _covers(name: str, host: str) -> bool:
    name = name.strip().lower().removeprefix("*").removeprefix(".")
    return not name or host == name or host.endswith(f".{name}")


def _parse_proxy(url: str) -> Proxy:
    import base64
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or 8080
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme != "http":
        # Not shown: it may hold a password.
        raise Usage("the proxy is no http://HOST:PORT")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(host, port, authorization)

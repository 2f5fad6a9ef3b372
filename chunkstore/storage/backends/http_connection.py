"""One persistent HTTP connection, and the boundary at which foreign exceptions end.

Promises: whatever the network and http.client come up with leaves here as bytes or as a declared
error. Leaves to `http_pace` how long a peer may take, to `http_pool` which connection to use, and
to `http` what to ask for, what a reply means and whether to try again.
"""

from __future__ import annotations

import errno
import http.client
import io
import re
import select
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, cast

from chunkstore.errors import LocalError, TransferError, Unreachable
from chunkstore.storage.backends.http_access import Proxy
from chunkstore.storage.backends.http_pace import HEAD_ALLOWANCE, Pace, PacedSocket
from chunkstore.storage.backends.http_url import Url
from chunkstore.storage.backends.throttle import Throttle

SLICE: Final = 256 * 1024
"""Bytes taken at once where they have to be copied or are thrown away."""

_DRAIN: Final = 16 * 1024
"""A rest of a reply that is read to keep the connection; a longer one costs more than a new one."""
_BODILESS: Final = (101, 103, 204, 304)
_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


@contextmanager
def _transfer_errors(url: Url) -> Iterator[None]:
    """Turn what the network and http.client raise into `TransferError` or `LocalError`."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message
        raise TransferError(f"{url}: bad certificate: {reason}", retryable=False) from error
    except TimeoutError as error:
        raise TransferError(f"{url}: the server is too slow or does not answer") from error
    except UnicodeError as error:
        raise TransferError(f"{url}: no such host name can be", retryable=False) from error
    except (ConnectionError, http.client.IncompleteRead) as error:
        raise TransferError(f"{url}: the connection broke off") from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _OURS:
            raise LocalError(f"can't connect to {url}: {reason}", errno=error.errno) from error
        raise TransferError(f"{url}: {reason}") from error
    except (http.client.HTTPException, ValueError) as error:
        # Their messages quote what the server sent, which may be long and is nobody's to trust.
        reason = type(error).__name__
        raise TransferError(f"{url}: no valid HTTP reply ({reason})", retryable=False) from error


@contextmanager
def _nobody(url: Url, peer: tuple[str, int], *, is_proxy: bool) -> Iterator[None]:
    """Tell that there is nobody at `peer`: a server that is started anew, or a wrong URL."""
    host, port = peer
    what = "proxy " if is_proxy else ""
    try:
        yield
    except ConnectionRefusedError as error:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise Unreachable(
            f"{url}: nothing listens at {what}{shown} (connection refused)",
            amiss="proxy" if is_proxy else "server",
        ) from error
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            raise
        reason = error.strerror or str(error)
        raise Unreachable(
            f"{url}: there is no {what}{host} ({reason})", amiss="proxy" if is_proxy else "name"
        ) from error


class WentAway(TransferError):
    """A connection that had idled turned out to be closed; nothing of a reply has come."""


class Connection:
    """One connection, with one request at a time on it."""

    def __init__(
        self,
        url: Url,
        patience: float,
        tls: ssl.SSLContext | None,
        throttle: Throttle | None,
        proxy: Proxy | None = None,
    ) -> None:
        self.origin = url.origin
        self.pace = Pace(patience)
        self._proxy = proxy
        scheme, host, port = url.origin
        peer = (host, port) if proxy is None else (proxy.host, proxy.port)
        if scheme == "https":
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                *peer, timeout=patience, context=tls
            )
            if proxy is not None:
                secret = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
                self._http.set_tunnel(host, port, headers=secret)
        else:
            self._http = http.client.HTTPConnection(*peer, timeout=patience)
        with _transfer_errors(url), _nobody(url, peer, is_proxy=proxy is not None):
            try:
                self._http.connect()  # sets TCP_NODELAY
            except BaseException:
                self._http.close()
                raise
        self._plain = self._http.sock
        self._poll = select.poll()
        self._poll.register(self._plain, select.POLLIN)
        self._paced = PacedSocket(self._plain, self.pace, throttle)
        self._http.sock = cast(socket.socket, self._paced)
        self._response: http.client.HTTPResponse | None = None
        self._was_used = False

    def ask(self, method: str, url: Url, headers: Mapping[str, str]) -> Reply:
        """Send a request and read the head of the reply. Raises `TransferError`, `WentAway`."""
        idled = self._was_used
        self._was_used = True
        self.pace.begin()
        with _transfer_errors(url):
            try:
                self._http.request(method, *self._addressed(url, headers))
                self._response = response = self._http.getresponse()
            except ConnectionError as error:
                if idled and not self.pace.received:
                    raise WentAway(f"{url}: the server closed an idle connection") from error
                raise
            if self.pace.ended:
                # http.client takes the end of the stream for the end of the headers.
                raise ConnectionResetError("cut inside the headers")
            return Reply(url, self.pace, response, self._paced.stream, has_body=method != "HEAD")

    def _addressed(self, url: Url, headers: Mapping[str, str]) -> tuple[str, None, dict[str, str]]:
        """What to ask for, and how: a proxy has to be told the whole URL, unless it is a tunnel."""
        if self._proxy is None or url.origin.scheme == "https":
            return url.target, None, dict(headers)
        secret = {}
        if self._proxy.authorization:
            secret = {"Proxy-Authorization": self._proxy.authorization}
        return f"{url.origin}{url.target}", None, {**headers, **secret}

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last reply: neither an end nor bytes nobody wants."""
        return not self._poll.poll(0)

    def is_open(self) -> bool:
        """Whether http.client has left it open after the reply."""
        return self._http.sock is not None

    def abort(self) -> None:
        """Let the thread that reads from it meet an end of the stream at once."""
        with suppress(OSError):
            # Past TLS, whose own shutdown is not meant for another thread.
            socket.socket.shutdown(self._plain, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._response is not None:
            # It may hold the socket open on its own.
            self._response.close()
        self._http.close()
        self._plain.close()


class Reply:
    """The head of a reply, and its body to be read."""

    def __init__(
        self,
        url: Url,
        pace: Pace,
        response: http.client.HTTPResponse,
        stream: io.BufferedReader,
        *,
        has_body: bool,
    ) -> None:
        self.url = url
        self.status = response.status
        self._pace = pace
        self._response = response
        self._stream = stream
        self._taken = 0
        coding = self.header("Transfer-Encoding").lower()
        content = self.header("Content-Encoding").lower()
        if coding not in ("", "chunked") or content not in ("", "identity"):
            raise self.breach("sends it encoded, which nobody asked for")
        self.length = None if coding else self._declared_length()
        """Bytes of the body, of a HEAD's absent one too; None when only the end will tell."""
        self.is_complete = not has_body or self.status in _BODILESS or self.length == 0

    def _declared_length(self) -> int | None:
        values = set(self._response.headers.get_all("Content-Length", []))
        if not values:
            return None
        text = values.pop().strip()
        if values or re.fullmatch("[0-9]{1,18}", text) is None:
            raise self.breach("sends a Content-Length that makes no sense")
        return int(text)

    def breach(self, what: str) -> TransferError:
        """The error for a server that breaks the protocol; asking it again is no use."""
        return TransferError(f"{self.url}: the server {what}", retryable=False)

    def header(self, name: str) -> str:
        """A header's value, or ""."""
        return str(self._response.headers.get(name, "")).strip()

    def expect(self, count: int) -> None:
        """Say how much of the body will be read, which is what the server gets time for."""
        self._pace.allowance = HEAD_ALLOWANCE + count

    def read_into(self, room: memoryview) -> int:
        """Put what comes next into `room`; how many bytes, 0 at the end of the body.

        Raises `TransferError` when the body ends too early.
        """
        if self.is_complete:
            return 0
        with _transfer_errors(self.url):
            count = self._chunked_into(room) if self._response.chunked else self._plain_into(room)
            self._taken += count
            if not count and self._taken < (self.length or 0):
                raise ConnectionResetError("cut inside the body")
        self.is_complete = not count or self._taken == self.length
        return count

    def _plain_into(self, room: memoryview) -> int:
        # Past http.client, which would allocate and copy once more; its own account of the body
        # is void from here on, and `finish` ends it.
        limit = len(room) if self.length is None else self.length - self._taken
        return self._stream.readinto1(room[:limit])

    def _chunked_into(self, room: memoryview) -> int:
        part = self._response.read1(min(len(room), SLICE))
        # A chunk of negative size makes this too long for the room, and that a ValueError.
        room[: len(part)] = part
        return len(part)

    def skip(self, count: int) -> bool:
        """Read `count` bytes for nothing. False when the body ends before. Raises likewise."""
        waste = memoryview(bytearray(min(count, SLICE)))
        while count:
            came = self.read_into(waste[:count])
            if not came:
                return False
            count -= came
        return True

    def finish(self) -> None:
        """Let go of the body; a short rest of it is read, so that the connection can be kept."""
        has_end = bool(self._response.chunked) or self.length is not None
        if has_end and not self.is_complete and (self.length or 0) - self._taken <= _DRAIN:
            with suppress(TransferError):
                self.skip(_DRAIN)
        self._response.close()

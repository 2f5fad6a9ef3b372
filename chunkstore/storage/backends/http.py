"""Reading a store over HTTP: from any web server, CDN or bucket that serves static files.

Promises: what the server says is checked before it is believed, and never more is read than was
asked for. What may pass (a reset, a stall, a busy server) is tried again a bounded number of
times, going on from the last byte that came. Works from any number of threads.

Nothing here vouches for the bytes themselves: that is what digests are for. Servers get single
ranges only; object stores answer several with an error or with everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from chunkstore.errors import TransferError, Unreachable, Usage
from chunkstore.storage.backend import Polled
from chunkstore.storage.backends import check_name, check_range
from chunkstore.storage.backends.http_access import Access
from chunkstore.storage.backends.http_connection import Reply
from chunkstore.storage.backends.http_pool import Meter, Pool, Traffic
from chunkstore.storage.backends.http_range import (
    Wanted,
    content_range,
    refuse_too_far,
    take_nothing,
    take_part,
    take_whole,
)
from chunkstore.storage.backends.http_refusal import Busy, NoHead, redirected, refusal
from chunkstore.storage.backends.http_tag import is_tag, lasting_tag
from chunkstore.storage.backends.http_url import parse_url
from chunkstore.storage.backends.throttle import Throttle
from chunkstore.storage.polling import compared, remembered

if TYPE_CHECKING:
    import ssl

LEAST_RATE: Final = 16 * 1024
"""Bytes per second that each connection gets of a throttle: servers drop who reads too slowly."""
MAX_REDIRECTS: Final = 3
MAX_WAIT: Final = 30.0
"""Seconds that a server can have us wait before the next attempt."""

_FIRST_WAIT: Final = 0.5
_GOOD_PART: Final = 64 * 1024
"""Bytes that make an attempt count for something, however it ended."""
_SLOW_SECONDS: Final = 5.0
"""What fails after so long was too slow for one side: others want the line as well."""
_FIRST_KNOCKS: Final = 2
"""Attempts at a server that has never answered: a wrong URL is no reason to wait."""
_HEADERS: Final = {"User-Agent": "imgstore", "Accept-Encoding": "identity"}
_USABLE: Final = (200, 206, 416)
_REDIRECTS: Final = (301, 302, 303, 307, 308)

_T = TypeVar("_T")


class HttpReader:
    """A store at a URL.

    `timeout` bounds the wait for each step; a server that keeps sending too slowly is dropped as
    well. `attempts` are made for a call, and `connections` held at most. `tls` replaces the
    system's idea of whom to trust. `throttle` bounds how fast all connections together read.
    Credentials, whether in the URL or of `access`, go to its own origin only.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        attempts: int = 5,
        connections: int = 8,
        sleep: Callable[[float], object] | None = None,
        tls: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
        access: Access | None = None,
    ) -> None:
        access = access or Access()
        base, in_url = parse_url(url)
        self._authorization = access.authorization or in_url
        if base.query or "#" in url:
            raise Usage(f"{base}: the URL of a store ends in a path, not in a query or fragment")
        self._base = base._replace(path=base.path.rstrip("/"))
        self._attempts = attempts
        self._abandoned = threading.Event()
        self._sleep = sleep or self._abandoned.wait
        self._throttle = throttle
        self._meter = Meter()
        if throttle is not None:
            connections = min(connections, max(int(throttle.rate / LEAST_RATE), 1))
        self._pool = Pool(
            limit=connections,
            patience=timeout,
            meter=self._meter,
            tls=tls,
            throttle=throttle,
            access=access,
            home=base.origin,
        )
        self._ignores_ranges = False
        self._has_answered = False

    @property
    def traffic(self) -> Traffic:
        """What has gone over the network so far."""
        return self._meter.read()

    def close(self) -> None:
        """Close the connections, the ones in use as soon as they are done with."""
        self._pool.close()

    def abandon(self) -> None:
        """Close, and end the calls of other threads: what they wait for is cut."""
        self._abandoned.set()
        if self._throttle is not None:
            self._throttle.release()
        self._pool.abandon()

    def get(self, name: str, start: int, stop: int) -> bytes:
        """Part of an object, by one range request if all goes well."""
        check_name(name)
        check_range(start, stop)
        if start >= stop:
            return b""
        wanted = Wanted(name, start, stop)
        self._persist(lambda: self._fetch(wanted), lambda: wanted.position)
        return wanted.data

    def size(self, name: str) -> int:
        """Length of an object, by HEAD, or if that does not tell by asking for its first byte."""
        check_name(name)
        length = self._persist(lambda: self._declared_size(name))
        if length is None:
            length = self._persist(lambda: self._probed_size(name))
        return length

    def poll(self, name: str, seen: str | None, *, limit: int) -> Polled:
        """A small object, unless `seen` stands for it; by one conditional request if all goes well.

        Servers without ETags, or with such as can't be relied on, send it every time.
        """
        check_name(name)
        check_range(0, limit)
        return self._persist(lambda: self._poll(name, seen, limit))

    # Trying again

    def _persist(self, step: Callable[[], _T], position: Callable[[], int] = lambda: 0) -> _T:
        """Try again what fails: `attempts` times, not counting those that brought a good part."""
        attempt = 1
        while True:
            before, begun = position(), time.monotonic()
            try:
                return step()
            except TransferError as error:
                if not error.retryable or self._attempts == 1:
                    raise
                if time.monotonic() - begun > _SLOW_SECONDS:
                    self._pool.narrow()
                if position() - before >= _GOOD_PART:
                    attempt = 1
                is_strange = isinstance(error, Unreachable) and not self._has_answered
                if attempt >= (_FIRST_KNOCKS if is_strange else self._attempts):
                    message = f"{error}; gave up after {attempt} attempts"
                    if isinstance(error, Unreachable):
                        raise Unreachable(message, amiss=error.amiss) from error
                    raise TransferError(message) from error
                asked = error.wait if isinstance(error, Busy) else 0.0
            import random

            # Many nodes fail at the same moment; chance keeps them from coming back at the same.
            chance = random.uniform(0, min(_FIRST_WAIT * 2**attempt, MAX_WAIT))
            self._meter.add(retries=1)
            self._sleep(min(asked, MAX_WAIT) + chance)
            attempt += 1

    # One attempt

    @contextmanager
    def _ask(
        self, method: str, name: str, *, ask_for: str = "", unless: str = ""
    ) -> Iterator[Reply]:
        """Send a request and follow redirects; yields a reply that can be used.

        `ask_for` is a range of bytes, `unless` the ETag of an object that is not wanted.
        """
        url = self._base._replace(path=f"{self._base.path}/{name}")
        headers = _HEADERS | ({"Range": f"bytes={ask_for}"} if ask_for else {})
        headers |= {"If-None-Match": unless} if unless else {}
        for _ in range(MAX_REDIRECTS + 1):
            secret = {"Authorization": self._authorization}
            is_home = url.origin == self._base.origin and self._authorization
            with self._pool.ask(method, url, headers | (secret if is_home else {})) as reply:
                self._has_answered = True
                if reply.status in _USABLE or (unless and reply.status == 304):
                    yield reply
                    return
                location = reply.header("Location")
                refused = refusal(reply, name)
            # Raised out here, where the connection has been given back.
            if reply.status not in _REDIRECTS:
                raise refused
            url = redirected(url, location)
        raise TransferError(f"{self._base}/{name}: too many redirects", retryable=False)

    def _fetch(self, wanted: Wanted) -> None:
        """Read what is still missing. Raises `TransferError` when not all of it came."""
        if self._ignores_ranges:
            refuse_too_far(wanted, f"{self._base}/{wanted.name}")
        ask_for = f"{wanted.position}-{wanted.stop - 1}"
        with self._ask("GET", wanted.name, ask_for=ask_for) as reply:
            match reply.status:
                case 206:
                    self._ignores_ranges = False
                    take_part(wanted, reply)
                case 200:
                    # All of an object is an honest answer to who asks for all of it.
                    if wanted.position or reply.length is None or reply.length > wanted.stop:
                        self._ignores_ranges = True
                    take_whole(wanted, reply)
                case _:
                    take_nothing(wanted, reply)
            if wanted.is_short():
                raise TransferError(f"{reply.url}: less came than was asked for")

    def _poll(self, name: str, seen: str | None, limit: int) -> Polled:
        # Without a range, which caches on the way would not answer. Begun anew at each attempt,
        # so that bytes of two states of the object are never mixed.
        wanted = Wanted(name, 0, limit)
        tag = remembered(seen)
        with self._ask("GET", name, unless=tag if is_tag(tag) else "") as reply:
            if reply.status == 304 and seen is not None:
                return Polled(None, seen)
            if reply.status != 200:
                raise reply.breach(f"answers {reply.status} to who asks for all")
            take_whole(wanted, reply)
            return compared(wanted.data, seen, lasting_tag(reply))

    def _declared_size(self, name: str) -> int | None:
        try:
            with self._ask("HEAD", name) as reply:
                return reply.length if reply.status == 200 else None
        except NoHead:
            return None

    def _probed_size(self, name: str) -> int:
        with self._ask("GET", name, ask_for="0-0") as reply:
            total = reply.length
            if reply.status == 206:
                total = content_range(reply)[2]
            elif reply.status == 416:
                total = content_range(reply)[2] or 0
        if total is None:
            raise reply.breach("does not tell how long the object is")
        return total

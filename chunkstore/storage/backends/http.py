"""Reading a store over HTTP: from any web server, CDN or bucket that serves static files.

Promises: what the server says is checked before it is believed, and never more is read than was
asked for. What may pass (a reset, a stall, a busy server) is tried again a bounded number of
times, going on from the last byte that came. Works from any number of threads.

Nothing here vouches for the bytes themselves: that is what digests are for. Servers get single
ranges only; object stores answer several with an error or with everything.
"""

from __future__ import annotations

import io
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from chunkstore.errors import TransferError, Usage
from chunkstore.storage.backends import check_name, check_range
from chunkstore.storage.backends.http_connection import Reply
from chunkstore.storage.backends.http_pool import Meter, Pool, Traffic
from chunkstore.storage.backends.http_refusal import Busy, NoHead, redirected, refusal
from chunkstore.storage.backends.http_url import parse_url

MAX_REDIRECTS: Final = 3
MAX_SKIP: Final = 64 * 1024 * 1024
"""Bytes read for nothing from a server that does not know ranges, rather than giving up."""
MAX_WAIT: Final = 30.0
"""Seconds that a server can have us wait before the next attempt."""

MAX_STEP: Final = 16 * 1024 * 1024
"""Bytes of memory taken on the word of a server before they have come."""

_FIRST_WAIT: Final = 0.5
_HEADERS: Final = {"User-Agent": "imgstore", "Accept-Encoding": "identity"}
_USABLE: Final = (200, 206, 416)
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")

_T = TypeVar("_T")


class _Wanted:
    """A range that is being read, in as many attempts as it takes, and what has come of it."""

    def __init__(self, name: str, start: int, stop: int) -> None:
        self.name = name
        self.start = start
        self.stop = stop
        self.total: int | None = None
        self.has_ended = False
        """Whether the server said that nothing follows, without saying where the end is."""
        self._data = io.BytesIO()
        self._room = 0
        self._count = 0

    @property
    def position(self) -> int:
        """The byte of the object that has to come next."""
        return self.start + self._count

    @property
    def data(self) -> bytes:
        """What has come so far."""
        self._data.truncate(self._count)
        return self._data.getvalue()

    def is_short(self) -> bool:
        """Whether something is still to come."""
        if self.total is not None:
            return self.position < min(self.stop, self.total)
        return self.position < self.stop and not self.has_ended

    def agree(self, reply: Reply, total: int | None) -> None:
        """Take note of the object's length; start over when it is not what it was."""
        if total is None:
            return
        if self.total not in (None, total):
            self._count = 0
            self.total = None
            raise TransferError(f"{reply.url}: the object changed while it was read")
        self.total = total

    def receive(self, reply: Reply, stop: int) -> None:
        """Take the body up to byte `stop` of the object, or to its end."""
        while self.position < stop:
            with self._make_room(stop - self.position) as room:
                came = reply.read_into(room)
            if not came:
                break
            self._count += came

    def _make_room(self, wanted: int) -> memoryview:
        """Where the next bytes go: straight into what will be returned, without a copy."""
        end = self._count + min(wanted, MAX_STEP)
        if end > self._room:
            self._data.seek(end - 1)
            self._data.write(b"\0")
            self._room = end
        return self._data.getbuffer()[self._count : end]


class HttpReader:
    """A store at a URL.

    `timeout` bounds the wait for each step; a server that keeps sending too slowly is dropped as
    well. `attempts` are made for a call, and `connections` held at most. `tls` replaces the
    system's idea of whom to trust. Credentials in the URL go to its own host only.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        attempts: int = 5,
        connections: int = 8,
        sleep: Callable[[float], None] = time.sleep,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        base, self._authorization = parse_url(url)
        if base.query or "#" in url:
            raise Usage(f"{base}: the URL of a store ends in a path, not in a query or fragment")
        self._base = base._replace(path=base.path.rstrip("/"))
        self._attempts = attempts
        self._sleep = sleep
        self._meter = Meter()
        self._pool = Pool(limit=connections, patience=timeout, meter=self._meter, tls=tls)
        self._ignores_ranges = False

    @property
    def traffic(self) -> Traffic:
        """What has gone over the network so far."""
        return self._meter.read()

    def close(self) -> None:
        """Close the connections, the ones in use as soon as they are done with."""
        self._pool.close()

    def get(self, name: str, start: int, stop: int) -> bytes:
        """Part of an object, by one range request if all goes well."""
        check_name(name)
        check_range(start, stop)
        if start >= stop:
            return b""
        wanted = _Wanted(name, start, stop)
        self._persist(lambda: self._fetch(wanted))
        return wanted.data

    def size(self, name: str) -> int:
        """Length of an object, by HEAD, or if that does not tell by asking for its first byte."""
        check_name(name)
        length = self._persist(lambda: self._declared_size(name))
        if length is None:
            length = self._persist(lambda: self._probed_size(name))
        return length

    # Trying again

    def _persist(self, step: Callable[[], _T]) -> _T:
        attempt = 1
        while True:
            try:
                return step()
            except TransferError as error:
                if not error.retryable or self._attempts == 1:
                    raise
                if attempt >= self._attempts:
                    message = f"{error}; gave up after {attempt} attempts"
                    raise TransferError(message) from error
                asked = error.wait if isinstance(error, Busy) else 0.0
            # Many nodes fail at the same moment; chance keeps them from coming back at the same.
            chance = random.uniform(0, min(_FIRST_WAIT * 2**attempt, MAX_WAIT))
            self._meter.add(retries=1)
            self._sleep(min(asked, MAX_WAIT) + chance)
            attempt += 1

    # One attempt

    @contextmanager
    def _ask(self, method: str, name: str, *, ask_for: str = "") -> Iterator[Reply]:
        """Send a request and follow redirects; yields a reply that can be used."""
        url = self._base._replace(path=f"{self._base.path}/{name}")
        headers = _HEADERS | ({"Range": f"bytes={ask_for}"} if ask_for else {})
        for _ in range(MAX_REDIRECTS + 1):
            secret = {"Authorization": self._authorization}
            is_home = url.origin == self._base.origin and self._authorization
            with self._pool.ask(method, url, headers | (secret if is_home else {})) as reply:
                if reply.status in _USABLE:
                    yield reply
                    return
                location = reply.header("Location")
                refused = refusal(reply, name)
            # Raised out here, where the connection has been given back.
            if reply.status not in _REDIRECTS:
                raise refused
            url = redirected(url, location)
        raise TransferError(f"{self._base}/{name}: too many redirects", retryable=False)

    def _fetch(self, wanted: _Wanted) -> None:
        """Read what is still missing. Raises `TransferError` when not all of it came."""
        if self._ignores_ranges and wanted.position > MAX_SKIP:
            raise _too_far(f"{self._base}/{wanted.name}")
        ask_for = f"{wanted.position}-{wanted.stop - 1}"
        with self._ask("GET", wanted.name, ask_for=ask_for) as reply:
            match reply.status:
                case 206:
                    self._ignores_ranges = False
                    _take_part(wanted, reply)
                case 200:
                    self._take_from_whole(wanted, reply)
                case _:
                    _take_nothing(wanted, reply)
            if wanted.is_short():
                raise TransferError(f"{reply.url}: less came than was asked for")

    def _take_from_whole(self, wanted: _Wanted, reply: Reply) -> None:
        """The server sends everything: skip to what was asked for, and drop the rest."""
        wanted.agree(reply, reply.length)
        stop = wanted.stop if reply.length is None else min(wanted.stop, reply.length)
        if wanted.position or reply.length != stop:
            self._ignores_ranges = True
        if stop <= wanted.position:
            return
        if wanted.position > MAX_SKIP:
            raise _too_far(str(reply.url))
        reply.expect(stop)
        if reply.skip(wanted.position):
            wanted.receive(reply, stop)
        wanted.has_ended = True

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
                total = _content_range(reply)[2]
            elif reply.status == 416:
                total = _content_range(reply)[2] or 0
        if total is None:
            raise reply.breach("does not tell how long the object is")
        return total


def _content_range(reply: Reply) -> tuple[int, int, int | None]:
    """First byte, the one after the last, and length of the object, from `Content-Range`.

    Of an unsatisfied range, the first two are 0.
    """
    match = _CONTENT_RANGE.fullmatch(reply.header("Content-Range"))
    if match is None:
        if reply.status == 416:
            return 0, 0, None
        raise reply.breach("sends a part without saying which")
    first, last, total = match.groups()
    length = None if total == "*" else int(total)
    return int(first or 0), int(last or -1) + 1, length


def _take_part(wanted: _Wanted, reply: Reply) -> None:
    first, stop, total = _content_range(reply)
    is_sound = first < stop <= (stop if total is None else total)
    if not is_sound or reply.length not in (None, stop - first):
        raise reply.breach("contradicts itself about the part it sends")
    wanted.agree(reply, total)
    if first != wanted.position or stop > wanted.stop:
        asked = f"{wanted.position}-{wanted.stop - 1}"
        raise reply.breach(f"was asked for bytes {asked} and sends {first}-{stop - 1}")
    reply.expect(stop - first)
    wanted.receive(reply, stop)


def _take_nothing(wanted: _Wanted, reply: Reply) -> None:
    """416: the object ends before what was asked for."""
    _, _, total = _content_range(reply)
    wanted.agree(reply, total)
    wanted.has_ended = True
    if wanted.is_short():
        raise reply.breach("refuses a part of the object that is there")


def _too_far(url: str) -> TransferError:
    return TransferError(
        f"{url}: the server sends whole objects only, and this one is too long for that; "
        "use a server that knows ranges",
        retryable=False,
    )

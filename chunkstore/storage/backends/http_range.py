"""A range of an object that is being read, and what the replies of a server make of it.

Promises: a reply is taken for what it says it is only where that fits what was asked for; memory
is taken for what has come, never on the word of a server. Leaves asking and trying again to `http`.
"""

from __future__ import annotations

import io
import re
from typing import Final

from chunkstore.errors import TransferError
from chunkstore.storage.backends.http_connection import Reply

MAX_SKIP: Final = 64 * 1024 * 1024
"""Bytes read for nothing from a server that does not know ranges, rather than giving up."""
MAX_STEP: Final = 16 * 1024 * 1024
"""Bytes of memory taken on the word of a server before they have come."""

_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")


class Wanted:
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


def content_range(reply: Reply) -> tuple[int, int, int | None]:
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


def take_part(wanted: Wanted, reply: Reply) -> None:
    """206: the part that was asked for, or its beginning. Raises `TransferError`."""
    first, stop, total = content_range(reply)
    is_sound = first < stop <= (stop if total is None else total)
    if not is_sound or reply.length not in (None, stop - first):
        raise reply.breach("contradicts itself about the part it sends")
    wanted.agree(reply, total)
    if first != wanted.position or stop > wanted.stop:
        asked = f"{wanted.position}-{wanted.stop - 1}"
        raise reply.breach(f"was asked for bytes {asked} and sends {first}-{stop - 1}")
    reply.expect(stop - first)
    wanted.receive(reply, stop)


def take_whole(wanted: Wanted, reply: Reply) -> None:
    """200: the server sends everything. Skip to what is wanted; the rest is left unread."""
    wanted.agree(reply, reply.length)
    stop = wanted.stop if reply.length is None else min(wanted.stop, reply.length)
    if stop <= wanted.position:
        return
    refuse_too_far(wanted, str(reply.url))
    reply.expect(stop)
    if reply.skip(wanted.position):
        wanted.receive(reply, stop)
    wanted.has_ended = True


def take_nothing(wanted: Wanted, reply: Reply) -> None:
    """416: the object ends before what was asked for."""
    _, _, total = content_range(reply)
    wanted.agree(reply, total)
    wanted.has_ended = True
    if wanted.is_short():
        raise reply.breach("refuses a part of the object that is there")


def refuse_too_far(wanted: Wanted, url: str) -> None:
    """Raise `TransferError` when it would take too long to skip to the next wanted byte."""
    if wanted.position > MAX_SKIP:
        raise TransferError(
            f"{url}: the server sends whole objects only, and this one is too long for that; "
            "use a server that knows ranges",
            retryable=False,
        )

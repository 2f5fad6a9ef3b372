"""Help from the server while a swarm stalls: pieces at a time, from a place that chance chose.

They are handed to the session, so that the whole crowd has them: nodes that stall together fetch
different pieces, and the server sends little more than what the swarm lacks. Promises: one request
at a time for each node; a server that can't help is no reason to leave a swarm that may go on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from chunkstore.errors import ChunkstoreError
from chunkstore.storage.backend import Reader
from chunkstore.swarm.fetch import Fetch, Way
from chunkstore.swarm.session import Session

RUN: Final = 8
"""Pieces asked of the server at once."""
GONE_SECONDS: Final = 45.0
"""Without a byte from the swarm, after which those who wait hear that the server is gone too."""
_TICK: Final = 0.25
_AGAIN: Final = 3
"""Failures of the server in a row until then, at least."""


class Helper:
    """Reads from `server` into `session` for fetches that are helped; on a thread of its own."""

    def __init__(
        self,
        server: Reader,
        session: Session,
        tell: Callable[[str], None],
        closing: threading.Event,
    ) -> None:
        self._server = server
        self._session = session
        self._tell = tell
        self._closing = closing

    def run(self, fetches: Callable[[], list[Fetch]]) -> None:
        """Help those fetches that need it, until it is all over."""
        failures = 0
        asked: dict[bytes, set[int]] = {}
        while not self._closing.wait(_TICK):
            for fetch in fetches():
                given = asked.setdefault(fetch.torrent.pack, set())
                if fetch.way is not Way.HELPED:
                    given.clear()
                while fetch.way is Way.HELPED and not self._closing.is_set():
                    run = _run([piece for piece in fetch.missing if piece not in given])
                    if not run:
                        break
                    try:
                        self._fetch_run(fetch, run)
                        given.update(run)
                        failures = 0
                    except ChunkstoreError as error:
                        failures += 1
                        idle = time.monotonic() - fetch.last
                        if failures >= _AGAIN and idle > GONE_SECONDS:
                            # Neither has it. Those who wait meet the same, and say so.
                            self._tell(f"{error}")
                            fetch.give_up()
                            failures = 0
                        break

    def _fetch_run(self, fetch: Fetch, run: range) -> None:
        found = fetch.torrent
        start, stop = found.span(run[0])[0], found.span(run[-1])[1]
        data = self._server.get(fetch.name, start, stop)
        for piece in run:
            low, high = found.span(piece)
            part = data[low - start : high - start]
            if not found.is_right(piece, part):
                # The torrent is of something else; the digests of chunks know what is right.
                fetch.give_up()
                return
            self._session.give(found.pack, piece, part)


def _run(pieces: Sequence[int]) -> range:
    """Some neighbouring ones of these pieces, from a place that chance chose."""
    if not pieces:
        return range(0)
    place = random.randrange(len(pieces))
    first = pieces[place]
    count = 1
    while count < RUN and place + count < len(pieces) and pieces[place + count] == first + count:
        count += 1
    return range(first, first + count)

"""A pull's part in the crowd: packs come from other nodes as well, and are given on to them.

Promises: without settings for it nothing is loaded; the cache is left to whoever goes on giving, or
emptied. A clone that takes the place of the tree has its own state, so after `--atomic` nobody goes
on unless the cache is somewhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from chunkstore.errors import Conflict, LocalError
from chunkstore.pull.report import PullOptions, PullReport
from chunkstore.storage.backend import Reader
from chunkstore.worktree.node import NodeState

if TYPE_CHECKING:
    from chunkstore.swarm.cache import Cache


@contextmanager
def joined(
    server: Reader, options: PullOptions, state: NodeState, report: PullReport
) -> Iterator[Reader]:
    """A reader of the remote that takes part in swarms, if the options say so."""
    settings = options.swarm
    if settings is None or settings.transport == "http" or options.dry_run:
        yield server
        return
    from chunkstore.swarm.reader import SwarmReader

    path = os.path.join(settings.staging, "imgstore-swarm") if settings.staging else state.swarm

    def opened() -> Cache:
        from chunkstore.swarm.cache import Cache

        try:
            return Cache(path)
        except Conflict:
            # Somebody gives what came by an earlier pull: we do that now, and more.
            from chunkstore.swarm.giving import stop

            stop(path)
            return Cache(path)

    reader = SwarmReader(server, settings, opened)
    is_whole = False
    try:
        yield reader
        is_whole = True
    finally:
        cache = reader.cache
        is_here = bool(settings.staging) or not (options.atomic and report.before)
        if cache is not None and is_whole:
            if settings.give is not None and is_here and reader.holds():
                with suppress(LocalError):  # a full disk: then the tracker has to tell
                    reader.note_peers()
                cache.release()
                settings.give(path, reader.is_wanted)
            else:
                reader.leave()
                cache.clear()
        reader.close()
        report.swarm = reader.figures

"""`imgstore seed`: give packs that came from a swarm to others, or stop that."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from types import FrameType

from chunkstore.errors import Conflict, NotFound
from chunkstore.objects.names import STATE_DIR
from imgstore.output import Output
from imgstore.peers import session_settings
from imgstore.readable import counted, human
from imgstore.remotes import access


def run(options: Namespace, output: Output) -> int:
    """Give until the terms are met or a signal comes; with `--stop` end who does."""
    path = _cache(options)
    if options.stop:
        return _stop(path, options.directory, output)
    if options.background and os.fork():
        # Whoever started us waits for this end, and not for that of our child.
        os._exit(0)
    from chunkstore.swarm.confine import confine
    from chunkstore.swarm.giving import Terms, give
    from chunkstore.swarm.tracking import Tracker
    from chunkstore.worktree.remembered import remembered

    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def ready(packs: int, port: int) -> None:
        output.report(
            f"giving {counted(packs, 'pack')} of {options.directory} at port {port}",
            {"directory": options.directory, "packs": packs, "port": port},
        )
        sys.stdout.flush()
        if options.background:
            _let_go()

    is_background = options.background
    terms = Terms(options.seed_time, options.seed_ratio, is_background, is_background)
    known = remembered(options.directory)
    home, said = known.remote if known is not None else "", access(options)
    # Once confined, a resolv.conf that somebody puts in the place of this one can't be read.
    os.environ["RES_OPTIONS"] = f"{os.environ.get('RES_OPTIONS', '')} no-reload".strip()
    given = give(
        *(path, session_settings(options), terms),
        opened=lambda url: Tracker(url, home=home if "://" in home else "", access=said),
        stopping=stopping,
        on_ready=ready,
        on_cache=lambda directory: confine(directory, said.files if said is not None else ()),
        wait=not is_background,
    )
    if not is_background and not output.as_json:
        output.note(f"gave {human(given.sent)} of {counted(given.packs, 'pack')}: {given.reason}")
    return 0


def _cache(options: Namespace) -> str:
    if options.staging:
        return os.path.join(options.staging, "imgstore-swarm")
    state = os.path.join(options.directory, os.fsdecode(STATE_DIR))
    if not os.path.isdir(state):
        raise NotFound(f"nothing was pulled into {options.directory}", name=options.directory)
    path = os.path.join(state, "swarm")
    if not options.stop and not os.path.isdir(path):
        # A service may be started before the first pull that brings something.
        os.mkdir(path, 0o700)
    return path


def _stop(path: str, directory: str, output: Output) -> int:
    from contextlib import closing, suppress

    from chunkstore.swarm.cache import Cache
    from chunkstore.swarm.giving import stop

    is_stopped = stop(path)
    if os.path.isdir(path):
        # A service, or a pull, that waited for its turn has it now.
        with suppress(Conflict), closing(Cache(path)) as cache:
            cache.clear()
    text = f"{directory} gives no more" if is_stopped else f"nobody was giving from {directory}"
    output.report(text, {"directory": directory, "stopped": is_stopped})
    return 0


def _let_go() -> None:
    """Whoever started us has read the line and goes; nothing more is to be said to it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)

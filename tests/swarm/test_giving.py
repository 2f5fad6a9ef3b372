"""What a node goes on giving, for how long, and who ends it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import stores
from support.crowd import LOOPBACK, Rig, cached, together
from support.trees import assert_same

from chunkstore.errors import Conflict, NotFound
from chunkstore.swarm import giving
from chunkstore.swarm.cache import Cache

pytestmark = pytest.mark.usefixtures("patient")


def test_a_node_goes_on_giving_until_it_is_told(rig: Rig):
    with rig.server(limit=12_000_000) as url:
        paths: list[str] = []
        stopping = threading.Event()
        ready = threading.Event()
        results: list[giving.Given] = []
        threads: list[threading.Thread] = []

        def give(path: str, _is_wanted: bool) -> None:
            def run() -> None:
                results.append(
                    giving.give(
                        *(path, LOOPBACK, giving.Terms()),
                        stopping=stopping,
                        on_ready=lambda *_: ready.set(),
                    )
                )

            paths.append(path)
            threads.append(threading.Thread(target=run))
            threads[0].start()
            assert ready.wait(20)

        first = rig.node("first", give=give)
        first.pull(url)
        try:
            assert paths == [str(first.directory / ".imgstore/swarm")]
            report = rig.node("second").pull(url)
            assert report.swarm.from_peers > 0
        finally:
            stopping.set()
            threads[0].join()
        assert results[0].sent > 0
        assert results[0].reason == "stopped"
        assert cached(first.directory)


def test_giving_ends_by_its_terms(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(giving, "SERVED_SECONDS", 1.0)
    with rig.server(limit=12_000_000) as url:
        node = rig.node("node", give=lambda *_: None)
        node.pull(url)
        path = str(node.directory / ".imgstore/swarm")

        def give(**terms: Any) -> giving.Given:
            return giving.give(path, LOOPBACK, giving.Terms(**terms), stopping=threading.Event())

        taker = rig.node("taker")
        given, _ = together([lambda: give(ratio=0.0001, seconds=60), lambda: taker.pull(url)])
        assert given.reason == "it had given enough"
        assert give(seconds=0.2).reason == "its time was over"
        assert cached(node.directory)
        given = give(served=True, discard=True)
        assert (given.packs, given.reason) == (1, "nobody wanted any more")
        assert not cached(node.directory)


def test_one_gives_at_a_time_and_the_next_can_make_it_end(rig: Rig):
    with rig.server() as url:
        node = rig.node("node", give=lambda *_: None)
        node.pull(url)
        path = str(node.directory / ".imgstore/swarm")
        assert not giving.stop(path)
        code = (
            "import sys, threading, signal\n"
            "from chunkstore.swarm import giving, settings\n"
            "stopping = threading.Event()\n"
            "signal.signal(signal.SIGTERM, lambda *_: stopping.set())\n"
            "session = settings.SessionSettings(('127.0.0.1',), (20000, 29999))\n"
            "giving.give(sys.argv[1], session, giving.Terms(), stopping=stopping,\n"
            "    on_ready=lambda *_: print('ready', flush=True))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdout=subprocess.PIPE, cwd=stores.PROJECT
        ) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == b"ready\n"
                with pytest.raises(Conflict):
                    giving.give(path, LOOPBACK, giving.Terms(), stopping=threading.Event())
                with pytest.raises(Conflict):
                    Cache(path)
                # A pull takes over from it.
                (rig.tree / "more").write_bytes(random.Random(5).randbytes(8_000_000))
                stores.settle()
                stores.record(rig.store, rig.tree)
                node.pull(url)
                assert other.wait(20) == 0
                assert_same(rig.tree, node.directory)
            finally:
                with suppress(OSError):
                    other.kill()


def test_there_has_to_be_something_to_give(tmp_path: Path):
    with pytest.raises(NotFound):
        giving.give(str(tmp_path / "no"), LOOPBACK, giving.Terms(), stopping=threading.Event())

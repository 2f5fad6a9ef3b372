"""Pulls over lines as they are in life: a gigabit and a tenth of it, near and far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import programs
from aims import UNTAR
from contest import OURS, Contender, Scenario, say
from job import SETTLE, Job, Services, of_report, of_rsync
from lines import Line, Node, lines, missing
from measure import Command, run
from servers import Server, imgstore_server, rsync_daemon
from trees import count_differences

LINES = [Line(1000, 1), Line(1000, 20), Line(100, 1), Line(100, 20)]
_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """Each contender runs on a node's own machine, the servers on one that all lines lead to."""
    if reason := missing():
        say(f"links are left out: {reason}")
        yield []
        return
    _ = job.store, job.edit, job.archives
    with lines(LINES) as (where, nodes), job.services(where) as services, ExitStack() as stack:
        edited = _Edited(job)
        serve = imgstore_server(job.imgstore.command, edited.store, where)
        edited.server = stack.enter_context(serve)
        if services.rsync is not None:
            folder = job.place("links", "rsyncd", "log").parent
            daemon = rsync_daemon(folder, {"copy": job.copy}, where)
            edited.daemon = stack.enter_context(daemon)
        yield [
            _pull(job, services, nodes),
            _update(job, services, nodes),
            _scenario("edit", "a small edit", edited.contenders(nodes, edited.behind)),
            _scenario("nothing", "nothing to do", edited.contenders(nodes, run)),
        ]
    job.edit.undo()
    job.discard(job.work / "links")


def _scenario(key: str, what: str, contenders: list[Contender]) -> Scenario:
    title = f"{what[0].upper()}{what[1:]} over shaped links"
    about = (
        "Each line has its speed both ways, and the delay in each direction; congestion control is "
        f"{_CONTROL.read_text().strip()}. Ratios are to rsync on the same line."
    )
    return Scenario(f"links-{key}", title, about, "rsync", contenders, bytes_are="moved", rounds=1)


def _there(node: Node, command: Command) -> Command:
    """The same command on the machine of a node."""
    return Command([*node.inside, *command.arguments], command.folder)


def _on(
    node: Node,
    name: str,
    command: Command,
    before: Callable[[], None],
    server: Server,
    differences: Callable[[], int] | None = None,
) -> Contender:
    """A contender on a node; what it moved, imgstore and rsync tell, and else the server's log."""
    traffic = of_report if name.startswith(OURS) else of_rsync if "rsync" in name else None
    return Contender(
        name,
        lambda: _there(node, command),
        before=before,
        traffic=traffic,
        server=server,
        differences=differences,
        group=str(node.line),
    )


def _copies(source: str, target: Path, *options: str) -> list[tuple[str, Command]]:
    """What rsync is measured with, and as what."""
    return [
        ("rsync", programs.rsync(source, target, *options)),
        ("rsync -z", programs.rsync(source, target, *options, "-z")),
    ]


def _pull(job: Job, services: Services, nodes: list[Node]) -> Scenario:
    target = job.place("links", "target")
    fresh = partial(job.fresh, target)
    differ = partial(count_differences, job.before, target)
    found = []
    for node in nodes:
        url = f"http://{node.head}:{services.imgstore.port}/web:base"
        ours = job.imgstore.pull(url, target)
        found.append(_on(node, OURS, ours, fresh, services.imgstore, differ))
        if (daemon := services.rsync) is not None:
            source = f"rsync://{node.head}:{daemon.port}/before/"
            for name, copy in _copies(source, target):
                found.append(_on(node, name, copy, fresh, daemon, differ))
        if (web := services.web) is not None:
            archive = f"http://{node.head}:{web.port}/{job.archives['tar.gz'].name}"
            unpack = programs.download(archive, "gzip -d", target)
            found.append(_on(node, UNTAR, unpack, fresh, web))
    return _scenario("pull", "first pull", found)


def _update(job: Job, services: Services, nodes: list[Node]) -> Scenario:
    target = job.place("links", "target")

    def install() -> None:
        job.discard(target)
        run(job.imgstore.restore(job.store, target))

    differ = partial(count_differences, job.after, target)
    found = []
    for node in nodes:
        url = f"http://{node.head}:{services.imgstore.port}/web"
        ours = job.imgstore.pull(url, target)
        found.append(_on(node, OURS, ours, install, services.imgstore, differ))
        if (daemon := services.rsync) is not None:
            source = f"rsync://{node.head}:{daemon.port}/after/"
            copied = partial(job.copy_tree, job.before, target)
            for name, copy in _copies(source, target, "--delete"):
                found.append(_on(node, name, copy, copied, daemon, differ))
    return _scenario("update", "update pull of an upgrade", found)


class _Edited:
    """A store and a tree that are edited again and again, and nodes that follow."""

    def __init__(self, job: Job) -> None:
        self.store = job.place("links", "store")
        self.server: Server | None = None
        self.daemon: Server | None = None
        self._job = job
        self._numbers = count(3000)
        self._commit = job.imgstore.again(self.store, job.copy)
        run(job.imgstore.first(self.store, job.copy))

    def behind(self, catch_up: Command) -> None:
        """The node is one small edit behind."""
        self._job.edit.undo()
        time.sleep(SETTLE)
        run(self._commit)
        run(catch_up)
        self._job.edit.apply(next(self._numbers))
        time.sleep(SETTLE)
        run(self._commit)

    def contenders(
        self, nodes: list[Node], prepare: Callable[[Command], object]
    ) -> list[Contender]:
        """imgstore and rsync; `prepare` is given what brings a node up to date by itself."""
        job = self._job
        assert self.server is not None
        ours, theirs = (job.place("links", f"edited-{name}") for name in (OURS, "rsync"))
        found = []
        for node in nodes:
            known = job.imgstore.pull(f"{self.store}/web", ours)
            pull = job.imgstore.pull(f"http://{node.head}:{self.server.port}/web", ours)
            found.append(_on(node, OURS, pull, _call(prepare, known), self.server))
            if self.daemon is not None:
                copied = programs.rsync(f"{job.copy}/", theirs, "--delete")
                source = f"rsync://{node.head}:{self.daemon.port}/copy/"
                copy = programs.rsync(source, theirs, "--delete")
                found.append(_on(node, "rsync", copy, _call(prepare, copied), self.daemon))
        return found


def _call(prepare: Callable[[Command], object], command: Command) -> Callable[[], None]:
    def call() -> None:
        prepare(command)

    return call

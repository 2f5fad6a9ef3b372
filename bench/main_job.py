#!/usr/bin/env python3
"""The main job measured from end to end, beside other programs on the same trees.

    bench/main_job.py BEFORE AFTER [--work DIR] [--runs N] [--only KEY]... [--json FILE]
                      [--write-docs]

BEFORE and AFTER are two states of a system tree, such as bench/debian.sh makes. They are only read;
what is edited is a copy. Scenarios, by their keys:

    start        how long Python and `imgstore --help` take to start
    first        first commit, into an empty store
    unchanged    commit with nothing changed
    edit         commit after a small edit (three files changed, two added, one deleted, one mode)
    diff         the paths that differ: small edit, and AFTER against BEFORE
    export       BEFORE as an archive; the same two differences, against unpacking and comparing
    pull         first installation of BEFORE over the loopback
    update       BEFORE to AFTER over the loopback, and the small edit
    nothing      a pull when there is nothing to do

Within a scenario the contenders take turns, each round beginning with another one. Before each run
its state is put back and the disk synced; neither counts. Trees are warm in the page cache. A table
gives the medians over the rounds of wall seconds, CPU seconds of the command and all its children,
peak memory of its largest process, bytes stored or moved, CPU and memory of the server, and how
long `sync` took afterwards: programs that do not wait for the disk leave that to others.

Needs root (owners, devices, capabilities). A contender that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

import peers
import tables
from measure import Command, Failed, Measure, floor, measure, run, shell
from peers import Archiver, Borg, Casync, Imgstore, Restic
from servers import Server, find_nginx, imgstore_server, nginx, rsync_daemon
from small_edit import SmallEdit
from tables import Figures, Row, Table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results" / "main_job.json"
STATE = ".imgstore"
SETTLE = 1.1
"""Seconds for the times of an edit to be past: within one tick of the clock nobody can tell."""
PROGRAMS = [
    ["tar", "--version"],
    ["gzip", "--version"],
    ["zstd", "--version"],
    ["rsync", "--version"],
    ["casync", "--version"],
    ["restic", "version"],
    ["borg", "--version"],
    ["nginx", "-v"],
    ["curl", "--version"],
]
ZSTD = "tar, zstd -T0 -3"
GZIP = "tar, gzip -6"
COMPRESSORS = ((ZSTD, "zstd -q -T0 -3"), (GZIP, "gzip -6"))
UNTAR = "curl, tar -xz"

OURS = "imgstore"

Traffic = tuple[int | None, int | None]
"""Bytes and requests."""


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    `before` puts its state back. Bytes are what `size` finds afterwards, else what `traffic` reads
    in the output, else what the server's log says.
    """

    name: str
    command: Callable[[], Command]
    before: Callable[[], None] = nothing
    size: Callable[[], int] | None = None
    traffic: Callable[[Measure], Traffic] | None = None
    server: Server | None = None
    differences: Callable[[], int] | None = None
    note: str = ""


@dataclass(frozen=True)
class Scenario:
    """Contenders for one job; `each_round` prepares for all of them."""

    key: str
    title: str
    about: str
    reference: str
    contenders: list[Contender]
    each_round: Callable[[int], None] | None = None
    bytes_are: str = ""
    shows_sync: bool = False
    rounds: int = 0


def contest(scenario: Scenario, rounds: int) -> Table:
    """Run all contenders of a scenario in turn."""
    rows = {each.name: Row(each.name, each.note) for each in scenario.contenders}
    for number in range(max(rounds, scenario.rounds)):
        if scenario.each_round is not None:
            scenario.each_round(number)
        first = number % len(scenario.contenders)
        for each in [*scenario.contenders[first:], *scenario.contenders[:first]]:
            try:
                figures = _measure(each)
            except Failed as failure:
                if each.name.startswith(OURS):
                    raise
                rows[each.name].note = "failed: " + str(failure).splitlines()[-1]
                say(f"  {scenario.key} {number + 1}: {each.name} failed")
                continue
            rows[each.name].runs.append(figures)
            say(f"  {scenario.key} {number + 1}: {each.name} {figures.wall:.3f} s")
            if number == 0 and each.differences is not None:
                rows[each.name].differences = each.differences()
    return Table(
        scenario.key,
        scenario.title,
        scenario.about,
        scenario.reference,
        scenario.bytes_are,
        scenario.shows_sync,
        list(rows.values()),
    )


def _measure(contender: Contender) -> Figures:
    contender.before()
    command = contender.command()
    os.sync()
    server = contender.server
    cpu = server.cpu() if server is not None else 0.0
    logged = server.traffic() if server is not None else None
    done = measure(command)
    begun = time.perf_counter()
    os.sync()
    synced = time.perf_counter() - begun
    if server is not None:
        server.settle()
    moved: Traffic = (None, None)
    if contender.traffic is not None:
        moved = contender.traffic(done)
    elif server is not None and logged is not None and (now := server.traffic()) is not None:
        moved = now[0] - logged[0], now[1] - logged[1]
    return Figures(
        wall=done.wall,
        cpu=done.cpu,
        peak=done.peak,
        sync=synced,
        server_cpu=server.cpu() - cpu if server is not None else None,
        server_peak=server.peak() if server is not None else None,
        bytes=contender.size() if contender.size is not None else moved[0],
        requests=moved[1],
    )


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


class Job:
    """The trees, the working directory, and what is prepared in it once for several scenarios."""

    def __init__(self, before: Path, after: Path, work: Path, imgstore: Sequence[str]) -> None:
        self.before = before
        self.after = after
        self.work = work
        self.imgstore = Imgstore(imgstore)
        self._discards = count()
        self.others: list[Archiver] = [
            peer
            for peer, program in ((Restic(), "restic"), (Borg(), "borg"), (Casync(), "casync"))
            if shutil.which(program)
        ]
        self.archivers: list[Archiver] = [self.imgstore, *self.others]

    def place(self, *names: str) -> Path:
        """A path in the working directory; the directory above it is there."""
        path = self.work.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def discard(self, path: Path) -> None:
        """Take something out of the way, emptied; it is removed at the end of all.

        ext4 does not use the inodes of deleted files again for minutes, and searches past them for
        every new file: to delete a target would make the next contender pay.
        """
        if not path.exists():
            return
        aside = self.place("discarded", str(next(self._discards)))
        path.rename(aside)
        run(Command(["find", str(aside), "-type", "f", "-exec", "truncate", "-s0", "{}", "+"]))

    def fresh(self, path: Path) -> None:
        """Make an empty directory, whatever was there."""
        self.discard(path)
        path.mkdir(parents=True)

    def copy_tree(self, source: Path, target: Path) -> None:
        """Copy everything, in place of whatever was there."""
        self.discard(target)
        run(Command(["cp", "-a", "--reflink=auto", str(source), str(target)]))

    @cached_property
    def copy(self) -> Path:
        """A copy of BEFORE that may be edited."""
        path = self.place("copy")
        say("copying BEFORE")
        self.copy_tree(self.before, path)
        return path

    @cached_property
    def edit(self) -> SmallEdit:
        """The edit of the copy."""
        return SmallEdit(self.copy, self.work)

    @cached_property
    def edited(self) -> Path:
        """Repositories of all archivers with the copy in them; returns the directory above them."""
        self._record("edited", [self.copy])
        return self.work / "edited"

    @cached_property
    def both(self) -> Path:
        """Repositories of all archivers with BEFORE and AFTER in them."""
        self._record("both", [self.before, self.after])
        return self.work / "both"

    def _record(self, name: str, trees: list[Path]) -> None:
        for archiver in self.archivers:
            say(f"preparing {archiver.name}")
            repository = self.place(name, archiver.name)
            run(archiver.first(repository, trees[0]))
            for tree in trees[1:]:
                run(archiver.again(repository, tree))

    @cached_property
    def archives(self) -> dict[str, Path]:
        """BEFORE as image.tar.gz and image.tar."""
        say("preparing archives")
        found = {"gzip -6": self.place("image.tar.gz"), "cat": self.place("image.tar")}
        for compressor, path in found.items():
            run(peers.archive(self.before, compressor, path))
        return {"tar.gz": found["gzip -6"], "tar": found["cat"]}

    def edit_and_settle(self, number: int) -> None:
        """Bring every repository back to the unedited copy, then edit it."""
        self.edit.undo()
        time.sleep(SETTLE)
        for archiver in self.archivers:
            run(archiver.again(self.edited / archiver.name, self.copy))
        self.edit.apply(number)
        time.sleep(SETTLE)

    @contextmanager
    def web(self) -> Iterator[Server]:
        """nginx on the working directory."""
        folder = self.place("nginx", "log").parent
        with nginx(folder, self.work) as server:
            yield server


def disk_usage(path: Path) -> int:
    """Bytes of all files below, or of the file."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        Path(folder, name).lstat().st_size
        for folder, _, names in os.walk(path)
        for name in names
        if "cache" not in Path(folder).relative_to(path).parts
    )


def count_differences(tree: Path, target: Path) -> int:
    """Paths in which the target is not the tree, by an independent program."""
    options = ["-aHAXn", "--numeric-ids", "--delete", "--itemize-changes", f"--exclude=/{STATE}"]
    listed = run(Command(["rsync", *options, f"{tree}/", f"{target}/"]))
    return len(listed.splitlines())


def count_tree(tree: Path) -> dict[str, int]:
    """Entries, regular files and bytes of content, a hardlinked file once."""
    entries, files, size, seen = 1, 0, 0, set()
    for folder, folders, names in os.walk(tree):
        entries += len(folders) + len(names)
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(status.st_mode):
                files += 1
                if status.st_ino not in seen:
                    size += status.st_size
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
    return {"entries": entries, "files": files, "bytes": size}


# --- the scenarios


@contextmanager
def start(job: Job) -> Iterator[list[Scenario]]:
    """Start-up times."""
    python = [sys.executable, "-c", "pass"]
    verbs = {"imgstore --help": ["--help"], "imgstore commit --help": ["commit", "--help"]}
    contenders = [Contender("python -c pass", lambda: Command(python))]
    for name, arguments in verbs.items():
        command = Command([*job.imgstore.command, *arguments])
        contenders.append(Contender(name, partial(_same, command)))
    yield [
        Scenario(
            "start",
            "Start-up",
            "What every call pays before it does anything.",
            "python -c pass",
            contenders,
            rounds=15,
        )
    ]


def _same(command: Command) -> Command:
    return command


@contextmanager
def first(job: Job) -> Iterator[list[Scenario]]:
    """First commit."""
    contenders = []
    for archiver in job.archivers:
        repository = job.place("first", archiver.name)
        contenders.append(
            Contender(
                archiver.name,
                partial(archiver.first, repository, job.before),
                before=partial(job.discard, repository),
                size=partial(disk_usage, repository),
                note=archiver.note,
            )
        )
    for name, compressor in COMPRESSORS:
        path = job.place("first", f"image.{compressor.split()[0]}")
        contenders.append(
            Contender(
                name,
                partial(_same, peers.archive(job.before, compressor, path)),
                before=partial(job.discard, path),
                size=partial(disk_usage, path),
                note="not durable on return",
            )
        )
    yield [
        Scenario(
            "first",
            "First commit",
            "BEFORE into an empty store, or a new archive.",
            ZSTD,
            contenders,
            bytes_are="stored",
            shows_sync=True,
        )
    ]
    job.discard(job.work / "first")


@contextmanager
def unchanged(job: Job) -> Iterator[list[Scenario]]:
    """Commit with nothing changed."""
    job.edit.undo()
    for archiver in job.archivers:
        run(archiver.again(job.edited / archiver.name, job.copy))
    contenders = [
        Contender(each.name, partial(each.again, job.edited / each.name, job.copy))
        for each in job.archivers
    ]
    contenders.append(Contender("find -printf", lambda: peers.find(job.copy), note=_FIND_NOTE))
    contenders.append(
        Contender("rsync -n", lambda: peers.rsync(f"{job.copy}/", job.before, "-n", "--delete"))
    )
    yield [
        Scenario(
            "unchanged",
            "Commit with nothing changed",
            "The tree is as it was recorded. rsync compares it with a second copy.",
            "find -printf",
            contenders,
        )
    ]


_FIND_NOTE = "prints type, mode, inode, links, owners, size and times of every path"


@contextmanager
def edit(job: Job) -> Iterator[list[Scenario]]:
    """Commit after a small edit."""
    _ = job.edit, job.edited
    yield [
        Scenario(
            "edit",
            "Commit after a small edit",
            "Three configuration files changed, two added, one deleted, one mode.",
            OURS,
            [
                Contender(each.name, partial(each.again, job.edited / each.name, job.copy))
                for each in job.archivers
            ],
            each_round=job.edit_and_settle,
        )
    ]
    job.edit.undo()


@contextmanager
def diff(job: Job) -> Iterator[list[Scenario]]:
    """The difference of two versions."""
    yield [
        Scenario(
            "diff-edit",
            "Diff of a small edit",
            "The paths that differ between the last two versions.",
            OURS,
            _differs(job, _edited_once(job)),
        ),
        Scenario(
            "diff-update",
            "Diff of an upgrade",
            "The paths that differ between BEFORE and AFTER.",
            OURS,
            _differs(job, job.both),
        ),
    ]


def _edited_once(job: Job) -> Path:
    """The repositories, their last two versions being the copy without the edit and with it."""
    _ = job.edit, job.edited
    job.edit_and_settle(1000)
    for archiver in job.archivers:
        run(archiver.again(job.edited / archiver.name, job.copy))
    return job.edited


def _differs(job: Job, repositories: Path) -> list[Contender]:
    found = []
    for archiver in job.archivers:
        command = archiver.diff(repositories / archiver.name)
        if command is not None:
            found.append(Contender(archiver.name, partial(_same, command)))
    return found


@contextmanager
def export(job: Job) -> Iterator[list[Scenario]]:
    """A whole version, and the difference, as an archive."""
    _edited_once(job)
    yield [
        _export_whole(job),
        _export(job, "edit", "a small edit", job.edited, job.copy),
        _export(job, "update", "an upgrade", job.both, job.after),
    ]
    job.edit.undo()
    job.discard(job.work / "export")


def _export_whole(job: Job) -> Scenario:
    store = job.both / job.imgstore.name
    contenders = []
    for name, file, *options in (
        (OURS, "image.tar.gz"),
        (f"{OURS} --level 1", "fast.tar.gz", "--level", "1"),
        (f"{OURS}, tar.zst", "image.tar.zst"),
    ):
        path = job.place("export", file)
        command = job.imgstore.on(store, "export", "web:base", "-o", str(path), *options)
        contenders.append(Contender(name, partial(_same, command), size=partial(disk_usage, path)))
    for name, compressor in COMPRESSORS:
        path = job.place("export", f"peer.{compressor.split()[0]}")
        command = peers.archive(job.before, compressor, path)
        contenders.append(Contender(name, partial(_same, command), size=partial(disk_usage, path)))
    return Scenario(
        "export-whole",
        "Export of a whole version",
        "BEFORE as an archive: from the store, and from the tree.",
        GZIP,
        contenders,
        bytes_are="written",
    )


def _export(job: Job, key: str, what: str, repositories: Path, tree: Path) -> Scenario:
    archive = job.place("export", f"{key}.tar.gz")
    command = job.imgstore.export(repositories / job.imgstore.name, archive)
    contenders = [Contender(OURS, partial(_same, command), size=partial(disk_usage, archive))]
    for kind, base in job.archives.items():
        scratch = job.place("export", f"{key}-{kind}")
        contenders.append(
            Contender(
                f"unpack and compare, {kind}",
                partial(peers.old_practice, tree, base, scratch),
                before=partial(job.fresh, scratch),
                size=partial(disk_usage, scratch / "image-diff.tar.gz"),
            )
        )
    return Scenario(
        f"export-{key}",
        f"Export of the diff of {what}",
        "A tar.gz of what differs. The others unpack an archive of the base, compare the tree with "
        "it by rsync, and pack what differs.",
        OURS,
        contenders,
        bytes_are="written",
    )


def _of_report(done: Measure) -> Traffic:
    report = json.loads(done.output)
    return report["received_bytes"], report["requests"]


def _of_rsync(done: Measure) -> Traffic:
    found = re.findall(r"Total bytes (?:sent|received): ([\d,]+)", done.output)
    return sum(int(number.replace(",", "")) for number in found), None


@dataclass(frozen=True)
class _Services:
    """The servers of the scenarios that move something."""

    imgstore: Server
    rsync: Server | None
    web: Server | None


@contextmanager
def _services(job: Job) -> Iterator[_Services]:
    with ExitStack() as stack:
        serve = imgstore_server(job.imgstore.command, job.both / job.imgstore.name)
        modules = {"before": job.before, "after": job.after}
        daemon = rsync_daemon(job.place("rsyncd", "log").parent, modules)
        yield _Services(
            stack.enter_context(serve),
            stack.enter_context(daemon) if shutil.which("rsync") else None,
            stack.enter_context(job.web()) if find_nginx() else None,
        )


def _target(job: Job, key: str, name: str) -> Path:
    return job.place(key, re.sub(r"[^a-z0-9]+", "-", name.lower()))


@contextmanager
def pull(job: Job) -> Iterator[list[Scenario]]:
    """First installation."""
    _ = job.both, job.archives
    with _services(job) as services:
        contenders: list[Contender] = []

        def add(
            name: str,
            command: Callable[[Path], Command],
            *,
            traffic: Callable[[Measure], Traffic] | None = None,
            server: Server | None = None,
            note: str = "",
        ) -> None:
            target = _target(job, "pull", name)

            def prepare() -> None:
                # Only one target at a time: the page cache is to hold the trees.
                job.discard(job.work / "pull")
                job.fresh(target)

            contenders.append(
                Contender(
                    name,
                    lambda: command(target),
                    before=prepare,
                    traffic=traffic,
                    server=server,
                    differences=partial(count_differences, job.before, target),
                    note=note,
                )
            )

        url = f"http://127.0.0.1:{services.imgstore.port}/web:base"
        add(
            OURS,
            partial(job.imgstore.pull, url),
            traffic=_of_report,
            server=services.imgstore,
            note=job.imgstore.note,
        )
        if services.rsync is not None:
            source = f"rsync://127.0.0.1:{services.rsync.port}/before/"
            add("rsync", partial(peers.rsync, source), traffic=_of_rsync, server=services.rsync)
        if services.web is not None:
            _add_web(job, services.web, add)
        for archiver in job.others:
            if archiver.name != "casync":
                place = job.both / archiver.name
                add(archiver.name, partial(_restore, archiver, place), note="from the local disk")
        add("cp -a", lambda target: Command(["cp", "-a", f"{job.before}/.", str(target)]))
        yield [
            Scenario(
                "pull",
                "First pull over the loopback",
                "BEFORE into an empty directory.",
                UNTAR,
                contenders,
                bytes_are="moved",
                shows_sync=True,
            )
        ]
    job.discard(job.work / "pull")


def _add_web(job: Job, web: Server, add: Callable[..., None]) -> None:
    base = f"http://127.0.0.1:{web.port}"
    store = f"{base}/both/{job.imgstore.name}/web:base"
    add("imgstore, nginx", partial(job.imgstore.pull, store), traffic=_of_report, server=web)
    archive = f"{base}/{job.archives['tar.gz'].name}"

    def unpack(target: Path) -> Command:
        return shell(f"curl -sSf {quote(archive)} | gzip -d | {peers.unpack('-', target)}")

    add(UNTAR, unpack, server=web, note="served by nginx")
    casync = next((each for each in job.others if isinstance(each, Casync)), None)
    if casync is not None:
        index = f"{base}/both/{casync.name}/first.caidx"
        add(
            casync.name,
            partial(casync.extract, index),
            server=web,
            note="served by nginx",
        )


def _restore(archiver: Archiver, repository: Path, target: Path) -> Command:
    command = archiver.restore(repository, target)
    assert command is not None
    return command


@contextmanager
def update(job: Job) -> Iterator[list[Scenario]]:
    """From one version to the next."""
    _ = job.both, job.edited
    with _services(job) as services, ExitStack() as stack:
        yield [
            _upgrade(job, services),
            _update_edit(job, stack),
        ]
    job.discard(job.work / "update")
    job.edit.undo()


def _upgrade(job: Job, services: _Services) -> Scenario:
    """BEFORE to AFTER; every run begins with a copy of what the contender had installed."""
    installed = job.place("update", "installed")
    target = job.place("update", "target")
    url = f"http://127.0.0.1:{services.imgstore.port}/web"
    contenders = [
        Contender(
            OURS,
            partial(job.imgstore.pull, url, target),
            before=partial(_install_and_copy, job, f"{url}:base", installed, target),
            traffic=_of_report,
            server=services.imgstore,
            differences=partial(count_differences, job.after, target),
        )
    ]
    if services.rsync is not None:
        source = f"rsync://127.0.0.1:{services.rsync.port}/after/"
        for name, options in (("rsync", ("--delete",)), ("rsync -z", ("--delete", "-z"))):
            contenders.append(
                Contender(
                    name,
                    partial(peers.rsync, source, target, *options),
                    before=partial(job.copy_tree, job.before, target),
                    traffic=_of_rsync,
                    server=services.rsync,
                    differences=partial(count_differences, job.after, target),
                )
            )
    casync = next((each for each in job.others if isinstance(each, Casync)), None)
    if casync is not None and services.web is not None:
        index = f"http://127.0.0.1:{services.web.port}/both/{casync.name}/last.caidx"
        contenders.append(
            Contender(
                casync.name,
                partial(casync.extract, index, target, f"--seed={job.before}"),
                before=partial(job.fresh, target),
                server=services.web,
                differences=partial(count_differences, job.after, target),
                note="writes a new tree, with the old one as its seed",
            )
        )
    return Scenario(
        "update",
        "Update pull of an upgrade",
        "BEFORE becomes AFTER over the loopback.",
        "rsync",
        contenders,
        bytes_are="moved",
        shows_sync=True,
    )


def _install_and_copy(job: Job, source: str, installed: Path, target: Path) -> None:
    if not installed.exists():
        run(job.imgstore.pull(source, installed))
    job.copy_tree(installed, target)


def _update_edit(job: Job, stack: ExitStack) -> Scenario:
    """A node that has the unedited copy, in each round anew, gets the edit."""
    store = job.edited / job.imgstore.name
    server = stack.enter_context(imgstore_server(job.imgstore.command, store))
    ours = job.place("update", "edit-imgstore")
    pulled = job.imgstore.pull(f"http://127.0.0.1:{server.port}/web", ours)
    contenders = [Contender(OURS, lambda: pulled, traffic=_of_report, server=server)]
    copied: list[Command] = []
    if shutil.which("rsync"):
        folder = job.place("update", "rsyncd", "log").parent
        daemon = stack.enter_context(rsync_daemon(folder, {"copy": job.copy}))
        source = f"rsync://127.0.0.1:{daemon.port}/copy/"
        theirs = job.place("update", "edit-rsync")
        copied.append(peers.rsync(source, theirs, "--delete"))
        contenders.append(Contender("rsync", lambda: copied[0], traffic=_of_rsync, server=daemon))

    def each_round(number: int) -> None:
        job.edit.undo()
        time.sleep(SETTLE)
        run(job.imgstore.again(store, job.copy))
        for command in (pulled, *copied):
            run(command)
        job.edit.apply(2000 + number)
        time.sleep(SETTLE)
        run(job.imgstore.again(store, job.copy))

    return Scenario(
        "update-edit",
        "Update pull of a small edit",
        "A node that is one small edit behind.",
        "rsync",
        contenders,
        each_round=each_round,
        bytes_are="moved",
    )


@contextmanager
def nothing_to_do(job: Job) -> Iterator[list[Scenario]]:
    """A pull that finds everything as it should be."""
    _ = job.both
    with _services(job) as services:
        target = job.place("nothing", OURS)
        url = f"http://127.0.0.1:{services.imgstore.port}/web:base"
        run(job.imgstore.pull(url, target))
        contenders = [
            Contender(
                OURS,
                partial(job.imgstore.pull, url, target),
                traffic=_of_report,
                server=services.imgstore,
            )
        ]
        if services.rsync is not None:
            copy = job.place("nothing", "rsync")
            job.copy_tree(job.before, copy)
            source = f"rsync://127.0.0.1:{services.rsync.port}/before/"
            contenders.append(
                Contender(
                    "rsync",
                    partial(peers.rsync, source, copy, "--delete"),
                    traffic=_of_rsync,
                    server=services.rsync,
                )
            )
        yield [
            Scenario(
                "nothing",
                "Pull with nothing to do",
                "The node is up to date. rsync looks at every path to find that out.",
                "rsync",
                contenders,
                bytes_are="moved",
            )
        ]
    job.discard(job.work / "nothing")


SCENARIOS = {
    "start": start,
    "first": first,
    "unchanged": unchanged,
    "edit": edit,
    "diff": diff,
    "export": export,
    "pull": pull,
    "update": update,
    "nothing": nothing_to_do,
}


# --- the outcome


def aims(found: dict[str, Table]) -> Iterator[tuple[str, str, bool]]:
    """The aims of the main job that these tables can tell of."""

    def wall(key: str, name: str) -> float | None:
        row = found[key].row(name) if key in found else None
        return None if row is None else row.median.wall

    ours, tar = wall("first", OURS), wall("first", ZSTD)
    if ours and tar:
        ratio = ours / tar
        yield "first commit within 1.5 times `tar | zstd -T0 -3`", f"{ratio:.2f}", ratio <= 1.5
    rows = [found["first"].row(name) for name in (OURS, GZIP)] if "first" in found else []
    if rows and all(rows):
        stored, gzip = (row.median.bytes or 0 for row in rows if row is not None)
        yield "stored bytes below gzip of the tar", f"{stored / gzip:.2f} of it", stored < gzip
    ours, listed = wall("unchanged", OURS), wall("unchanged", "find -printf")
    python = wall("start", "python -c pass")
    if ours and listed and python:
        limit = 2 * listed + python
        text = f"{ours:.3f} s, {limit:.3f} s allowed"
        yield "nothing changed within 2 times `find -printf` plus start-up", text, ours <= limit
    if ours:
        others = [row for row in found["unchanged"].rows if row.name not in (OURS, "find -printf")]
        if others:
            fastest = min(others, key=lambda row: row.median.wall)
            text = f"{ours:.3f} s, {fastest.name} {fastest.median.wall:.3f} s"
            yield "nothing changed faster than each peer", text, ours < fastest.median.wall
    commit, exported = wall("edit", OURS), wall("export-edit", OURS)
    if commit and exported:
        both = commit + exported
        yield "small edit: commit and export of the diff under 0.5 s", f"{both:.3f} s", both < 0.5
    peaks = [row.median.peak for table in found.values() for row in table.rows if row.name == OURS]
    if peaks:
        text = f"{max(peaks) / tables.MB:.0f} MB"
        yield "peak memory under 300 MB", text, max(peaks) < 300 * tables.MB
    helped = wall("start", "imgstore --help")
    if helped:
        yield "`imgstore --help` under 100 ms", f"{helped * 1000:.0f} ms", helped < 0.1


def warm(*trees: Path) -> None:
    """Bring the trees into the page cache."""
    for tree in trees:
        run(shell(f"find {quote(str(tree))} -type f -exec cat {{}} + > /dev/null"))


def set_environment(work: Path) -> list[str]:
    """What all programs get; returns the command that is imgstore."""
    # Programs are installed with their bytecode: to compile at every start is no part of the job.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(
        LC_ALL="C.UTF-8",
        RESTIC_PASSWORD="bench",
        RESTIC_CACHE_DIR=str(work / "restic-cache"),
        BORG_BASE_DIR=str(work / "borg-base"),
        BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
        BORG_RELOCATED_REPO_ACCESS_IS_OK="yes",
    )
    installed = Path(sys.executable).with_name("imgstore")
    if installed.exists():
        return [str(installed)]
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'cli'}"
    return [sys.executable, "-m", "imgstore"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the main job beside other programs.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/imgstore-main-job"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"into {PAGE.name} and {RESULTS.name}"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: owners and devices are part of a tree")
    if options.work.exists() and any(options.work.iterdir()):
        parser.error(
            f"{options.work} is not empty: name a directory that may be filled and removed"
        )
    return options


def among(found: list[Table], earlier: list[dict[str, Any]]) -> list[Table]:
    """The tables among those of an earlier run, in the place of their like."""
    fresh = {table.key: table for table in found}
    kept = [fresh.pop(document["scenario"], None) or Table.read(document) for document in earlier]
    return [*kept, *fresh.values()]


def main() -> None:
    """Measure, print the tables, write the results."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    before, after, work = (path.resolve() for path in (options.before, options.after, options.work))
    work.mkdir(parents=True, exist_ok=True)
    job = Job(before, after, work, set_environment(work))
    described = tables.machine(work, PROGRAMS)
    trees = {"BEFORE": count_tree(before), "AFTER": count_tree(after)}
    found: list[Table] = []
    failed = False
    try:
        warm(before, after)
        for key in options.only or SCENARIOS:
            with SCENARIOS[key](job) as scenarios:
                for scenario in scenarios:
                    say(scenario.title)
                    found.append(contest(scenario, options.runs))
    except Failed as failure:
        failed = True
        say(str(failure))
    finally:
        run(Command(["rm", "-rf", "--one-file-system", str(work)]))
    smallest = floor()
    if options.write_docs and options.only:
        earlier = json.loads(RESULTS.read_text())
        found = among(found, earlier["tables"])
        smallest = max(smallest, earlier["floor"])
    parts = [tables.machine_text(described, trees, options.runs)]
    parts.append(tables.checklist(aims({table.key: table for table in found})))
    parts += [table.markdown(smallest) for table in found]
    text = "\n".join(part for part in parts if part)
    print(text)
    document: dict[str, Any] = {
        "machine": described,
        "trees": trees,
        "runs": options.runs,
        "floor": smallest,
        "tables": [table.document() for table in found],
    }
    targets = [options.json] if options.json else []
    if options.write_docs and not failed:
        tables.write_between_markers(PAGE, text)
        targets.append(RESULTS)
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document, indent=1) + "\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()

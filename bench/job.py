"""The trees, the working directory, and what is prepared in it once for several scenarios."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import peers
import programs
from archivers import Archiver, Imgstore
from contest import Traffic, say
from measure import Command, Measure, run
from peers import Casync, Ostree
from servers import HERE, Server, Where, find_nginx, imgstore_server, nginx, rsync_daemon
from small_edit import SmallEdit

ROOT = Path(__file__).resolve().parents[1]
SETTLE = 1.1
"""Seconds for the times of an edit to be past: within one tick of the clock nobody can tell."""


@dataclass(frozen=True)
class Services:
    """The servers of the scenarios that move something."""

    imgstore: Server
    rsync: Server | None
    web: Server | None


class Job:
    """BEFORE and AFTER, which are only read; `work`, which is filled; sizes of what is made up."""

    def __init__(
        self,
        before: Path,
        after: Path,
        work: Path,
        imgstore: Sequence[str],
        *,
        others: Iterable[str] = peers.PROGRAMS,
        sparse: int = 20_000_000_000,
    ) -> None:
        self.before = before
        self.after = after
        self.work = work
        self.imgstore = Imgstore(imgstore)
        self.sparse = sparse
        self._discards = count()
        self.others = peers.installed(others)
        self.archivers: list[Archiver] = [self.imgstore, *self.others]

    @property
    def casync(self) -> Casync | None:
        """casync, if it is there."""
        return next((each for each in self.others if isinstance(each, Casync)), None)

    @property
    def ostree(self) -> Ostree | None:
        """ostree, if it is there."""
        return next((each for each in self.others if isinstance(each, Ostree)), None)

    def place(self, *names: str) -> Path:
        """A path in the working directory; the directory above it is there."""
        path = self.work.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def target(self, key: str, name: str) -> Path:
        """A place of its own for what a contender writes."""
        return self.place(key, re.sub(r"[^a-z0-9]+", "-", name.lower()))

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

    def become(self, tree: Path, wanted: Path) -> None:
        """Change a tree into another as an upgrade does: what is the same is not touched."""
        run(programs.rsync(f"{wanted}/", tree, "--delete"))

    @cached_property
    def copy(self) -> Path:
        """A copy of BEFORE that may be edited."""
        path = self.place("copy")
        say("preparing: a copy of BEFORE")
        self.copy_tree(self.before, path)
        return path

    @cached_property
    def edit(self) -> SmallEdit:
        """The edit of the copy."""
        return SmallEdit(self.copy, self.work)

    @cached_property
    def edited(self) -> Path:
        """Repositories of all archivers with the copy in them; returns the directory above them."""
        return self.record("edited", [self.copy])

    @cached_property
    def both(self) -> Path:
        """Repositories of all archivers with BEFORE and AFTER in them."""
        return self.record("both", [self.before, self.after])

    @cached_property
    def store(self) -> Path:
        """Our store with BEFORE and AFTER in it, which does not need the others."""
        if "both" in self.__dict__:
            return self.both / self.imgstore.name
        return self.record("ours", [self.before, self.after], [self.imgstore]) / self.imgstore.name

    def record(self, name: str, trees: list[Path], archivers: list[Archiver] | None = None) -> Path:
        """Repositories (of all archivers) with these trees in them, one after another."""
        for archiver in archivers or self.archivers:
            say(f"preparing: {name}, {archiver.name}")
            repository = self.place(name, archiver.name)
            run(archiver.first(repository, trees[0]))
            for tree in trees[1:]:
                run(archiver.again(repository, tree))
        return self.work / name

    @cached_property
    def archives(self) -> dict[str, Path]:
        """BEFORE as image.tar.gz, and image.tar, and image.tar.zst where there is zstd."""
        compressors = {"tar.gz": "gzip -6", "tar": "cat"}
        if shutil.which("zstd"):
            compressors["tar.zst"] = programs.COMPRESSORS[programs.ZSTD]
        found = {}
        for kind, compressor in compressors.items():
            say(f"preparing: image.{kind}")
            found[kind] = self.place(f"image.{kind}")
            run(programs.archive(self.before, compressor, found[kind]))
        return found

    @cached_property
    def zchunks(self) -> tuple[Path, Path] | None:
        """BEFORE and AFTER as zchunk files, if zchunk is there."""
        if not (shutil.which("zck") and shutil.which("zckdl")):
            return None
        say("preparing: zchunk files")
        found = self.place("before.zck"), self.place("after.zck")
        for tree, path in zip((self.before, self.after), found, strict=True):
            run(programs.zchunk(tree, path))
        return found

    def edit_and_settle(self, number: int) -> None:
        """Bring every repository back to the unedited copy, then edit it."""
        self.edit.undo()
        time.sleep(SETTLE)
        for archiver in self.archivers:
            run(archiver.again(self.edited / archiver.name, self.copy))
        self.edit.apply(number)
        time.sleep(SETTLE)

    def edit_and_record(self) -> Path:
        """The repositories, their last two versions being the copy without the edit and with it."""
        _ = self.edit, self.edited
        self.edit_and_settle(1000)
        for archiver in self.archivers:
            run(archiver.again(self.edited / archiver.name, self.copy))
        return self.edited

    @contextmanager
    def services(self, where: Where = HERE) -> Iterator[Services]:
        """The store with BEFORE and AFTER, both trees by rsync, the working directory by nginx."""
        with ExitStack() as stack:
            serve = imgstore_server(self.imgstore.command, self.store, where)
            modules = {"before": self.before, "after": self.after}
            daemon = rsync_daemon(self.place("rsyncd", "log").parent, modules, where)
            yield Services(
                stack.enter_context(serve),
                stack.enter_context(daemon) if shutil.which("rsync") else None,
                stack.enter_context(self.web(where)) if find_nginx() else None,
            )

    @contextmanager
    def web(self, where: Where = HERE) -> Iterator[Server]:
        """nginx on the working directory."""
        with nginx(self.place("nginx", "log").parent, self.work, where) as server:
            yield server


def same(command: Command) -> Callable[[], Command]:
    """What a contender runs that is the same every time."""
    return lambda: command


def of_report(done: Measure) -> Traffic:
    """Bytes and requests, as imgstore tells them."""
    report = json.loads(done.output)
    return report["received_bytes"], report["requests"]


def of_rsync(done: Measure) -> Traffic:
    """Bytes of both directions, as rsync tells them; it has no requests."""
    found = re.findall(r"Total bytes (?:sent|received): ([\d,]+)", done.output)
    return sum(int(number.replace(",", "")) for number in found), None


def set_environment() -> list[str]:
    """What all programs get; returns the command that is imgstore."""
    # Programs are installed with their bytecode: to compile at every start is no part of the job.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(
        LC_ALL="C.UTF-8",
        RESTIC_PASSWORD="bench",
        BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
        BORG_RELOCATED_REPO_ACCESS_IS_OK="yes",
    )
    installed = Path(sys.executable).with_name("imgstore")
    if installed.exists():
        return [str(installed)]
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'cli'}"
    return [sys.executable, "-m", "imgstore"]

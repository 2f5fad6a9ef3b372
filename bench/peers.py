"""The programs that are compared: how each records a tree, again, differs, and restores.

Every program gets what it takes to keep a system tree whole (owners, hardlinks, xattrs, ACLs) and
its usual compression; zstd level 3 where there is a choice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote
from typing import Protocol

from measure import Command, run, shell

TAR = "tar --xattrs --xattrs-include='*' --acls --numeric-owner"
FIND_FIELDS = r"%y %m %i %n %U %G %s %T@ %C@ %p\0"


class Archiver(Protocol):
    """Keeps versions of a tree in a repository of its own."""

    name: str
    note: str

    def first(self, repository: Path, tree: Path) -> Command:
        """Make the repository and record the tree."""
        ...

    def again(self, repository: Path, tree: Path) -> Command:
        """Record the tree once more."""
        ...

    def diff(self, repository: Path) -> Command | None:
        """Tell the last two records apart."""
        ...

    def restore(self, repository: Path, target: Path) -> Command | None:
        """Write the first record into an empty directory."""
        ...


class Imgstore:
    """This project."""

    name = "imgstore"
    note = "durable on return (fsync)"

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def on(self, repository: Path, *arguments: str) -> Command:
        """Any verb on a store."""
        return Command([*self.command, "--store", str(repository), *arguments])

    def first(self, repository: Path, tree: Path) -> Command:
        """`commit` makes a store by itself."""
        return self.again(repository, tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`commit`."""
        return self.on(repository, "--json", "commit", "web", str(tree))

    def diff(self, repository: Path) -> Command:
        """`diff`."""
        return self.on(repository, "diff", "web~1", "web")

    def export(self, repository: Path, archive: Path) -> Command:
        """The last difference as an archive."""
        return self.on(repository, "export", "web", "--base", "web~1", "-o", str(archive))

    def restore(self, repository: Path, target: Path) -> Command:
        """`pull` from the path of the store."""
        return self.pull(f"{repository}/web:base", target)

    def pull(self, source: str, target: Path) -> Command:
        """`pull` from anywhere, over HTTP: crowds have a bench of their own."""
        words = ("--json", "pull", "--trust-first", "--transport", "http")
        return Command([*self.command, *words, source, str(target)])


class Restic:
    """restic, from inside the tree, so that paths are relative; it always encrypts."""

    name = "restic"
    note = "durable on return (fsync); encrypts"

    def first(self, repository: Path, tree: Path) -> Command:
        """`init` and `backup`."""
        init = join(["restic", "-q", "-r", str(repository), "init", "--repository-version", "2"])
        return shell(f"{init}; {join(self.again(repository, tree).arguments)}", tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`backup`, which finds the snapshot before by the directory."""
        return Command(["restic", "-q", "-r", str(repository), "backup", "."], tree)

    def diff(self, repository: Path) -> Command:
        """`diff`."""
        *_, old, new = self._snapshots(repository)
        return Command(["restic", "-q", "-r", str(repository), "diff", old, new])

    def restore(self, repository: Path, target: Path) -> Command:
        """`restore` from the local disk."""
        first = self._snapshots(repository)[0]
        repository_ = ["-r", str(repository)]
        return Command(["restic", "-q", *repository_, "restore", first, "--target", str(target)])

    def _snapshots(self, repository: Path) -> list[str]:
        listed = run(Command(["restic", "-r", str(repository), "snapshots", "--json"]))
        found = sorted(json.loads(listed), key=lambda snapshot: snapshot["time"])
        return [snapshot["id"] for snapshot in found]


class Borg:
    """borg without encryption, zstd level 3."""

    name = "borg zstd,3"
    note = "durable on return (fsync)"

    def first(self, repository: Path, tree: Path) -> Command:
        """`init` and `create`."""
        init = join(["borg", "init", "-e", "none", str(repository)])
        return shell(f"{init}; {join(self.again(repository, tree).arguments)}", tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`create`, which knows the tree by its cache."""
        archive = f"{repository}::{{now:%Y%m%d%H%M%S.%f}}"
        return Command(["borg", "create", "--compression", "zstd,3", archive, "."], tree)

    def diff(self, repository: Path) -> Command:
        """`diff`."""
        old, new = run(Command(["borg", "list", "--short", "--last", "2", str(repository)])).split()
        return Command(["borg", "diff", f"{repository}::{old}", new])

    def restore(self, repository: Path, target: Path) -> Command:
        """`extract` from the local disk."""
        first = run(Command(["borg", "list", "--short", "--first", "1", str(repository)])).strip()
        return Command(["borg", "extract", "--numeric-ids", f"{repository}::{first}"], target)


class Casync:
    """casync with its defaults (zstd, 64 KiB chunks), and a cache for the second time."""

    name = "casync"
    note = "not durable on return"

    def first(self, repository: Path, tree: Path) -> Command:
        """`make`, with an empty cache."""
        (repository / "cache").mkdir(parents=True)
        return self.again(repository, tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`make`, over the index of the last time but the first."""
        index = "last" if (repository / "first.caidx").exists() else "first"
        places = [f"--cache={repository}/cache", f"--store={repository}/default.castr"]
        return Command(["casync", "make", *places, f"{repository}/{index}.caidx", str(tree)])

    def diff(self, repository: Path) -> None:
        """It has none."""
        del repository

    def restore(self, repository: Path, target: Path) -> Command:
        """`extract` from the local disk."""
        return self.extract(f"{repository}/first.caidx", target)

    def extract(self, index: str, target: Path, *options: str) -> Command:
        """`extract`; the chunk store is found beside the index."""
        return Command(["casync", "extract", *options, index, str(target)])


def archive(tree: Path, compressor: str, target: Path) -> Command:
    """A tar archive through a compressor."""
    return shell(f"{TAR} -C {quote(str(tree))} -cf - . | {compressor} > {quote(str(target))}")


def unpack(archive_: str, target: Path) -> str:
    """Words of a shell command that unpacks an archive, `-` being its input."""
    return f"{TAR} -xpf {archive_} -C {quote(str(target))}"


def find(tree: Path) -> Command:
    """What a scan has to look at, by the plainest program there is."""
    script = f"exec find {quote(str(tree))} -printf {quote(FIND_FIELDS)} > /dev/null"
    return Command(["sh", "-c", script])


def rsync(source: str, target: Path, *options: str) -> Command:
    """A copy that is the same in everything rsync knows of."""
    return Command(["rsync", "-aHAX", "--numeric-ids", "--stats", *options, source, f"{target}/"])


def old_practice(tree: Path, base: Path, scratch: Path) -> Command:
    """A differential archive as it is made without an index: unpack the base, compare, pack."""
    new = quote(str(tree))
    decompress = "gzip -dc" if base.suffix == ".gz" else "cat"
    return shell(
        f"mkdir base; {decompress} {quote(str(base))} | {unpack('-', Path('base'))}; "
        f"rsync -aHAXn8 --delete --out-format='%o %n' {new}/ base/ > changes; "
        f"sed -n 's/^send //p' changes > list; "
        f'{TAR} -C {new} --no-recursion --verbatim-files-from -T "$PWD/list" -cf - '
        "| gzip -6 > image-diff.tar.gz",
        scratch,
    )

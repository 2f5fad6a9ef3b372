"""A program that keeps versions, by its command lines; and imgstore as one of them.

All that such a program knows, its caches included, lies in one directory, so that a state can be
copied and put back. The others are in `peers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import Protocol

from measure import Command, shell


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

    def restore(self, repository: Path, target: Path) -> Command:
        """Write the first record into an empty directory."""
        ...

    def verify(self, repository: Path) -> Command | None:
        """Read all that is stored and check it."""
        ...

    def collect(self, repository: Path) -> Command | None:
        """Drop all records but the last, and free their space."""
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

    def first_as(self, compression: str, repository: Path, tree: Path) -> Command:
        """`init` with a compression other than the default, and `commit`."""
        init = self.on(repository, "-q", "init", "--compression", compression)
        return shell(f"{join(init.arguments)}; {join(self.again(repository, tree).arguments)}")

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

    def verify(self, repository: Path) -> Command:
        """`verify`."""
        return self.on(repository, "verify")

    def verify_tree(self, tree: Path) -> Command:
        """`verify` of what was pulled."""
        return Command([*self.command, "verify", str(tree)])

    def collect(self, repository: Path) -> Command:
        """`gc`; space is freed at once, not a day later."""
        return self.on(repository, "gc", "--keep", "1", "--grace", "0")

    def untag_first(self, repository: Path) -> Command:
        """Without a tag the first version is history, which `collect` drops."""
        return self.on(repository, "-q", "untag", "web", "base")

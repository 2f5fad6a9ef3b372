#!/usr/bin/env python3
"""The differential archive as it was made in 2006, beside `imgstore commit` and `export --base`.

    bench/archives.py BEFORE AFTER [--work DIR] [--runs N] [--only edit or upgrade] [--json FILE]
                      [--write-docs]

BEFORE and AFTER are two states of a system tree, such as bench/debian.sh makes; they are only read.
A copy of BEFORE is archived and committed, then changed: by a small edit, and by making it AFTER,
as a dist-upgrade does. Each time `image-diff.tar.gz` is made of it in three ways, in turns:

    the original procedure    every member of the base archive is compared with the directory; what
                              differs, and what is not in the archive, is packed. The base is a tar,
                              or a tar.gz that is decompressed for it
    imgstore                  `imgstore commit`, then `imgstore export --base web:base`

Then the bytes: what GNU tar and `gzip -6` make of the very members that are in imgstore's diff.

Before each run the tree and the store are put back and the disk is synced; neither counts. The base
archives are warm in the page cache. Medians of wall seconds, CPU seconds and bytes. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote
from typing import Any

import tables
from aims import Aim, checklist
from contest import say
from job import SETTLE, set_environment
from machine import machine, machine_text
from measure import Command, floor, measure, run, shell
from small_edit import SmallEdit
from tables import Figures, Row, Table
from workplace import add_work, check_work, working_in

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results" / "archives.json"
PROGRAMS = [["tar", "--version"], ["gzip", "--version"]]
OURS = "imgstore commit, export"
OF_TAR_GZ = "compare with the tar.gz"
OF_TAR = "compare with the tar"
PACK = "tar --numeric-owner --no-recursion --null --verbatim-files-from -cSp"
EXACT = "--format=posix --pax-option=delete=atime,delete=ctime --xattrs --xattrs-include='*' --acls"
"""Times to the nanosecond, attributes and ACLs: what imgstore's archives hold, and no more."""
AIM_SPEED = 20
AIM_SIZE = 1.1


def original(tree: Path, base: Path, scratch: Path) -> Command:
    """The procedure of 2006: `tar --compare` against the archive, then pack what differs."""
    unpacked = f"gzip -dc {quote(str(base))}" if base.suffix == ".gz" else f"cat {quote(str(base))}"
    differs = r"s/: [A-Z][a-z][a-z ]* differs\{0,1\}$//p; s/: Not linked to .*$//p"
    place = quote(str(tree))
    return shell(
        # With -v each member is named on a line of its own, and what differs in it on others. A
        # member that is gone is a warning, and the exit code 1.
        f"{unpacked} | (tar --numeric-owner --quoting-style=literal -C {place} -dvf - "
        "2> gone || [ $? = 1 ]) > compared; "
        f"sed -n '{differs}' compared | sort -u > changed; "
        r"grep -v ' differs\{0,1\}$\|: Not linked to ' compared | sed 's,/$,,' | sort > known; "
        f"(cd {place} && find .) | sort > there; "
        "comm -13 known there > new; comm -23 known there > image-diff.deletions; "
        "sort -u changed new | tr '\\n' '\\0' > list; "
        f"{PACK} -C {place} -T list -f - | gzip -6 > image-diff.tar.gz",
        scratch,
    )


def same_members(tree: Path, archive: Path, scratch: Path) -> Command:
    """GNU tar and gzip on what is in an archive, as often and as exactly as it is there."""
    return shell(
        f"tar --quoting-style=literal -tzf {quote(str(archive))} | sed 's,/$,,' "
        "| tr '\\n' '\\0' > list; "
        f"{PACK} {EXACT} -C {quote(str(tree))} -T list -f - | gzip -6 > image-diff.tar.gz",
        scratch,
    )


@dataclass(frozen=True)
class Change:
    """What happens to the tree; `undo` makes it BEFORE again."""

    key: str
    title: str
    apply: Callable[[int], None]
    undo: Callable[[], None]


class Bench:
    """The tree, its base archives, its store, and the changes of it."""

    def __init__(self, before: Path, after: Path, work: Path, imgstore: Sequence[str]) -> None:
        self.before = before
        self.after = after
        self.tree = work / "tree"
        self.store = work / "store"
        self.scratch = work / "scratch"
        self.imgstore = list(imgstore)
        self.bases = {OF_TAR_GZ: work / "image.tar.gz", OF_TAR: work / "image.tar"}
        say("copying BEFORE, archiving and committing it")
        run(Command(["cp", "-a", "--reflink=auto", str(before), str(self.tree)]))
        self.edit = SmallEdit(self.tree, work)
        tar, packed = self.bases[OF_TAR], self.bases[OF_TAR_GZ]
        # What SystemImager's installers unpack: `tar -cSpf FILE .`, compressed.
        run(shell(f"tar -C {quote(str(self.tree))} --numeric-owner -cSpf {quote(str(tar))} ."))
        run(shell(f"gzip -6 < {quote(str(tar))} > {quote(str(packed))}"))
        time.sleep(SETTLE)
        run(self.commit())

    def on_store(self, *arguments: str) -> list[str]:
        """A command line on the store."""
        return [*self.imgstore, "--store", str(self.store), *arguments]

    def commit(self) -> Command:
        """Record the tree."""
        return Command(self.on_store("-q", "commit", "web", str(self.tree)))

    def export(self, archive: Path, *options: str) -> list[str]:
        """The difference from the base."""
        return self.on_store(
            "-q", "export", "web", "--base", "web:base", "-o", str(archive), *options
        )

    @property
    def changes(self) -> list[Change]:
        """The small edit, and the upgrade."""
        return [
            Change("edit", "a small edit", self.edit.apply, self.edit.undo),
            Change(
                "upgrade",
                "a dist-upgrade",
                lambda _: self._become(self.after),
                lambda: self._become(self.before),
            ),
        ]

    def _become(self, tree: Path) -> None:
        options = ["-aHAX", "--numeric-ids", "--delete"]
        run(Command(["rsync", *options, f"{tree}/", f"{self.tree}/"]))

    def fresh(self) -> Path:
        """An empty directory to work in."""
        run(Command(["rm", "-rf", str(self.scratch)]))
        self.scratch.mkdir()
        return self.scratch

    def contest(self, change: Change, rounds: int) -> Table:
        """All ways in turn, each on the tree as the change left it."""
        names = [OF_TAR_GZ, OF_TAR, OURS]
        rows = {name: Row(name, "") for name in names}
        for number in range(rounds):
            for name in [*names[number % 3 :], *names[: number % 3]]:
                if name == OURS:
                    self._put_back(change, number)
                    archive = self.fresh() / "image-diff.tar.gz"
                    both = f"{join(self.commit().arguments)} && {join(self.export(archive))}"
                    command = shell(both)
                else:
                    self._changed(change, number)
                    archive = self.fresh() / "image-diff.tar.gz"
                    command = original(self.tree, self.bases[name], self.scratch)
                    warm(self.bases[name])
                rows[name].runs.append(timed(command, archive))
                say(f"  {change.key} {number + 1}: {name} {rows[name].runs[-1].wall:.3f} s")
        self._changed(change, rounds)
        sizes = self._sizes(change)
        change.undo()
        return Table(
            change.key,
            f"The diff after {change.title}",
            "`image-diff.tar.gz` of a tree that was changed since its base was archived.",
            OURS,
            "written",
            False,
            [*rows.values(), *sizes],
        )

    def _put_back(self, change: Change, number: int) -> None:
        """The store knows the tree as it was, which then changes."""
        change.undo()
        time.sleep(SETTLE)
        run(self.commit())
        change.apply(number)
        time.sleep(SETTLE)

    def _changed(self, change: Change, number: int) -> None:
        change.apply(number)
        time.sleep(SETTLE)

    def _sizes(self, change: Change) -> list[Row]:
        """The diff at two levels, and the same members by GNU tar and gzip."""
        run(self.commit())
        rows = []
        for name, options in (("export", ()), ("export --level 6", ("--level", "6"))):
            archive = self.fresh().parent / f"{change.key}.tar.gz"
            row = Row(f"imgstore {name}", "the archive alone")
            row.runs.append(timed(Command(self.export(archive, *options)), archive))
            rows.append(row)
        target = self.fresh() / "image-diff.tar.gz"
        row = Row("tar, gzip -6", "the same members")
        row.runs.append(timed(same_members(self.tree, archive, self.scratch), target))
        return [*rows, row]


def timed(command: Command, archive: Path) -> Figures:
    """Run a command that writes an archive, once the disk is quiet."""
    os.sync()
    done = measure(command)
    return Figures(done.wall, done.cpu, done.peak, 0.0, bytes=archive.stat().st_size)


def warm(path: Path) -> None:
    """Bring a file into the page cache."""
    run(shell(f"cat {quote(str(path))} > /dev/null"))


def aims(found: Sequence[Table]) -> list[Aim]:
    """What the project promises about these figures."""
    lines = []
    for table in found:
        medians = {row.name: row.median for row in table.rows}
        if table.key == "edit":
            ratio = medians[OF_TAR_GZ].wall / medians[OURS].wall
            text = f"{AIM_SPEED} times faster than against the tar.gz, after a small edit"
            lines.append(Aim(text, f"{ratio:.0f} times", ratio >= AIM_SPEED))
        theirs = medians["tar, gzip -6"].bytes or 1
        for name, limit in (("export", AIM_SIZE), ("export --level 6", 1.0)):
            ratio = (medians[f"imgstore {name}"].bytes or 0) / theirs
            text = f"{table.key}: `{name}` at most {limit:g} times `gzip -6` of the same members"
            lines.append(Aim(text, f"{ratio:.3f}", ratio <= limit))
    return lines


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure how differential archives are made.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    add_work(parser, "imgstore-archives")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("edit", "upgrade"), help="default: both")
    parser.add_argument("--json", type=Path, help="write the results there as well")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"into {PAGE.name} and {RESULTS.name}"
    )
    options = parser.parse_args()
    check_work(parser, options.work)
    if options.write_docs and options.only:
        parser.error("--write-docs is for both changes in one run")
    return options


def main() -> None:
    """Measure, print the tables, write the results."""
    options = parse()
    program = set_environment()
    with working_in(options.work) as work:
        described = machine(work, PROGRAMS)
        bench = Bench(options.before.resolve(), options.after.resolve(), work, program)
        changes = [each for each in bench.changes if options.only in (None, each.key)]
        found = [bench.contest(change, options.runs) for change in changes]
    parts = [machine_text(described, {}, options.runs), checklist(aims(found))]
    smallest = floor()
    text = "\n".join([*parts, *(table.markdown(smallest) for table in found)])
    print(text)
    document: dict[str, Any] = {
        "machine": described,
        "runs": options.runs,
        "tables": [table.document() for table in found],
    }
    targets = [options.json] if options.json else []
    if options.write_docs:
        tables.write_between_markers(PAGE, text, "archives")
        targets.append(RESULTS)
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How the cost of each verb grows with the number of files, and with the number of versions.

    bench/growth.py [--files 10000,100000,1000000] [--versions 1,10,100] [--results FILE]
                    [--write-docs]

Trees are generated: small files in folders of 250. On each one, first commit, first pull, nothing
changed, a small edit committed, compared and pulled, nothing to do, verify, gc; beside the walk of
`find -printf` and of `rsync -n`. Then a tree of one size gets more and more versions, each with a
hundred changed files. What should stay flat is the cost per file, and with versions all of it but
verify.

Sizes that a file of results has already stay in it, so that they can be measured one by one. A
million files take about 10 GB in --work, which is removed. Needs root.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import growth_report
import report
from archivers import Imgstore
from contest import say
from growing import Growing
from job import SETTLE, set_environment
from machine import machine
from measure import Command, floor, run
from tables import Table
from trees import content, count_tree, disk_usage
from workplace import add_work, check_work, working_in

VERSION_FILES = 10_000
VERSION_CHANGES = 100


def by_files(work: Path, imgstore: Imgstore, files: int, rounds: int) -> dict[str, Any]:
    """All tables of one size."""
    load = round(os.getloadavg()[0], 2)
    say(f"generating {files:,} files")
    growing = Growing(work, imgstore, files, rounds)
    tree = count_tree(growing.tree)
    found = [growing.first(), *growing.all_but_first()]
    return {"tree": tree, "load": load, "tables": documents(found)}


def by_versions(
    work: Path, imgstore: Imgstore, counts: list[int], rounds: int
) -> Iterator[tuple[int, Any]]:
    """One tree and store that get more and more versions; what each number of them costs."""
    say(f"generating {VERSION_FILES:,} files")
    growing = Growing(work, imgstore, VERSION_FILES, rounds)
    paths = sorted((growing.tree / "srv").rglob("*.txt"))
    done = 0
    for count in sorted(counts):
        say(f"making versions up to {count}")
        while done < count:
            for number in range(VERSION_CHANGES if done else 0):
                path = paths[(done * VERSION_CHANGES + number) % len(paths)]
                path.write_bytes(content(done * VERSION_CHANGES + number, 900))
            run(growing.commit())
            done += 1
        time.sleep(SETTLE)
        # What is measured makes versions of its own: they do not count.
        kept = growing.work / "kept"
        run(Command(["cp", "-a", str(growing.store), str(kept)]))
        load = round(os.getloadavg()[0], 2)
        stored = disk_usage(growing.store)
        found = growing.all_but_first()
        yield count, {"load": load, "stored": stored, "tables": documents(found)}
        growing.edit.undo()
        growing.discard(growing.store)
        kept.rename(growing.store)


def documents(found: list[Table]) -> list[dict[str, Any]]:
    """The tables as they are kept."""
    return [table.document() for table in found]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure how costs grow.")

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--files", type=numbers, default=sizes, help="10000,100000,1000000")
    parser.add_argument("--versions", type=numbers, default=[1, 10, 100], help="1,10,100; '': none")
    parser.add_argument("--runs", type=int, default=3, help="rounds; of what writes much fewer")
    add_work(parser, "imgstore-growth")
    parser.add_argument("--results", type=Path, help="put the figures there, among those it has")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"into {report.GROWTH.name} and the page"
    )
    options = parser.parse_args()
    check_work(parser, options.work)
    if options.write_docs:
        options.results = report.GROWTH
    return options


def measure_all(options: argparse.Namespace, work: Path) -> None:
    """Size after size, each kept as soon as it is measured."""
    imgstore = Imgstore(set_environment())
    document = report.read(options.results) if options.results else {}
    document.update(
        machine=machine(work, [["find", "--version"], ["rsync", "--version"]]),
        floor=floor(),
        version_files=VERSION_FILES,
        version_changes=VERSION_CHANGES,
    )

    def keep(by: str, count: int, found: dict[str, Any]) -> None:
        document.setdefault(by, {})[str(count)] = found
        if options.results:
            report.write(options.results, document)

    for files in options.files:
        keep("files", files, by_files(work / f"files-{files}", imgstore, files, options.runs))
    if options.versions:
        place = work / "versions"
        for count, found in by_versions(place, imgstore, options.versions, options.runs):
            keep("versions", count, found)
    print(growth_report.growth_text(document))


def main() -> int:
    """Measure, print, keep."""
    options = parse()
    with working_in(options.work) as work:
        measure_all(options, work)
    if options.write_docs:
        report.write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())

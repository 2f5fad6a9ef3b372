#!/usr/bin/env python3
"""The main job measured from end to end, beside other programs on the same trees.

    bench/run.py BEFORE AFTER [--only KEY]... [--runs N] [--results FILE] [--write-docs]
    bench/run.py --small

BEFORE and AFTER are two states of a system tree, such as bench/debian.sh makes. They are only read;
what is edited is a copy. --small makes two of its own in a few seconds, without a network.

Scenarios are the modules of bench/scenarios, by their names. A table gives the medians over the
rounds of wall seconds, CPU seconds of the command and all its children, peak memory of its largest
process, bytes stored or moved, CPU and memory of the server. Trees are warm in the page cache.
With --only, tables that a file of results has already stay in it, so that a long bench can be run
in pieces; each is written as soon as it is measured.

Needs root (owners, devices, capabilities). A contender that is not installed is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import report
from contest import contest, say
from job import Job, set_environment
from machine import machine
from measure import Failed, floor
from peers import PROGRAMS
from scenarios import PIECES
from trees import count_tree, make_small, warm
from workplace import add_work, check_work, working_in

SMALL_FILES = 4_000
SMALL_SPARSE = 1_000_000_000
SPARSE = 20_000_000_000


def parse() -> argparse.Namespace:
    """The command line."""
    keys = ", ".join(f"{key} ({piece.minutes:g})" for key, piece in PIECES.items())
    parser = argparse.ArgumentParser(
        description="Measure the main job beside other programs.",
        epilog=f"KEYs, and minutes with three rounds on Debian trees: {keys}.",
    )
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--small", action="store_true", help="make small trees, run once")
    parser.add_argument("--files", type=int, default=SMALL_FILES, help="generated, for --small")
    parser.add_argument("--no-real", action="store_true", help="--small without this machine's")
    add_work(parser, "imgstore-bench-work")
    parser.add_argument("--runs", type=int, help="rounds; 3, with --small 1")
    parser.add_argument(
        "--only", action="append", choices=PIECES, metavar="KEY", help="default: all"
    )
    parser.add_argument("--skip", action="append", choices=PIECES, metavar="KEY", default=[])
    parser.add_argument(
        "--peers",
        type=lambda text: [name for name in text.split(",") if name],
        default=list(PROGRAMS),
        metavar="NAMES",
        help=f"which of {','.join(PROGRAMS)}; all that are installed",
    )
    parser.add_argument("--sparse", type=int, help="bytes of the sparse files")
    parser.add_argument("--results", type=Path, help="put the tables there, among those it has")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"put them into {report.MAIN.name} and the page"
    )
    options = parser.parse_args()
    if options.small == bool(options.after) or (options.small and options.write_docs):
        parser.error("name the trees BEFORE and AFTER, or say --small, which writes no page")
    check_work(parser, options.work)
    if options.write_docs:
        options.results = report.MAIN
    elif options.small and options.results is None:
        options.results = report.SMALL
    options.runs = options.runs or (1 if options.small else 3)
    options.sparse = options.sparse or (SMALL_SPARSE if options.small else SPARSE)
    return options


class Outcome:
    """The document that grows table by table, and where it is kept."""

    def __init__(self, document: dict[str, Any], path: Path | None, *, is_whole: bool) -> None:
        self.document = document
        self._path = path
        # A whole run begins anew, but what it does not reach stays as it was.
        self._earlier = report.read(path) if path is not None else {}
        if is_whole and self._earlier.get("trees") != document["trees"]:
            self._earlier = {}
        self.save()

    def add(self, table: dict[str, Any]) -> None:
        """One more table, which is safe from then on."""
        self.document["tables"].append(table)
        self.save()

    def save(self) -> dict[str, Any]:
        """Write it down, and return what was. Raises `report.OtherTrees`."""
        merged = report.merge(self.document, self._earlier, self._path or Path())
        if self._path is not None and merged["tables"]:
            report.write(self._path, merged)
        return merged


def measure_all(options: argparse.Namespace, work: Path) -> bool:
    """Prepare the trees and run the pieces; whether all of them came to their end."""
    if options.small:
        say("making small trees")
        before, after = make_small(work / "trees", options.files, real=not options.no_real)
    else:
        before, after = options.before.resolve(), options.after.resolve()
    command = set_environment()
    job = Job(before, after, work, command, others=options.peers, sparse=options.sparse)
    smallest = floor()
    document = {
        "machine": machine(work),
        "trees": {"BEFORE": count_tree(before), "AFTER": count_tree(after)},
        "floor": smallest,
        "tables": [],
    }
    outcome = Outcome(document, options.results, is_whole=not (options.only or options.skip))
    is_good = True
    for key in options.only or [key for key in PIECES if key not in options.skip]:
        if not options.small:
            say(f"{key}: about {PIECES[key].minutes:g} minutes if nothing else runs")
        # Some machines take back memory that was idle for a while.
        warm(before, after)
        try:
            with PIECES[key].scenarios(job) as scenarios:
                for scenario in scenarios:
                    table = contest(scenario, options.runs)
                    print(table.markdown(smallest), flush=True)
                    outcome.add(table.document())
        except Failed as failure:
            is_good = False
            say(f"{key} failed: {failure}")
    print(report.aims_text(outcome.save(), is_main=options.write_docs))
    return is_good


def main() -> int:
    """Measure, print, keep."""
    options = parse()
    try:
        with working_in(options.work) as work:
            is_good = measure_all(options, work)
    except report.OtherTrees as error:
        say(str(error))
        return 2
    if options.write_docs:
        report.write_page()
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The page of results, made of the files in bench/results.

    bench/report.py

Writes the tables and the plot of docs/performance.md anew, without measuring anything. The
programs that measure do the same with --write-docs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tables
from aims import Found, aims, checklist
from growth_report import growth_found, growth_text
from machine import machine_text
from tables import Table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "growth.svg"
RESULTS = ROOT / "bench" / "results"
MAIN = RESULTS / "main_job.json"
SMALL = RESULTS / "small.json"
GROWTH = RESULTS / "growth.json"
ARCHIVES = RESULTS / "archives.json"
ORDER = [
    "start",
    "first",
    "unchanged",
    "edit",
    "upgrade",
    "diff-edit",
    "diff-update",
    "export-whole",
    "export-edit",
    "export-update",
    "pull",
    "update",
    "update-edit",
    "nothing",
    "verify",
    "verify-tree",
    "gc",
    "sparse",
    "sparse-pull",
    "links-pull",
    "links-update",
    "links-edit",
    "links-nothing",
]
"""The keys of the tables as they are read, in whatever order they were measured."""


class OtherTrees(Exception):
    """Results of one file have to be of the same trees."""


def read(path: Path) -> dict[str, Any]:
    """A file of results; empty if it is not there."""
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(path: Path, document: dict[str, Any]) -> None:
    """A file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def read_tables(document: dict[str, Any]) -> list[Table]:
    """The tables of a file of results."""
    return [Table.read(each) for each in document.get("tables", ())]


def merge(document: dict[str, Any], into: dict[str, Any], path: Path) -> dict[str, Any]:
    """Put the tables of a run in the place of their like. Raises `OtherTrees`.

    What the file says of the machine is of its last run; load and rounds stand at each table.
    """
    if not into:
        return document
    if into["trees"] != document["trees"]:
        raise OtherTrees(f"{path} is of other trees: remove it, or name another with --results")
    fresh = {table["scenario"]: table for table in document["tables"]}
    kept = [fresh.pop(table["scenario"], table) for table in into["tables"]]
    floor = max(into["floor"], document["floor"])
    merged = sorted([*kept, *fresh.values()], key=lambda table: ORDER.index(table["scenario"]))
    return {**into, **document, "floor": floor, "tables": merged}


def main_text(document: dict[str, Any]) -> str:
    """Machine, trees and tables of the scenarios."""
    parts = [machine_text(document["machine"], document["trees"])]
    parts += [table.markdown(document["floor"]) for table in read_tables(document)]
    return "\n".join(parts)


def aims_text(document: dict[str, Any], *, is_main: bool = True) -> str:
    """The aims, held against these results, and if they are the page's against all of its."""
    found = Found(read_tables(document))
    if not is_main:
        return checklist(aims(found, Found([]), {}))
    return checklist(aims(found, _archives(), growth_found(read(GROWTH))))


def _archives() -> Found:
    """The results of bench/archives.py: of one run, or of several that were put together."""
    document = json.loads(ARCHIVES.read_text()) if ARCHIVES.exists() else []
    parts = document if isinstance(document, list) else [document]
    return Found(table for part in parts for table in read_tables(part))


def write_page() -> None:
    """Make the page what the results are."""
    document = read(MAIN)
    if document:
        tables.write_between_markers(PAGE, aims_text(document), "aims")
        tables.write_between_markers(PAGE, main_text(document), "main_job")
    growth = read(GROWTH)
    if growth:
        tables.write_between_markers(PAGE, growth_text(growth, PLOT), "growth")


if __name__ == "__main__":
    write_page()

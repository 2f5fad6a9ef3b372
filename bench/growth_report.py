"""What growth looks like on the page: seconds, cost per file, memory; and a picture of it.

The results hold, for each number of files and each number of versions, tables like those of the
other scenarios.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tables
from aims import OURS, Found
from machine import machine_text
from plot import Line, draw
from programs import ZSTD
from tables import MB, Figures, Table


class Job(NamedTuple):
    """A row: which figures, what they are called, and the color of their line, if it has one."""

    key: str
    contender: str
    name: str
    color: str = ""


JOBS = [
    Job("first", OURS, "first commit", "#c0392b"),
    Job("first", ZSTD, ZSTD, "#c9a0a0"),
    Job("pull", OURS, "first pull", "#8e6bbf"),
    Job("unchanged", OURS, "nothing changed", "#1f7a4d"),
    Job("unchanged", "find -printf", "find -printf", "#777777"),
    Job("unchanged", "rsync -n", "rsync -n", "#c98a1b"),
    Job("edit", OURS, "commit after a small edit"),
    Job("diff", OURS, "diff of it"),
    Job("update", OURS, "pull of it"),
    Job("nothing", OURS, "pull, nothing to do"),
    Job("verify", OURS, "verify the store", "#2471a3"),
    Job("gc", OURS, "gc", "#117a8b"),
]


def growth_found(document: dict[str, Any], by: str = "files") -> dict[int, Found]:
    """The figures by number of files, or by number of versions."""
    return {
        int(count): Found(Table.read(each) for each in part["tables"])
        for count, part in sorted(document.get(by, {}).items(), key=lambda item: int(item[0]))
    }


def growth_text(document: dict[str, Any], plot: Path | None = None) -> str:
    """Markdown; the picture is written to `plot`."""
    parts = [machine_text(document["machine"], {})]
    found = growth_found(document)
    if found:
        parts.append(f"### By number of files\n\n{_sizes(document)}")
        parts.append(f"Wall seconds.\n\n{_grid(found, _seconds, 'files')}")
        parts.append(
            "Microseconds per file of the tree, which should not grow. What does not look at "
            f"every file is left out.\n\n{_grid(found, _cost, 'files', colored=True)}"
        )
        parts.append(f"Peak memory, MB.\n\n{_grid(found, _peak, 'files')}")
        if plot is not None and len(found) > 1:
            plot.write_text(_picture(found))
            parts.append(f"![cost per file against the number of files]({plot.name})\n")
    versions = growth_found(document, "versions")
    if versions:
        parts.append(
            "### By number of versions\n\n"
            f"A tree of {document['version_files']:,} files; each version changes the same number "
            f"of files, {document['version_changes']:,}.\n"
        )
        parts.append(f"Wall seconds.\n\n{_grid(versions, _seconds, 'versions')}")
        parts.append(f"Peak memory, MB.\n\n{_grid(versions, _peak, 'versions')}")
        stored = {count: part["stored"] for count, part in document["versions"].items()}
        shown = ", ".join(
            f"{int(count):,}: {stored[count] / MB:.1f} MB" for count in sorted(stored, key=int)
        )
        parts.append(f"Stored by number of versions: {shown}.\n")
    return "\n".join(parts)


def _sizes(document: dict[str, Any]) -> str:
    parts = sorted(document["files"].items(), key=lambda item: int(item[0]))
    shown = "; ".join(
        f"{int(count):,} files in {part['tree']['entries'] - part['tree']['files']:,} directories, "
        f"{part['tree']['bytes'] / MB:,.0f} MB, load {part['load']:g}"
        for count, part in parts
    )
    return f"Generated trees: {shown}.\n"


def _grid(
    found: dict[int, Found],
    show: Callable[[Figures, int], str],
    what: str,
    *,
    colored: bool = False,
) -> str:
    jobs = [
        job
        for job in JOBS
        if (job.color or not colored)
        and any(each.figures(job.key, job.contender) for each in found.values())
    ]
    columns = {"": [job.name for job in jobs]}
    for count, each in found.items():
        cells = []
        for job in jobs:
            figures = each.figures(job.key, job.contender)
            cells.append("" if figures is None else show(figures, count))
        columns[f"{count:,} {what if count > 1 else what[:-1]}"] = cells
    return tables.grid(columns)


def _seconds(figures: Figures, count: int) -> str:
    del count
    return tables.seconds(figures.wall)


def _peak(figures: Figures, count: int) -> str:
    del count
    return f"{max(figures.peak, figures.server_peak or 0) / MB:.0f}"


def _cost(figures: Figures, count: int) -> str:
    return f"{figures.wall / count * 1e6:.1f}"


def _picture(found: dict[int, Found]) -> str:
    lines = []
    for job in JOBS:
        points = [
            (float(count), figures.wall / count * 1e6)
            for count, each in found.items()
            if job.color and (figures := each.figures(job.key, job.contender)) is not None
        ]
        if points:
            lines.append(Line(job.name, job.color, points, is_dashed=job.contender != OURS))
    return draw("Microseconds per file: flat is good", "files in the tree", lines)

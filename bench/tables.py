"""Results as JSON and as markdown tables."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MARKERS = ("<!-- main_job: begin -->", "<!-- main_job: end -->")
MB = 1_000_000


@dataclass(frozen=True)
class Figures:
    """What one run cost. Seconds and bytes; None where there is nothing to say.

    `sync` is how long it took right afterwards until all of it was on the disk.
    """

    wall: float
    cpu: float
    peak: int
    sync: float
    server_cpu: float | None = None
    server_peak: int | None = None
    bytes: int | None = None
    requests: int | None = None


@dataclass
class Row:
    """A contender's runs. `differences`: paths that came out wrong, if that was looked at."""

    name: str
    note: str
    runs: list[Figures] = field(default_factory=list)
    differences: int | None = None

    @property
    def median(self) -> Figures:
        """Each figure's median by itself."""
        columns = {
            name: [value for run in self.runs if (value := getattr(run, name)) is not None]
            for name in Figures.__dataclass_fields__
        }
        found = {name: statistics.median(values) for name, values in columns.items() if values}
        return Figures(**found)


@dataclass
class Table:
    """A scenario's rows. `reference` is the row that the ratios are to."""

    key: str
    title: str
    about: str
    reference: str
    bytes_are: str
    shows_sync: bool
    rows: list[Row]
    earlier: dict[str, Any] | None = None
    """The document this was read from, when an earlier run measured it."""

    @classmethod
    def read(cls, document: dict[str, Any]) -> Table:
        """The table of an earlier run: of each row only the medians are known."""
        rows = [
            Row(found["name"], found["note"], [Figures(**found["median"])], found["differences"])
            for found in document["contenders"]
        ]
        keys = ("scenario", "title", "about", "reference", "bytes_are", "shows_sync")
        return cls(*(document[key] for key in keys), rows, earlier=document)

    def row(self, name: str) -> Row | None:
        """The row of a contender that ran."""
        return next((row for row in self.rows if row.name == name and row.runs), None)

    def document(self) -> dict[str, Any]:
        """For JSON: medians and the wall seconds of every run."""
        if self.earlier is not None:
            return self.earlier
        return {
            "scenario": self.key,
            "title": self.title,
            "about": self.about,
            "shows_sync": self.shows_sync,
            "reference": self.reference,
            "bytes_are": self.bytes_are,
            "contenders": [
                {
                    "name": row.name,
                    "note": row.note,
                    "median": _known(asdict(row.median)),
                    "wall_runs": [round(run.wall, 4) for run in row.runs],
                    "cpu_runs": [round(run.cpu, 4) for run in row.runs],
                    "differences": row.differences,
                }
                for row in self.rows
                if row.runs
            ],
        }

    def markdown(self, smallest: int) -> str:
        """The table with its heading; `smallest` is the memory that can't be told from less."""
        rows = [row for row in self.rows if row.runs]
        base = self.row(self.reference)
        columns: dict[str, list[str]] = {"": [row.name for row in rows]}
        medians = [row.median for row in rows]
        columns["wall s"] = [_seconds(each.wall) for each in medians]
        if base is not None:
            ratios = [each.wall / base.median.wall for each in medians]
            columns[f"to {self.reference}"] = [f"{ratio:.2f}" for ratio in ratios]
        columns["CPU s"] = [_seconds(each.cpu) for each in medians]
        columns["server CPU s"] = [_seconds(each.server_cpu) for each in medians]
        columns["peak MB"] = [_peak(each.peak, smallest) for each in medians]
        columns["server peak MB"] = [_peak(each.server_peak, 0) for each in medians]
        columns[f"MB {self.bytes_are}"] = [_megabytes(each.bytes) for each in medians]
        columns["requests"] = [_count(each.requests) for each in medians]
        if self.shows_sync:
            columns["then sync s"] = [_seconds(each.sync) for each in medians]
        text = f"### {self.title}\n\n{self.about}\n\n{_grid(columns)}"
        notes = [f"{row.name}: {note}." for row in self.rows if (note := _note(row))]
        return text + ("\n" + " ".join(notes) + "\n" if notes else "")


def _note(row: Row) -> str:
    parts = [row.note] if row.note else []
    if row.differences:
        parts.append(f"{row.differences} paths came out different")
    return "; ".join(parts)


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in figures.items()
        if value is not None
    }


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _peak(value: int | None, smallest: int) -> str:
    if value is None:
        return ""
    return f"{value / MB:.0f}" if value > smallest * 1.1 else f"under {smallest * 1.1 / MB:.0f}"


def _megabytes(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / MB:,.1f}" if value >= MB else f"{value / MB:.3f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _grid(columns: dict[str, list[str]]) -> str:
    """Markdown of the columns that hold anything, the first to the left, the rest to the right."""
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [list(shown), ["---"] + ["---:"] * (len(shown) - 1)]
    lines += [list(cells) for cells in zip(*shown.values(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def checklist(lines: Iterable[tuple[str, str, bool]]) -> str:
    """Aims, what was measured, and whether they are met."""
    rows = [(aim, found, "yes" if met else "no") for aim, found, met in lines]
    if not rows:
        return ""
    aims, found, met = (list(column) for column in zip(*rows, strict=True))
    return f"### Aims\n\n{_grid({'aim': aims, 'measured': found, 'met': met})}"


def machine(work: Path, programs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What the figures depend on. `programs` are commands that print a version."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    kind = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE", "-T", work], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory[1]) // 1000 if memory else None,
        "kernel": platform.release(),
        "file_system": next(iter(kind.stdout.split()), ""),
        "python": platform.python_version(),
        "python_build": sys.version.partition("[")[2].rstrip("]"),
        "load": [round(load, 2) for load in os.getloadavg()],
        "programs": {program[0]: _version(program) for program in programs},
    }


def _version(program: Sequence[str]) -> str:
    try:
        done = subprocess.run(program, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "missing"
    first = next(iter((done.stdout or done.stderr).splitlines()), "")
    match = re.search(r"\d+(\.\d+)+", first) or re.search(r"\d+", first)
    return match[0] if match else first


def machine_text(described: dict[str, Any], trees: dict[str, dict[str, int]], runs: int) -> str:
    """The machine and the trees in a paragraph each."""
    programs = ", ".join(f"{name} {number}" for name, number in described["programs"].items())
    text = (
        f"{described['cpu']}, {described['cores']} cores, {described['memory_mb'] / 1000:.0f} GB; "
        f"Linux {described['kernel']}, {described['file_system']}; Python {described['python']}. "
        f"Load when it began {described['load'][0]}, medians of {runs} "
        f"{'run' if runs == 1 else 'runs'}. {programs}.\n"
    )
    if not trees:
        return text
    text += "\n| tree | entries | files | MB |\n| --- | ---: | ---: | ---: |\n"
    return text + "".join(
        f"| {name} | {count['entries']:,} | {count['files']:,} | {count['bytes'] / MB:,.0f} |\n"
        for name, count in trees.items()
    )


def write_between_markers(page: Path, text: str, markers: tuple[str, str] = MARKERS) -> None:
    """Replace what stands between the markers of a page. Raises `ValueError` without them."""
    begin, end = markers
    old = page.read_text()
    before, _, rest = old.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no markers {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")

"""Results as JSON and as markdown tables."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    group: str = ""
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
    """A scenario's rows. `reference` names the row that the ratios are to, in each group its own.

    `load` is that of the machine when it began.
    """

    key: str
    title: str
    about: str
    reference: str
    bytes_are: str
    shows_sync: bool
    rows: list[Row]
    rounds: int = 0
    load: float = 0.0
    earlier: dict[str, Any] | None = None
    """The document this was read from, when an earlier run measured it."""

    @classmethod
    def read(cls, document: dict[str, Any]) -> Table:
        """The table of an earlier run: of each row only the medians are known."""
        rows = [
            Row(
                found["name"],
                found["note"],
                found.get("group", ""),
                [Figures(**found["median"])] if found["median"] else [],
                found["differences"],
            )
            for found in document["contenders"]
        ]
        keys = ("scenario", "title", "about", "reference", "bytes_are", "shows_sync")
        when = (document.get("rounds", 0), document.get("load", 0.0))
        return cls(*(document[key] for key in keys), rows, *when, earlier=document)

    def row(self, name: str, group: str = "") -> Row | None:
        """The row of a contender that ran."""
        rows = (row for row in self.rows if (row.name, row.group) == (name, group))
        return next((row for row in rows if row.runs), None)

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
            "rounds": self.rounds,
            "load": self.load,
            "contenders": [
                {
                    "name": row.name,
                    "group": row.group,
                    "note": row.note,
                    "median": _known(asdict(row.median)) if row.runs else None,
                    "wall_runs": [round(run.wall, 4) for run in row.runs],
                    "cpu_runs": [round(run.cpu, 4) for run in row.runs],
                    "differences": row.differences,
                }
                for row in self.rows
            ],
        }

    def markdown(self, smallest: int) -> str:
        """The table with its heading; `smallest` is the memory that can't be told from less."""
        rows = [row for row in self.rows if row.runs]
        columns: dict[str, list[str]] = {"": [row.name for row in rows]}
        if any(row.group for row in rows):
            columns = {" ": [row.group for row in rows], **columns}
        medians = [row.median for row in rows]
        columns["wall s"] = [seconds(each.wall) for each in medians]
        columns[f"to {self.reference}"] = [self._ratio(row) for row in rows]
        columns["CPU s"] = [seconds(each.cpu) for each in medians]
        columns["server CPU s"] = [seconds(each.server_cpu) for each in medians]
        columns["peak MB"] = [_peak(each.peak, smallest) for each in medians]
        columns["server peak MB"] = [_peak(each.server_peak, 0) for each in medians]
        columns[f"MB {self.bytes_are}"] = [_megabytes(each.bytes) for each in medians]
        columns["requests"] = [_count(each.requests) for each in medians]
        if self.shows_sync:
            columns["then sync s"] = [seconds(each.sync) for each in medians]
        when = f" {_rounds(self.rounds)}, load {self.load:g}." if self.rounds else ""
        text = f"### {self.title}\n\n{self.about}{when}\n\n{grid(columns)}"
        notes = dict.fromkeys(f"{row.name}: {note}." for row in self.rows if (note := _note(row)))
        return text + ("\n" + " ".join(notes) + "\n" if notes else "")

    def _ratio(self, row: Row) -> str:
        base = self.row(self.reference, row.group)
        return "" if base is None else f"{row.median.wall / base.median.wall:.2f}"


def _rounds(rounds: int) -> str:
    return "One run" if rounds == 1 else f"Medians of {rounds} runs"


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


def seconds(value: float | None) -> str:
    """Three digits or so; nothing for None."""
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


def grid(columns: dict[str, list[str]]) -> str:
    """Markdown of the columns that hold anything: names to the left, figures to the right."""
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    rules = ["---" if not name.strip() or name == "aim" else "---:" for name in shown]
    lines = [list(shown), rules]
    lines += [list(cells) for cells in zip(*shown.values(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markers(name: str) -> tuple[str, str]:
    """What stands before and after the part of a page that a program writes."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write_between_markers(page: Path, text: str, name: str) -> None:
    """Replace what stands between the markers of a page. Raises `ValueError` without them."""
    begin, end = markers(name)
    old = page.read_text()
    before, _, rest = old.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no markers {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")

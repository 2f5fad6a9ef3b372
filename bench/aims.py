"""What the project promises about its speed and bytes, held against what was measured.

Every aim is there whether it was measured or not, so that none is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import tables
from programs import GZIP, LZ4, ZSTD
from tables import MB, Figures, Table

OURS = "imgstore"
OURS_LZ4 = "imgstore, lz4"
UNTAR = "curl, tar -xz"
DECOMPRESS = "zstd -d"
RSYNC_SYNC = "rsync, then sync"
ORIGINAL = "compare with the tar.gz"
"""The row of the original procedure in the tables of bench/archives.py."""

NOT_MEASURED = "not measured"
FLAT = 1.25
"""Times the cost per file of a small tree that a large one may cost and still count as flat."""


class Aim(NamedTuple):
    """What is to be reached, what was found, and whether that is it; None: nobody looked."""

    text: str
    found: str = NOT_MEASURED
    met: bool | None = None


class Found:
    """Figures by the keys of their tables and the names of their rows."""

    def __init__(self, found: Iterable[Table]) -> None:
        self._tables = {table.key: table for table in found}

    def figures(self, key: str, name: str) -> Figures | None:
        """The medians of a row."""
        row = self._tables[key].row(name) if key in self._tables else None
        return None if row is None else row.median

    def wall(self, key: str, name: str) -> float | None:
        """Seconds."""
        figures = self.figures(key, name)
        return None if figures is None else figures.wall

    def bytes(self, key: str, name: str) -> int | None:
        """Bytes stored or moved."""
        figures = self.figures(key, name)
        return None if figures is None else figures.bytes

    def fastest(self, key: str, *, besides: Iterable[str]) -> tuple[str, float] | None:
        """The quickest of the other programs, and its seconds."""
        if key not in self._tables:
            return None
        left_out = tuple(besides)
        rows = [
            (row.median.wall, row.name)
            for row in self._tables[key].rows
            if row.runs and not row.name.startswith(OURS) and row.name not in left_out
        ]
        return min(rows)[::-1] if rows else None

    def ours(self) -> Iterator[Figures]:
        """All rows of this project."""
        for table in self._tables.values():
            for row in table.rows:
                if row.runs and row.name.startswith(OURS):
                    yield row.median

    def against(self, key: str, reference: str) -> dict[str, dict[str, float]]:
        """In each group of a table, the seconds by name; only groups that have both."""
        groups: dict[str, dict[str, float]] = {}
        for row in self._tables[key].rows if key in self._tables else ():
            if row.runs:
                groups.setdefault(row.group, {})[row.name] = row.median.wall
        return {name: rows for name, rows in groups.items() if OURS in rows and reference in rows}


def aims(found: Found, archives: Found, growth: Mapping[int, Found]) -> list[Aim]:
    """All aims. `growth` has the figures of trees by their number of files."""
    return [
        *_recording(found),
        *_large(growth, found.wall("start", "python -c pass")),
        *_small_edit(found, archives),
        *_bytes(found),
        *_pulling(found),
        *_links(found),
        _peak([found, archives, *growth.values()]),
        _below("`imgstore --help`", found.wall("start", "imgstore --help"), 0.1),
        *_growth(growth),
    ]


def _ratio(text: str, mine: float | None, theirs: float | None, limit: float) -> Aim:
    """`mine` is at most `limit` times `theirs`."""
    if mine is None or not theirs:
        return Aim(text)
    return Aim(text, f"{mine / theirs:.2f}", mine / theirs <= limit)


def _below(text: str, seconds: float | None, limit: float) -> Aim:
    shown = f"{text} under {limit * 1000:.0f} ms" if limit < 0.2 else f"{text} under {limit:g} s"
    if seconds is None:
        return Aim(shown)
    return Aim(shown, f"{seconds * 1000:.0f} ms", seconds < limit)


def _recording(found: Found) -> Iterator[Aim]:
    first = found.wall("first", OURS)
    text = "first commit within 1.2 times `tar`, `zstd -T0 -3`"
    yield _ratio(text, first, found.wall("first", ZSTD), 1.2)
    for name in ("restic", "borg zstd,3", "casync"):
        text = f"first commit in half the time of {name.split()[0]}"
        yield _ratio(text, first, found.wall("first", name), 0.5)
    text = "first commit with lz4 within 1.2 times `tar`, `lz4`"
    yield _ratio(text, found.wall("first", OURS_LZ4), found.wall("first", LZ4), 1.2)
    yield from _unchanged(found, "", found.wall("start", "python -c pass"))


def _unchanged(found: Found, where: str, python: float | None) -> Iterator[Aim]:
    ours, listed = found.wall("unchanged", OURS), found.wall("unchanged", "find -printf")
    text = f"nothing changed{where} within 1.5 times `find -printf`, plus start-up of Python"
    if ours and listed and python:
        limit = 1.5 * listed + python
        yield Aim(text, f"{ours:.3f} s, {limit:.3f} s allowed", ours <= limit)
    else:
        yield Aim(text)
    fastest = found.fastest("unchanged", besides=["find -printf"])
    text = f"nothing changed{where} faster than every peer"
    if ours and fastest:
        yield Aim(text, f"{ours:.3f} s, {fastest[0]} {fastest[1]:.3f} s", ours < fastest[1])
    else:
        yield Aim(text)


def _large(growth: Mapping[int, Found], python: float | None) -> Iterator[Aim]:
    yield from _unchanged(growth.get(1_000_000, Found([])), " in 1,000,000 files", python)


def _small_edit(found: Found, archives: Found) -> Iterator[Aim]:
    commit, exported = found.wall("edit", OURS), found.wall("export-edit", OURS)
    both = commit + exported if commit and exported else None
    yield _below("small edit: commit and export of the diff", both, 0.45)
    text = "small edit: 20 times faster than the original procedure against a tar.gz"
    theirs = archives.wall("edit", ORIGINAL)
    ours = archives.wall("edit", "imgstore commit, export")
    met = f"{theirs / ours:.0f} times" if theirs and ours else NOT_MEASURED
    yield Aim(text, met, theirs / ours >= 20 if theirs and ours else None)


def _bytes(found: Found) -> Iterator[Aim]:
    stored, moved = found.bytes("first", OURS), found.bytes("pull", OURS)
    for peer, limit in ((GZIP, 0.92), ("restic", 0.9), ("casync", 0.9)):
        theirs = found.bytes("first", peer)
        yield _ratio(f"stored at most {limit:g} of {peer}", stored, theirs, limit)
        yield _ratio(f"first pull moves at most {limit:g} of {peer}", moved, theirs, limit)
    update = found.bytes("update", OURS)
    text = "update over a dist-upgrade moves at most 100 MB"
    yield Aim(text, f"{update / MB:.1f} MB", update <= 100 * MB) if update else Aim(text)
    edit = found.figures("update-edit", OURS)
    text = "update over a small edit: under 100 KB, at most 8 requests"
    if edit is None or edit.bytes is None or edit.requests is None:
        yield Aim(text)
    else:
        shown = f"{edit.bytes / 1000:.0f} KB, {edit.requests:.0f} requests"
        yield Aim(text, shown, edit.bytes < 100_000 and edit.requests <= 8)


def _pulling(found: Found) -> Iterator[Aim]:
    pulled = found.wall("pull", OURS)
    yield _ratio(
        "first pull faster than `curl image.tar.gz`, `tar -xz`",
        pulled,
        found.wall("pull", UNTAR),
        1,
    )
    yield _ratio("first pull faster than rsync", pulled, found.wall("pull", "rsync"), 1)
    yield _ratio(
        "first pull faster than rsync and `sync`, as durable",
        pulled,
        found.wall("pull", RSYNC_SYNC),
        1,
    )
    copied, opened = found.wall("pull", "cp -a"), found.wall("pull", DECOMPRESS)
    both = copied + opened if copied and opened else None
    yield _ratio("first pull within 1.3 times `cp -a` and decompression", pulled, both, 1.3)
    updated = found.wall("update", OURS)
    yield _ratio("update faster than rsync", updated, found.wall("update", "rsync"), 1)
    idle = found.figures("nothing", OURS)
    text = "nothing to do: 1 request, under 150 ms"
    if idle is None or idle.requests is None:
        yield Aim(text)
    else:
        shown = f"{idle.requests:.0f} request, {idle.wall * 1000:.0f} ms"
        yield Aim(text, shown, idle.requests == 1 and idle.wall < 0.15)


def _links(found: Found) -> Iterator[Aim]:
    """The link on which we do worst against the quickest of the others."""
    for key, what in (
        ("links-pull", "first pull"),
        ("links-update", "update"),
        ("links-edit", "small edit"),
        ("links-nothing", "nothing to do"),
    ):
        text = f"{what} over every shaped link faster than every peer"
        ratios = []
        for group, rows in found.against(key, "rsync").items():
            theirs = min(wall for name, wall in rows.items() if not name.startswith(OURS))
            ratios.append((rows[OURS] / theirs, group))
        if ratios:
            worst, group = max(ratios)
            yield Aim(text, f"{worst:.2f} at worst ({group})", worst < 1)
        else:
            yield Aim(text)


def _peak(all_found: Iterable[Found]) -> Aim:
    text = "peak memory 300 MB, either side, at any size"
    peaks = [
        max(figures.peak, figures.server_peak or 0)
        for found in all_found
        for figures in found.ours()
    ]
    if not peaks:
        return Aim(text)
    return Aim(text, f"{max(peaks) / MB:.0f} MB", max(peaks) <= 300 * MB)


def _growth(growth: Mapping[int, Found]) -> Iterator[Aim]:
    sizes = sorted(growth)
    for key, what in (("first", "first commit"), ("unchanged", "nothing changed")):
        text = f"{what}: cost per file flat, within {FLAT:g} times"
        costs = [(files, cost) for files in sizes if (cost := growth[files].wall(key, OURS))]
        if len(costs) < 2:
            yield Aim(text)
            continue
        (few, low), (many, high) = costs[0], costs[-1]
        ratio = (high / many) / (low / few)
        yield Aim(text, f"{ratio:.2f} from {few:,} to {many:,} files", ratio <= FLAT)


def checklist(lines: Iterable[Aim]) -> str:
    """The aims as a table."""
    rows = [(aim.text, aim.found, {True: "yes", False: "no", None: ""}[aim.met]) for aim in lines]
    texts, found, met = (list(column) for column in zip(*rows, strict=True))
    return f"### Aims\n\n{tables.grid({'aim': texts, 'measured': found, 'met': met})}"

"""A picture of when the last node was done, against how many there were: SVG, both axes log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 60
COLORS = {"http": "#c0392b", "rsync": "#8e6bbf", "swarm": "#1f7a4d", "bound": "#555555"}
NAMES = {
    "http": "HTTP alone",
    "rsync": "rsync daemon",
    "swarm": "imgstore, swarm",
    "bound": "lower bound",
}


def write_plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the runs without trouble as times of the bound of one node: links differ in speed."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["size"])):
        if not row["trouble"] and row["last"]:
            found[row["contender"], row["nodes"]] = row  # the largest there is
    path.write_text(draw(sorted(found.values(), key=lambda row: int(row["nodes"]))))


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """The SVG."""
    counts = sorted({row["nodes"] for row in rows})
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        alone = row["size"] * 8 / 1e6 / row["mbit"]
        lines.setdefault(row["contender"], []).append((row["nodes"], row["last"] / alone))
        lines.setdefault("bound", []).append((row["nodes"], row["bound"] / alone))
    highest = max((value for line in lines.values() for _, value in line), default=1.0)
    top = 10 ** math.ceil(math.log10(max(highest, 2)))

    def across(count: float) -> float:
        span = math.log(max(counts)) - math.log(min(counts)) or 1.0
        return LEFT + (math.log(count) - math.log(min(counts))) / span * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        low = 0.8
        share = (math.log(value) - math.log(low)) / (math.log(top) - math.log(low))
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        (
            f'<text x="{LEFT}" y="22" font-size="15">The last node of a crowd, in times of what '
            "one node alone needs at least</text>"
        ),
    ]
    for value in _ticks(top):
        parts += [
            (
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" '
                'stroke="#dddddd"/>'
                f'<text x="{LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
            )
        ]
    parts += [
        f'<text x="{across(count):.1f}" y="{HEIGHT - BOTTOM + 20}" '
        f'text-anchor="middle">{count}</text>'
        for count in counts
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 16}" text-anchor="middle">nodes that update in the '
        "same moment</text>"
    )
    places: list[float] = []
    for name, line in sorted(lines.items(), key=lambda item: -item[1][-1][1]):
        points = sorted(set(line))
        drawn = " ".join(f"{across(count):.1f},{up(value):.1f}" for count, value in points)
        dash = ' stroke-dasharray="6 4"' if name == "bound" else ""
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{COLORS[name]}" '
            f'stroke-width="2"{dash}/>'
        )
        parts += [
            f'<circle cx="{across(count):.1f}" cy="{up(value):.1f}" r="3" fill="{COLORS[name]}"/>'
            for count, value in points
        ]
        height = up(points[-1][1]) + 4
        while any(abs(height - other) < 15 for other in places):
            height += 4
        places.append(height)
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{height:.1f}" fill="{COLORS[name]}">'
            f"{NAMES[name]}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(top: float) -> list[float]:
    found = []
    decade = 1.0
    while decade <= top:
        found += [decade * step for step in (1, 2, 5) if decade * step <= top]
        decade *= 10
    return found

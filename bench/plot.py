"""Lines over logarithmic axes, as SVG: for pages of results, without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 60
_APART = 15
"""Pixels between the names at the ends of two lines."""


class Line(NamedTuple):
    """Points by their values across and up, all above 0."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    is_dashed: bool = False


def draw(title: str, across_is: str, lines: Sequence[Line]) -> str:
    """The SVG. There is a tick across for every value that a line has."""
    values = [value for line in lines for _, value in line.points]
    counts = sorted({count for line in lines for count, _ in line.points})
    low, high = min(values) * 0.8, max(values) * 1.25

    def across(count: float) -> float:
        span = math.log(counts[-1] / counts[0]) or 1.0
        return LEFT + math.log(count / counts[0]) / span * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        share = math.log(value / low) / math.log(high / low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, 'font-size="15"'),
        _text(middle, HEIGHT - 16, across_is, 'text-anchor="middle"'),
    ]
    for value in _ticks(low, high):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" '
            'stroke="#dddddd"/>'
        )
        parts.append(_text(LEFT - 8, up(value) + 4, f"{value:g}", 'text-anchor="end"'))
    parts += [
        _text(across(count), HEIGHT - BOTTOM + 20, f"{count:,.0f}", 'text-anchor="middle"')
        for count in counts
    ]
    place = -math.inf
    for line in sorted(lines, key=lambda line: -line.points[-1][1]):
        points = [(across(count), up(value)) for count, value in sorted(line.points)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if line.is_dashed else ""
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{line.color}" stroke-width="2"{dash}/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.color}"/>' for x, y in points
        ]
        place = max(points[-1][1] + 4, place + _APART)
        parts.append(_text(WIDTH - RIGHT + 8, place, line.name, f'fill="{line.color}"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{text}</text>'


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return [value for value in found if low <= value <= high]

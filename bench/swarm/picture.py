"""A picture of when the last node was done, against how many there were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plot import Line, draw

COLORS = {"http": "#c0392b", "rsync": "#8e6bbf", "swarm": "#1f7a4d", "bound": "#555555"}
NAMES = {
    "http": "HTTP alone",
    "rsync": "rsync daemon",
    "swarm": "imgstore, swarm",
    "bound": "lower bound",
}
TITLE = "The last node of a crowd, in times of what one node alone needs at least"


def write_plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the runs without trouble as times of the bound of one node: links differ in speed."""
    largest: dict[tuple[str, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["size"])):
        if not row["trouble"] and row["last"]:
            largest[row["contender"], row["nodes"]] = row
    points: dict[str, set[tuple[float, float]]] = {}
    for (name, nodes), row in largest.items():
        alone = row["size"] * 8 / 1e6 / row["mbit"]
        points.setdefault(name, set()).add((nodes, row["last"] / alone))
        points.setdefault("bound", set()).add((nodes, row["bound"] / alone))
    lines = [
        Line(NAMES[name], COLORS[name], sorted(found), is_dashed=name == "bound")
        for name, found in points.items()
    ]
    path.write_text(draw(TITLE, "nodes that update in the same moment", lines))

"""Figures of crowds as markdown, and put together from several runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

NAMES = {"http": "HTTP", "swarm": "**swarm**", "rsync": "rsync daemon, `-z`"}
TROUBLES = {
    "killed": "30 % of the nodes killed at half time, started again 2 s later",
    "corrupt": "a peer that answers with zeros",
    "server": "the server killed when each piece was whole somewhere",
    "late": "a quarter of the nodes a minute later (their own time)",
    "loss": "5 % of all packets lost",
}
BUSY = 0.9
"""Share of the processors from which on they are the bound."""
LAST, WIDE_LAST, SMALL_LAST, COPIES = 1.25, 1.5, 2.0, 1.6
SMALL = 15e6
"""Bytes below which what every node does by itself weighs more."""

Row = dict[str, Any]


def key(row: Row) -> tuple[object, ...]:
    """What makes a run the same as another."""
    place = list(NAMES).index(row["contender"])
    return row["nodes"], row["mbit"], round(row["size"] / 5e6), row["trouble"], place


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """All runs, the new ones in place of old ones of the same kind."""
    found = {key(row): row for row in [*old, *new]}
    return [found[name] for name in sorted(found)]


def markdown(rows: Sequence[Row]) -> str:
    """The aims, the crowds, and those in trouble."""
    plain = [row for row in rows if not row["trouble"]]
    troubled = [row for row in rows if row["trouble"]]
    loads = [row["load"] for row in rows if "load" in row]
    load = f"; load when a run began {min(loads)} to {max(loads)}" if loads else ""
    parts = [f"{os.cpu_count()} cores{load}."]
    parts += ["### Aims of the crowd", _aims(plain), "### Crowds", _crowds(plain)]
    if troubled:
        parts += ["### Crowds in trouble", _troubled(troubled)]
    return "\n\n".join(parts)


def _table(columns: str, lines: Iterable[Sequence[str]]) -> str:
    names = columns.split("|")
    rule = ["---" if name.startswith("<") else "---:" for name in names]
    shown = [name.removeprefix("<") for name in names]
    return "\n".join("| " + " | ".join(line) + " |" for line in [shown, rule, *lines])


def _aims(rows: Sequence[Row]) -> str:
    found = {key(row): row for row in rows if row["last"]}
    lines = []
    for row in [row for row in rows if row["contender"] == "swarm" and row["last"]]:
        nodes = row["nodes"]
        if nodes > 4:
            limit = WIDE_LAST if nodes > 16 else SMALL_LAST if row["size"] < SMALL else LAST
            ratio = row["last"] / row["bound"]
            what = f"{nodes} nodes, {row['size'] / 1e6:.0f} MB"
            lines.append(_aim(f"{what}: last within {limit} times the bound", ratio, limit))
            lines.append(_aim(f"{what}: at most {COPIES} copies", row["copies"], COPIES))
        plain = found.get(key({**row, "contender": "http"}))
        if plain is not None:
            ratio = row["last"] / plain["last"]
            # Alone it is HTTP: what differs is chance.
            lines.append(_aim(f"{nodes} nodes: never slower than HTTP", ratio, 1.05))
    return _table("<aim|measured|met", lines)


def _aim(name: str, value: float, limit: float) -> tuple[str, str, str]:
    return name, f"{value:.2f}", "yes" if round(value, 2) <= limit else "no"


def _crowds(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        name = NAMES[row["contender"]] + (" (computed)" if row.get("computed") else "")
        cells = [str(row["nodes"]), name, f"{row['mbit']:g}", f"{row['size'] / 1e6:.1f}"]
        last, bound = f"{row['last']:.1f}" if row["last"] else "not all", f"{row['bound']:.1f}"
        if row.get("computed"):
            lines.append([*cells, "", "", last, bound, "", f"{row['copies']:.2f}", "", ""])
            continue
        cells += [f"{row['first']:.1f}", f"{row['median']:.1f}", last, bound]
        ratio = f"{row['last'] / row['bound']:.2f}" if row["last"] else ""
        busy = f"{row['cpu_share']:.0%}" + (" (the bound)" if row["cpu_share"] >= BUSY else "")
        cpu = f"{row['nodes_cpu']:.1f}, {row['server_cpu']:.1f}"
        lines.append([*cells, ratio, f"{row['copies']:.2f}", cpu, busy])
    columns = "nodes|<|Mbit/s|MB|first s|median s|last s|bound s|last to bound|copies sent"
    return _table(f"{columns}|CPU s: nodes, server|processors busy", lines)


def _troubled(rows: Sequence[Row]) -> str:
    lines = [
        [
            *(f"{row['nodes']}", TROUBLES[row["trouble"]], f"{row['mbit']:g}"),
            *(f"{row['last']:.1f}" if row["last"] else "not all", f"{row['bound']:.1f}"),
            f"{row['copies']:.2f}",
        ]
        for row in rows
    ]
    return _table("nodes|<|Mbit/s|last s|bound s|copies sent", lines)

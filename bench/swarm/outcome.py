"""What a crowd was, and what came of it: values."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Setting:
    """How many nodes with what links (megabits per second), and what happens to them."""

    nodes: int
    up: float
    down: float
    server: float
    trouble: str = ""
    patience: float = 600.0


@dataclass
class Outcome:
    """Seconds of each node, in order of ending; bytes the server sent; processor seconds.

    `nodes_cpu` is of the nodes' pulls, without those who go on giving; `cpu` is of the whole
    machine, other work on it and the kernel's for the links included.
    """

    contender: str
    setting: Setting
    size: int
    seconds: list[float]
    unfinished: int
    wrong: int
    sent: int
    server_cpu: float
    nodes_cpu: float
    cpu: float
    wall: float
    remarks: list[str] = field(default_factory=list)
    load: float = 0.0
    is_computed: bool = False
    """Nobody ran it: the server's line alone makes it last so long."""

    @property
    def bound(self) -> float:
        """See `bound`."""
        return bound(self.setting, self.size)

    @property
    def last(self) -> float:
        """When the last node was done."""
        return max(self.seconds, default=float("inf"))

    def document(self) -> dict[str, object]:
        """All of it, as JSON has it."""
        return {
            "contender": self.contender,
            "nodes": self.setting.nodes,
            "mbit": self.setting.up,
            "trouble": self.setting.trouble,
            "size": self.size,
            "first": round(min(self.seconds, default=0.0), 2),
            "median": round(statistics.median(self.seconds or [0.0]), 2),
            "last": round(self.last, 2) if self.seconds else None,
            "bound": round(self.bound, 2),
            "ratio": round(self.last / self.bound, 2) if self.seconds else None,
            "unfinished": self.unfinished,
            "wrong": self.wrong,
            "sent": self.sent,
            "copies": round(self.sent / self.size, 2),
            "server_cpu": round(self.server_cpu, 1),
            "nodes_cpu": round(self.nodes_cpu, 1),
            "cpu": round(self.cpu, 1),
            "cpu_share": round(self.cpu / (self.wall * (os.cpu_count() or 1)), 2),
            "load": round(self.load, 2),
            "computed": self.is_computed,
            "remarks": self.remarks,
        }


def bound(setting: Setting, size: int) -> float:
    """Seconds for so many bytes to each node: no way of spreading them is quicker."""
    up, down, server = (rate * 1e6 / 8 for rate in (setting.up, setting.down, setting.server))
    return max(size / server, size / down, setting.nodes * size / (server + setting.nodes * up))


def one_by_one(setting: Setting, size: int) -> float:
    """Seconds at least when each node gets all of it from the server."""
    return setting.nodes * size * 8e-6 / setting.server


def computed(contender: str, setting: Setting, size: int) -> Outcome:
    """What takes too long to run, at its best."""
    sent = setting.nodes * size
    seconds = [one_by_one(setting, size)] * setting.nodes
    return Outcome(contender, setting, size, seconds, 0, 0, sent, 0, 0, 0, 1, is_computed=True)


def show(outcome: Outcome) -> str:
    """A line for people."""
    if outcome.is_computed:
        setting = outcome.setting
        return (
            f"{outcome.contender:6} N={setting.nodes:<3} {setting.up:g} Mbit/s: not run, since it "
            f"takes {outcome.last:.0f} s at least"
        )
    found = json.loads(json.dumps(outcome.document()))
    trouble = f" {found['trouble']}" if found["trouble"] else ""
    return (
        f"{found['contender']:6} N={found['nodes']:<3} {found['mbit']:g} Mbit/s{trouble}: "
        f"first {found['first']}, median {found['median']}, last {found['last']} s; "
        f"bound {found['bound']} s, {found['ratio']} times; {found['copies']} copies sent; "
        f"cpu: nodes {found['nodes_cpu']} s, server {found['server_cpu']} s, "
        f"machine {found['cpu']} s ({found['cpu_share']:.0%}); "
        f"{found['unfinished']} unfinished, {found['wrong']} wrong"
    )

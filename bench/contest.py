"""Contenders take turns at one job, and each run is measured.

Within a scenario each round begins with another contender. Before each run its state is put back
and the disk synced; neither counts. How long `sync` takes afterwards is a figure of its own:
programs that do not wait for the disk leave that to others.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from measure import Command, Failed, Measure, measure
from servers import Server
from tables import Figures, Row, Table

OURS = "imgstore"
"""What the names of our own contenders begin with: they may not fail."""

Traffic = tuple[int | None, int | None]
"""Bytes and requests."""

_BEGUN = time.monotonic()


def nothing() -> None:
    """Do nothing."""


def say(text: str) -> None:
    """A line of progress, after the minutes and seconds that have passed."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGUN), 60)
    print(f"[{minutes:3}:{seconds:02}] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    `before` puts its state back. Bytes are what `size` finds afterwards, else what `traffic` reads
    in the output, else what the server's log says. `group` sets apart rows of one table that are
    compared only with each other.
    """

    name: str
    command: Callable[[], Command]
    before: Callable[[], None] = nothing
    size: Callable[[], int] | None = None
    traffic: Callable[[Measure], Traffic] | None = None
    server: Server | None = None
    differences: Callable[[], int] | None = None
    note: str = ""
    group: str = ""


@dataclass(frozen=True)
class Scenario:
    """Contenders for one job; `each_round` prepares for all of them.

    `rounds`: how often, whatever was asked for; 0 leaves it to that.
    """

    key: str
    title: str
    about: str
    reference: str
    contenders: list[Contender]
    each_round: Callable[[int], None] | None = None
    bytes_are: str = ""
    shows_sync: bool = False
    rounds: int = 0


def contest(scenario: Scenario, rounds: int) -> Table:
    """Run all contenders of a scenario in turn. Raises `Failed` only for our own."""
    load = round(os.getloadavg()[0], 2)
    rounds = scenario.rounds or rounds
    say(f"{scenario.title}: {len(scenario.contenders)} contenders, {rounds} rounds")
    rows = {id(each): Row(each.name, each.note, each.group) for each in scenario.contenders}
    for number in range(rounds):
        if scenario.each_round is not None:
            scenario.each_round(number)
        first = number % len(scenario.contenders)
        for each in [*scenario.contenders[first:], *scenario.contenders[:first]]:
            row = rows[id(each)]
            label = ": ".join(part for part in (each.group, each.name) if part)
            try:
                figures = _run(each)
            except Failed as failure:
                if each.name.startswith(OURS):
                    raise
                row.note = "failed: " + str(failure).splitlines()[-1]
                say(f"  {scenario.key} {number + 1}/{rounds}: {label}: {failure}")
                continue
            row.runs.append(figures)
            say(f"  {scenario.key} {number + 1}/{rounds}: {label} {figures.wall:.3f} s")
            if number == 0 and each.differences is not None:
                row.differences = each.differences()
    return Table(
        scenario.key,
        scenario.title,
        scenario.about,
        scenario.reference,
        scenario.bytes_are,
        scenario.shows_sync,
        list(rows.values()),
        rounds,
        load,
    )


def _run(contender: Contender) -> Figures:
    contender.before()
    command = contender.command()
    os.sync()
    server = contender.server
    cpu = server.cpu() if server is not None else 0.0
    logged = server.traffic() if server is not None else None
    done = measure(command)
    begun = time.perf_counter()
    os.sync()
    synced = time.perf_counter() - begun
    if server is not None:
        server.settle()
    moved: Traffic = (None, None)
    if contender.traffic is not None:
        moved = contender.traffic(done)
    elif server is not None and logged is not None and (now := server.traffic()) is not None:
        moved = now[0] - logged[0], now[1] - logged[1]
    return Figures(
        wall=done.wall,
        cpu=done.cpu,
        peak=done.peak,
        sync=synced,
        server_cpu=server.cpu() - cpu if server is not None else None,
        server_peak=server.peak() if server is not None else None,
        bytes=contender.size() if contender.size is not None else moved[0],
        requests=moved[1],
    )

"""The scenarios, one module each: what is compared, and how its state is put back.

A module's `scenarios` is a context manager: it prepares, yields `Scenario`s, and cleans up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from contest import Scenario
from job import Job

from . import (
    diff,
    edit,
    export,
    first,
    gc,
    links,
    nothing,
    pull,
    sparse,
    start,
    unchanged,
    update,
    upgrade,
    verify,
)


class Piece(NamedTuple):
    """What `--only` names. `minutes`: with three rounds on the Debian trees, on two cores."""

    scenarios: Callable[[Job], AbstractContextManager[list[Scenario]]]
    minutes: float


PIECES = {
    "start": Piece(start.scenarios, 0.1),
    "first": Piece(first.scenarios, 9),
    "unchanged": Piece(unchanged.scenarios, 4),
    "edit": Piece(edit.scenarios, 6),
    "upgrade": Piece(upgrade.scenarios, 6),
    "diff": Piece(diff.scenarios, 5),
    "export": Piece(export.scenarios, 10),
    "pull": Piece(pull.scenarios, 10),
    "update": Piece(update.scenarios, 10),
    "nothing": Piece(nothing.scenarios, 3),
    "verify": Piece(verify.scenarios, 6),
    "gc": Piece(gc.scenarios, 6),
    "sparse": Piece(sparse.scenarios, 8),
    "links": Piece(links.scenarios, 18),
}

"""What tests of pulls share: something outside the tree that must stay as it is, and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.canary import Canary
from support.cuts import Versions
from support.lines import Line


@pytest.fixture
def canary(place: Path) -> Iterator[Canary]:
    """A directory outside the target; the test fails if anything in it changes."""
    made = Canary(place / "canary")
    yield made
    made.check()


@pytest.fixture
def line(place: Path) -> Line:
    return Line(place)


@pytest.fixture
def versions(quick: Path) -> Versions:
    return Versions(quick)

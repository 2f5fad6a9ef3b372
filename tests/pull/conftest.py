"""What tests of pulls share: something outside the tree that must stay as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.canary import Canary


@pytest.fixture
def canary(place: Path) -> Iterator[Canary]:
    """A directory outside the target; the test fails if anything in it changes."""
    made = Canary(place / "canary")
    yield made
    made.check()

"""A farm for each test: see `support.farm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.farm import Farm


@pytest.fixture
def farm(quick: Path) -> Iterator[Farm]:
    made = Farm(quick)
    with made.store:
        yield made

"""A scene for each test: see `support.falsified`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.falsified import Scene, scene_at


@pytest.fixture
def scene(quick: Path) -> Iterator[Scene]:
    with scene_at(quick) as made:
        yield made

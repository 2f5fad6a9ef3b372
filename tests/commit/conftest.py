"""A tree to commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import trees
from support.stores import settle


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    (path / "folder").mkdir(parents=True)
    (path / "folder/file").write_bytes(trees.pseudo_random("file", 30_000))
    (path / "top").write_bytes(b"top")
    settle()
    return path

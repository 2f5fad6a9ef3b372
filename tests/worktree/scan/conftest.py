"""A small tree, and what scans it again and again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scanner import Scanner
from support.stores import settle


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    for folder in ("a/deep/er", "b", "c"):
        (path / folder).mkdir(parents=True)
    for name in ("a/1", "a/deep/2", "a/deep/er/3", "b/4", "b/5", "top"):
        (path / name).write_bytes(name.encode())
    settle()
    return path


@pytest.fixture
def scanner(place: Path, tree: Path) -> Scanner:
    return Scanner(tree, place / "cache")

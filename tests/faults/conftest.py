"""The rigs of all fault tests: one on each file system, made once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import disks, trees
from support.rigs import Rig


@pytest.fixture(scope="session")
def rigs() -> Iterator[list[Rig]]:
    """A rig on ext4 and one on xfs, their disks in memory where there is room for that."""
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() else None
    place = Path(tempfile.mkdtemp(prefix="imgstore-test-", dir=folder))
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(Rig(place / kind, kind)) for kind in disks.SIZES]
    finally:
        trees.remove_tree(place)

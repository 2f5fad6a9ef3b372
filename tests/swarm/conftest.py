"""A store with one pack that is worth a swarm."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support import stores
from support.crowd import Rig

from chunkstore.storage.store import Store
from chunkstore.swarm import fetch

# Machines on one switch, as network namespaces.
sys.path.insert(0, str(stores.PROJECT / "bench/swarm"))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store and image, made once: 6 MB that do not compress, in one pack."""
    root = tmp_path_factory.mktemp("swarm")
    tree = root / "tree"
    chance = random.Random(6)
    for number in range(60):
        path = tree / f"d{number % 7}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(100_000))
    store = stores.make_store(root / "store")
    stores.record(store, tree)
    store.close()
    return root


@pytest.fixture
def rig(made: Path, tmp_path: Path) -> Iterator[Rig]:
    """A copy of it for the test."""
    pytest.importorskip("libtorrent", reason="needs libtorrent: pip install imgstore[swarm]")
    shutil.copytree(made, tmp_path / "rig", symlinks=True)
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store(str(tmp_path / "rig/store"))))
        yield Rig(tmp_path, store, tmp_path / "rig/tree")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to come by swarm does, however much this machine has to do."""
    for name in ("FIRST_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(fetch, name, 60.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions, sooner."""
    for name in ("NOBODY_SECONDS", "FIRST_SECONDS", "STALL_SECONDS", "CHANCE_SECONDS"):
        monkeypatch.setattr(fetch, name, getattr(fetch, name) / 3)

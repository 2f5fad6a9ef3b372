"""Fixtures for all tests, and the directory that `support` is imported from."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import trees
from support.variety import make_variety

from chunkstore.storage.backends.local import LocalBackend

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background so, and programs started here would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever runs the tests meets the same examples, and hears of what he changed; new ones are looked
# for by the campaign.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Choose examples before any test module is read."""
    settings.load_profile("searching" if config.getoption("markexpr") == "campaign" else "steady")


@pytest.fixture(autouse=True)
def _close_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test opens: hundreds of tests would run out of descriptors."""
    opened: list[LocalBackend] = []
    real = LocalBackend.__init__

    def noted(self: LocalBackend, root: str, *, create: bool = False) -> None:
        real(self, root, create=create)
        opened.append(self)

    monkeypatch.setattr(LocalBackend, "__init__", noted)
    yield
    for backend in opened:
        backend.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for the test, cleared whatever the test leaves in it."""
    path = Path(tempfile.mkdtemp(prefix="imgstore-test-"))
    yield path
    trees.remove_tree(path)


@pytest.fixture
def quick() -> Iterator[Path]:
    """A directory in memory where there is one: for much that need not wait for a disk."""
    memory = Path("/dev/shm")
    folder = memory if os.access(memory, os.W_OK) and os.path.ismount(memory) else None
    path = Path(tempfile.mkdtemp(prefix="imgstore-test-", dir=folder))
    yield path
    trees.remove_tree(path)


@pytest.fixture(scope="session")
def variety() -> Iterator[Path]:
    """One tree with everything in it, made once; tests do not change it."""
    path = Path(tempfile.mkdtemp(prefix="imgstore-variety-")) / "tree"
    make_variety(path)
    yield path
    trees.remove_tree(path.parent)

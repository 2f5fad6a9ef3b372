"""A store with some of everything, and a copy of it for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stores import make_store, record
from support.verifying import noise, text

from chunkstore.storage.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two images, three versions of one, list nodes and several packs; not changed."""
    place = tmp_path_factory.mktemp("verify")
    tree = place / "tree"
    (tree / "etc").mkdir(parents=True)
    for number in range(40):
        (tree / "etc" / f"file{number:02}").write_bytes(text(300 + 50 * number))
    (tree / "share").mkdir()
    for number in range(150):
        (tree / "share" / f"small{number:03}").write_bytes(b"%d" % number)
    (tree / "big").write_bytes(noise(700_000))
    (tree / "words").write_bytes(text(60_000))
    (tree / "link").symlink_to("etc/file00")
    with make_store(place / "store") as store:
        record(store, tree, tags=["first"])
        (tree / "etc" / "file07").write_bytes(b"another line\n" * 200)
        (tree / "new").write_bytes(noise(30_000))
        record(store, tree)
        (tree / "etc" / "file20").unlink()
        record(store, tree, message="third")
        shutil.rmtree(tree / "etc")
        record(store, tree, "db")
    return place / "store"


@pytest.fixture
def copy(made: Path, quick: Path) -> Iterator[Store]:
    shutil.copytree(made, quick / "store")
    with Store(str(quick / "store")) as store:
        yield store

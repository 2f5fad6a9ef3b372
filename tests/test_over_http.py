"""The main job over real servers: ours and Debian's nginx, from the same directory of files."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import stores, trees
from support.servers import free_port, nginx
from support.trees import needs

from chunkstore import commit, pull
from chunkstore.errors import Corrupt, NotFound, TransferError
from chunkstore.objects.names import parse_spec
from chunkstore.server import running
from chunkstore.storage.backends import open_reader
from chunkstore.storage.founding import create
from chunkstore.storage.store import Store
from chunkstore.verify.installed import verify_tree


def pull_from(url: str, spec: str, directory: Path) -> pull.PullReport:
    with closing(open_reader(url)) as reader:
        return pull.pull(reader, [parse_spec(spec)], str(directory), options=stores.trusting())


def make_tree(path: Path) -> None:
    for number in range(300):
        folder = path / f"d{number % 12}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(os.urandom(50) * (number * 7 + 1))
    (path / "big").write_bytes(os.urandom(3_000_000))


def edit_tree(path: Path) -> None:
    (path / "d1" / "f1").write_bytes(b"changed\n" * 100)
    (path / "d3" / "f3").unlink()
    (path / "d4" / "f4").rename(path / "d5" / "moved")
    (path / "added").write_bytes(os.urandom(100_000))


@pytest.fixture(params=["serve", "nginx"])
def remote(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[Store, Path, str]]:
    """A store with two versions, the image as it is now, and the URL it is served at."""
    image = place / "image"
    make_tree(image)
    store = create(str(place / "store"), now=time.time_ns())
    commit.commit(store, "web", str(image), now=time.time_ns())
    subprocess.run(["cp", "-a", str(image), str(place / "before")], check=True)
    edit_tree(image)
    commit.commit(store, "web", str(image), now=time.time_ns())
    if request.param == "nginx":
        if shutil.which("nginx") is None:
            pytest.skip("needs nginx")
        with nginx(place / "store", place / "nginx") as url:
            yield store, place, url
    else:
        with running(place / "store") as url:
            yield store, place, url


@needs("rsync")
def test_nodes_install_and_update(remote: tuple[Store, Path, str]) -> None:
    _, place, url = remote
    node = place / "node"
    first = pull_from(url, "web:base", node)
    trees.assert_same(place / "before", node)
    assert first.fetched_chunks == first.needed_chunks > 300

    second = pull_from(url, "web", node)
    trees.assert_same(place / "image", node)
    # The moved file comes from the node itself; the changed and the added one are all that moves.
    assert second.local_chunks > 0
    assert 100_000 < second.fetched_bytes < 300_000
    assert second.received < 400_000
    assert second.requests <= 8

    third = pull_from(url, "web", node)
    assert not third.is_changed
    assert third.requests == 1
    assert verify_tree(str(node)).drifted == []


def test_what_is_not_there_says_so(remote: tuple[Store, Path, str]) -> None:
    _, place, url = remote
    with pytest.raises(NotFound, match="no image 'mail'"):
        pull_from(url, "mail", place / "n1")
    with pytest.raises(NotFound, match="nosuchtag"):
        pull_from(url, "web:nosuchtag", place / "n2")
    with pytest.raises(NotFound, match="not an imgstore store"):
        pull_from(f"{url}/packs", "web", place / "n3")


def test_a_damaged_pack_never_reaches_the_tree(remote: tuple[Store, Path, str]) -> None:
    _, place, url = remote
    node = place / "node"
    pull_from(url, "web:base", node)
    newest = max((place / "store" / "packs").glob("*.pack"), key=lambda path: path.stat().st_mtime)
    content = bytearray(newest.read_bytes())
    for offset in range(16, len(content) - 200, 97):
        content[offset] ^= 0xFF
    newest.write_bytes(content)
    with pytest.raises((Corrupt, NotFound)):
        pull_from(url, "web", node)
    trees.assert_same(place / "before", node)


def test_a_server_that_is_gone(place: Path) -> None:
    with pytest.raises(TransferError):
        pull_from(f"http://127.0.0.1:{free_port()}", "web", place / "node")

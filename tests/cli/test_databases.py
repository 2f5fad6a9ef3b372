"""Full disks, read-only file systems, damaged databases: under a store, and under a node.

None of it ends in SQLite's words: a cache is done without or made anew, and everything else is one
line that says which file, why, and what to do next.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import trees

if TYPE_CHECKING:
    from tests.cli.conftest import Ended, Run

Mount = Callable[..., None]


def is_one_line(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended.err
    assert ended.err.count("\n") == 1, ended.err
    for words in said:
        assert words in ended.err
    assert "database" not in ended.err


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with open(disk / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.fixture
def disk(tmp_path: Path, mount: Mount) -> Path:
    """A file system of 8 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount(path, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    return path


READERS = [
    ("ls", "web"),
    ("cat", "web", "etc/fstab"),
    ("diff", "web:base", "web"),
    ("checkout", "web", "{out}/checked out"),
    ("export", "web", "-o", "{out}/image.tar.gz"),
    ("gc", "--grace", "0"),
]


@trees.needs_root
@pytest.mark.parametrize("is_there", [True, False], ids=["old catalog", "no catalog"])
def test_a_store_on_a_full_disk_is_read(
    run: Run, disk: Path, web: Path, store: Path, tmp_path: Path, is_there: bool
) -> None:
    """And collected, which may be what makes room."""
    full = disk / "store"
    subprocess.run(["cp", "-a", store, full], check=True)
    catalog = full / "local/catalog.sqlite"
    for suffix in ("-wal", "-shm") if is_there else ("-wal", "-shm", ""):
        Path(f"{catalog}{suffix}").unlink(missing_ok=True)
    fill(disk)
    for reader in READERS:
        ended = run("--store", full, *(word.format(out=tmp_path) for word in reader))
        is_one_line(ended, 0, f"going on without a catalog: No space left on device ({catalog})")
    (web / "more").write_text("more")
    ended = run("--store", full, "commit", "web", web)
    assert ended.code == 7
    assert ended.err.endswith("No space left on device; make room and run it again\n")
    assert "database" not in ended.err
    (disk / "filler").unlink()
    ended = run("--store", full, "commit", "web", web)
    assert (ended.code, ended.err) == (0, "")


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


def test_a_damaged_catalog_is_made_anew(
    run: Run, done: Run, web: Path, store: Path, tmp_path: Path
) -> None:
    catalog = store / "local/catalog.sqlite"
    for suffix in ("-wal", "-shm"):
        # Of the commits of this very process: what stands there would count for more.
        Path(f"{catalog}{suffix}").unlink(missing_ok=True)
    damage(catalog)
    is_one_line(run("checkout", "web", tmp_path / "out"), 0, str(catalog), "making a new one")
    trees.assert_same(web, tmp_path / "out")
    done("ls", "web")


@pytest.fixture
def node(done: Run, web: Path, store: Path, disk: Path) -> Path:
    """A node on a disk of its own, one version behind."""
    path = disk / "node"
    done("pull", f"{store}/web:base", path)
    done("pull", f"{store}/web", path, "--dry-run")
    return path


@trees.needs_root
def test_a_node_on_a_full_disk(
    run: Run, done: Run, disk: Path, node: Path, store: Path, web: Path
) -> None:
    fill(disk)
    for arguments in [("pull", f"{store}/web", node), ("trust", "--forget", node)]:
        is_one_line(run(*arguments), 7, "No space left on device (", "make room and run it again")
    done("verify", node)
    done("pull", "--dry-run", f"{store}/web", node)
    (disk / "filler").unlink()
    done("pull", f"{store}/web", node)
    trees.assert_same(web, node)


@trees.needs_root
def test_a_node_mounted_read_only(run: Run, done: Run, disk: Path, node: Path, store: Path) -> None:
    """What only looks, works."""
    trees.remount(disk, "ro")
    done("verify", node)
    done("pull", "--dry-run", f"{store}/web", node)
    for arguments in [("pull", f"{store}/web", node), ("rollback", node)]:
        is_one_line(run(*arguments), 7, "Read-only file system (", "mount it so that it can be")
    trees.remount(disk, "rw")


@trees.needs_root
def test_a_node_whose_state_is_damaged(run: Run, node: Path, store: Path) -> None:
    state = node / ".imgstore/state.sqlite"
    damage(state)
    for verb in [("pull",), ("verify",), ("rollback",), ("recover",), ("trust", "--forget")]:
        ended = run(*verb, node)
        said = f"imgstore: {state} is damaged: pull into an empty directory instead\n"
        assert (ended.code, ended.err) == (4, said)


@trees.needs_root
def test_a_node_that_lost_its_manifest_is_told_how_to_get_it_back(
    run: Run, done: Run, node: Path
) -> None:
    with closing(sqlite3.connect(node / ".imgstore/state.sqlite")) as database:
        database.execute("DELETE FROM node")
        database.commit()
    is_one_line(run("verify", node), 4, "lacks manifest node", "'imgstore verify --repair' fetches")
    done("verify", "--repair", node)
    done("verify", node)


@trees.needs_root
@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_in_a_nodes_databases(
    run: Run, node: Path, store: Path, web: Path, seed: int
) -> None:
    """A wrong word in it may cost the state, but never a fault of the program or a wrong tree."""
    chance = random.Random(seed)
    names = ["state.sqlite", "state.sqlite", "baseline.sqlite", "catalog.sqlite"]
    whole = {name: (node / ".imgstore" / name).read_bytes() for name in names}
    for _ in range(12):
        copy = node.with_name("copy")
        subprocess.run(["cp", "-a", node, copy], check=True)
        name = chance.choice(names)
        data = bytearray(whole[name])
        used = [position for position, byte in enumerate(data) if byte]
        for position in chance.choices(used, k=chance.choice([1, 2, 30])):
            data[position] ^= 1 << chance.randrange(8)
        (copy / ".imgstore" / name).write_bytes(data)
        looked = run("verify", copy)
        ended = run("pull", f"{store}/web", copy)
        for each in (looked, ended):
            assert each.code in (0, 3, 4, 5), each.err
            assert "fault in imgstore" not in each.err
            assert each.code == 0 or each.err.count("\n") == 1
        if ended.code == 0:
            assert trees.differences(trees.facts(web), trees.facts(copy)) == []
        trees.remove_tree(copy)

"""A local user exchanges what is his for links while root pulls: nothing outside is changed."""

from __future__ import annotations

import itertools
import os
import pkgutil
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import trees
from support.canary import USER, Canary
from support.forge import Forge
from support.racer import Racer
from support.stores import bring

from chunkstore.errors import ChunkstoreError, Conflict
from chunkstore.objects.entry import Entry
from chunkstore.objects.names import sort_key
from chunkstore.pull import recover
from chunkstore.worktree.aside import link_standing

pytestmark = trees.needs_root

HIS = {"uid": USER, "gid": USER}
SWAPS = 100_000


@pytest.fixture
def outside(quick: Path) -> Iterator[Canary]:
    """On the same file system as the tree, so that there can be hardlinks."""
    made = Canary(quick / "canary")
    yield made
    made.check()


def version(forge: Forge, salt: bytes, mode: int) -> list[Entry]:
    """A user's directory with everything an update does to a path."""
    file, directory = forge.file, forge.directory
    return [
        *(directory(b""), directory(b"home"), directory(b"home/user", **HIS)),
        directory(b"home/user/d", mode=mode, **HIS),
        # Dressed, made anew, come and gone, of another kind, linked.
        file(b"home/user/d/dressed", b"same", mode=mode, xattrs=((b"user.salt", salt),)),
        file(b"home/user/d/file", salt, mode=0o4755),
        forge.fifo(b"home/user/d/pipe", mode=mode),
        *([file(b"home/user/d/sometimes", b"here", mode=0o4755)] if salt == b"two" else []),
        directory(b"home/user/d/sub", mtime=mode, uid=mode),
        file(b"home/user/d/sub/file", salt, flags=0x40),
        file(b"home/user/dressed", b"same", mode=mode, uid=mode, xattrs=((b"user.salt", salt),)),
        file(b"home/user/empty", mode=mode, uid=mode, xattrs=((b"trusted.salt", salt),)),
        file(b"home/user/f", salt, flags=0x40 if salt == b"two" else 0),
        file(b"home/user/k" if salt == b"one" else b"home/user/m", b"linked"),
        file(b"home/user/n", b"linked", link=b"home/user/k" if salt == b"one" else b"home/user/m"),
        directory(b"home/user/turned") if salt == b"one" else file(b"home/user/turned", b"x"),
    ]


class Tree:
    """A node that goes back and forth between two versions."""

    def __init__(self, place: Path) -> None:
        self.node = place / "node"
        self.forge = Forge()
        self.ids = [
            self.forge.publish(*version(self.forge, salt, mode))
            for salt, mode in ((b"one", 0o755), (b"two", 0o750))
        ]
        self.versions = [version(self.forge, b"one", 0o755), version(self.forge, b"two", 0o750)]
        self.home = self.node / "home/user"
        self.outcomes: dict[str, int] = {}

    def pull(self, number: int, **options: object) -> set[bytes]:
        """Pull one of them; what was saved."""
        self.forge.publish(*self.versions[number % 2])
        report = bring(self.forge.backend, "web", self.node, **options)
        return {path for path, _ in report.saved}

    def try_to(self, action: Callable[[], object]) -> None:
        """Whatever the racer does, it ends well or in an error that was declared."""
        try:
            action()
            outcome = "done"
        except ChunkstoreError as error:
            outcome = type(error).__name__
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def chase(
        self, pulls: int, *pairs: tuple[str, str], remake: Path | None = None, **options: object
    ) -> None:
        """Pull until enough was exchanged; afterwards all can be put right."""
        swaps = done = 0
        numbers = itertools.count(1)
        while swaps < SWAPS // 4 or done < pulls:
            with Racer(self.home, *pairs, remake=remake) as racer:
                for _ in range(10):
                    self.try_to(lambda: self.pull(next(numbers), **options))
                    self.try_to(lambda: recover(str(self.node)))
                    done += 1
            swaps += racer.swaps
        for name in itertools.chain(*pairs):
            path = self.home / name
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path)
        self.pull(next(numbers), mirror=True)
        self.pull(next(numbers), mirror=True)
        assert stat.S_IMODE((self.home / "dressed").stat().st_mode) in (0o750, 0o755)
        assert self.outcomes["done"] > 0


def test_a_directory_and_a_link_to_outside(quick: Path, outside: Canary) -> None:
    tree = Tree(quick)
    tree.pull(0)
    os.symlink(outside.path, tree.home / "evil")
    os.symlink(outside.path / "private", tree.home / "d/evil")
    tree.chase(60, ("d", "evil"), ("turned", "evil"))


def test_files_and_links_to_files_outside(quick: Path, outside: Canary) -> None:
    tree = Tree(quick)
    tree.pull(0)
    targets = {"dressed": "same", "f": "file", "empty": "nothing"}
    for name, target in targets.items():
        os.symlink(outside.path / target, tree.home / f"evil {name}")
    tree.chase(60, *((name, f"evil {name}") for name in targets))


def test_files_and_hardlinks_of_files_outside(quick: Path) -> None:
    """What he has a right to link to must not become somebody else's, or be given flags."""
    outside = Canary(quick / "canary")
    tree = Tree(quick)
    tree.pull(0)
    targets = {"dressed": "mine", "f": "mine", "empty": "empty"}
    for name, target in targets.items():
        os.link(outside.path / target, tree.home / f"evil {name}")
    outside.settle()
    swaps = 0
    for number in range(1, 100):
        with Racer(tree.home, *((name, f"evil {name}") for name in targets)) as racer:
            for _ in range(10):
                tree.try_to(partial(tree.pull, number))
                outside.check_all_but_links()
        swaps += racer.swaps
        if number >= 6 and swaps >= SWAPS // 4:
            break
    assert tree.outcomes["done"] > 0


def test_a_mirror_and_a_directory_that_is_exchanged(quick: Path, outside: Canary) -> None:
    tree = Tree(quick)
    tree.pull(0)
    (tree.home / "unknown/deep").mkdir(parents=True)
    (tree.home / "unknown/deep/private").mkdir()
    (tree.home / "unknown/file").write_bytes(b"")
    os.symlink(outside.path, tree.home / "evil")
    tree.chase(40, ("d", "evil"), ("unknown", "evil"), remake=outside.path, mirror=True)


MOMENTS = {
    "planned": "chunkstore.pull.change:everything",
    "looked at": "chunkstore.fsio:open_file",
    "placed": "chunkstore.worktree.finish:Finish._set_flags",
    "flagged": "chunkstore.worktree.finish:Finish._note_baseline",
}
"""What comes next when something is planted: nobody can be quicker than that."""


@contextmanager
def planted(moment: str, plant: Callable[[], None]) -> Iterator[None]:
    """Plant something, once, at a moment of the pull inside."""
    real = pkgutil.resolve_name(MOMENTS[moment])
    waiting = [plant]

    def first(*arguments: Any) -> Any:
        if waiting and (moment != "looked at" or arguments[1] == b"dressed"):
            waiting.pop()()
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MOMENTS[moment].replace(":", "."), first)
        yield
    assert not waiting, "the moment came"


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "content"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_file_that_is_exchanged_at_the_worst_moment(place: Path, kind: str, moment: str) -> None:
    """What was planned for a file does not happen to another, whichever moment it comes."""
    outside = Canary(place / "canary")
    tree = Tree(place)
    tree.pull(0)
    targets = {
        "hardlink": {"dressed": "alike", "f": "mine", "empty": "empty"},
        "symlink": {"dressed": "same", "f": "file", "empty": "nothing"},
    }

    def plant() -> None:
        for name, data in (("dressed", b"evil"), ("f", b"bad"), ("empty", b"")):
            path = tree.home / name
            path.unlink()
            if kind == "hardlink":
                os.link(outside.path / targets[kind][name], path)
            elif kind == "symlink":
                os.symlink(outside.path / targets[kind][name], path)
            else:
                # Of the size and time of the image's, and often of its inode number.
                path.write_bytes(data)
                os.utime(path, ns=(10**18, 10**18))
        outside.settle()

    saved: set[bytes] = set()
    with planted(moment, plant), suppress(ChunkstoreError):
        saved = tree.pull(1)
    outside.check_all_but_links()
    if kind == "content":
        assert os.listxattr(tree.home / "dressed") == []
        # Nor is it taken for the image's later on.
        report = bring(tree.forge.backend, "web", tree.node, mirror=True)
        saved |= {path for path, _ in report.saved}
        assert b"home/user/dressed" in saved
        assert b"home/user/f" in saved


def test_a_link_to_a_file_outside_that_is_like_the_images(quick: Path) -> None:
    """It gives way to a file of its own: the other has its metadata from somebody else."""
    outside = Canary(quick / "canary")
    tree = Tree(quick)
    tree.pull(0)
    for name, target in (("dressed", "alike"), ("empty", "empty")):
        (tree.home / name).unlink()
        os.link(outside.path / target, tree.home / name)
    outside.settle()
    for options in ({}, {"mirror": True}):
        tree.pull(1, **options)
        outside.check_all_but_links()
        for name in ("dressed", "empty"):
            status = (tree.home / name).stat()
            assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (1, 0o750)


def test_the_first_of_a_group_that_is_exchanged_before_it_is_linked_to(quick: Path) -> None:
    tree = Tree(quick)
    tree.pull(0)
    leader = tree.home / "k"
    items = [*tree.versions[0], tree.forge.file(b"second", b"linked", link=b"home/user/k")]
    tree.forge.publish(*sorted(items, key=lambda entry: sort_key(entry.path)))
    real = link_standing

    def late(*arguments: Any) -> None:
        leader.unlink()
        leader.write_bytes(b"evil!!")
        os.chown(leader, USER, USER)
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkstore.worktree.aside.link_standing", late)
        with pytest.raises(Conflict, match="home/user/k was changed"):
            bring(tree.forge.backend, "web", tree.node)
    assert not (tree.node / "second").exists()
    bring(tree.forge.backend, "web", tree.node)
    assert (tree.node / "second").read_bytes() == b"linked"

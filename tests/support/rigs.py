"""Rigs: a node on a disk of its own, ready for the update, as often as one likes.

Each trial gets a copy of the disk, so it finds the same inodes and times as all others, and what
becomes of it is nobody else's concern.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from support import disks, updates
from support.disks import Mounts
from support.program import Ended, Program
from support.updates import JOURNALLED, Update

Task = TypeVar("Task")


class Rig:
    """A store with two versions, and disks whose `node` has the first. A context manager.

    One trial at a time; the paths in `node` and `top` are those of the mount namespace, and what
    `trial` gives is the same seen from here. `options` go to mkfs.
    """

    def __init__(self, place: Path, kind: str, *options: str) -> None:
        place.mkdir(exist_ok=True)
        self.kind = kind
        self._place = place
        self._stack = ExitStack()
        self.mounts = self._stack.enter_context(Mounts())
        self.program = self._stack.enter_context(Program(self.mounts.prefix))
        self.top = place / "mount"
        self.node = self.top / "node"
        self.empty = disks.make_disk(place / "empty", kind, *options)
        self.mounts.require(self.empty, self.top, kind)
        self.update = Update(place, self.program)
        self._prepared = disks.copy_disk(self.empty, place / "prepared")
        with self.mounts.mounted(self._prepared, self.top, kind) as seen:
            self.update.prepare(self.node, seen / "node")
        self.update.publish()

    @property
    def pull(self) -> tuple[str, ...]:
        """The update, as a shell would say it."""
        return ("pull", str(self.node))

    def fresh_disk(self) -> Path:
        """A copy of the disk with the prepared node."""
        return disks.copy_disk(self._prepared, self._place / "trial")

    @contextmanager
    def in_memory(self, options: str) -> Iterator[Path]:
        """The node on a tmpfs with these mount options, copied there."""
        source = self._place / "source disk"
        self.mounts.mount_memory(self.top, options)
        try:
            with self.mounts.mounted(self._prepared, source, self.kind) as seen:
                node = self.mounts.seen(self.node)
                subprocess.run(["cp", "-a", str(seen / "node"), str(node)], check=True)
            updates.fix(node)
            yield node
        finally:
            self.mounts.unmount(self.top)

    @contextmanager
    def mounted(self, disk: Path) -> Iterator[Path]:
        """The node on a disk, while that is mounted."""
        with self.mounts.mounted(disk, self.top, self.kind) as seen:
            yield seen / "node"

    @contextmanager
    def trial(self) -> Iterator[Path]:
        """The node on a fresh disk."""
        with self.mounted(self.fresh_disk()) as seen:
            yield seen

    # What is right

    def judged(self, ended: Ended, seen: Path, *, points: Sequence[str] = ()) -> list[str]:
        """What is wrong after a pull that ended so; then finish it, and what is wrong with that.

        `points` inside the tree have something mounted there.
        """
        if ended.code == 0:
            wrong = self.update.is_new(seen)
        else:
            wrong = self.update.is_lawful(seen, self.node, self.program, points=points)
        return wrong or self.finished(seen)

    def finished(self, seen: Path) -> list[str]:
        """Finish an interrupted pull; what is wrong with how that ended."""
        if JOURNALLED and updates.is_pending(self.node, self.program):
            away = updates.hide(self.update.store)
            try:
                ended = self.program.run("recover", self.node)
            finally:
                away.rename(self.update.store)
            wrong = _failure(ended) or self.update.is_new(seen)
            if wrong:
                return ["recovery:", *wrong]
        ended = self.program.run(*self.pull)
        wrong = _failure(ended) or self.update.is_new(seen)
        return ["run again:", *wrong] if wrong else []

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _failure(ended: Ended) -> list[str]:
    return [f"exit code {ended.code}: {ended.err}"] if ended.code else []


def side_by_side(
    rigs: Sequence[Rig], tasks: Sequence[Iterable[Task]], work: Callable[[Rig, Task], list[str]]
) -> None:
    """Let each rig do its own tasks, all at the same time; fails and says which went wrong."""

    def all_of(rig: Rig, own: Iterable[Task]) -> list[str]:
        wrong = []
        for task in own:
            lines = work(rig, task)
            if lines:
                wrong.append(f"{rig.kind}, {task}: " + "\n    ".join(lines))
        return wrong

    with ThreadPoolExecutor(len(rigs)) as threads:
        wrong = list(itertools.chain.from_iterable(threads.map(all_of, rigs, tasks)))
    shown = "\n".join(wrong[:10])
    assert not wrong, f"{len(wrong)} went wrong:\n{shown}"

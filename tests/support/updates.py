"""An update with everything in it that can go wrong, and what may be left of it when it does.

Two versions of a small image; a node that has the first and edits of its own; the tree it has to
become. What is right is said here by hand and compared by `trees`; nothing asks the code under
test but for one thing: whether it says that the tree is in between.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from support import trees
from support.program import Program
from support.stores import settle
from support.trees import Facts, pseudo_random

JOURNALLED: Final = True
"""Whether an update keeps a journal, with all that follows: `imgstore recover DIR` finishes it
without the remote; what was changed on the node goes to `.imgstore/saved/` before the image takes
its place, however often the update is interrupted; and once a pull said it was done, no power cut
makes the node forget that. To be set when that is so; the checks wait for it."""

_TIME: Final = 1_700_000_000_000_000_000
_CAPABILITY: Final = struct.pack("<5I", 0x02000001, 0x2400, 0, 0, 0)

LEFT_OVER: Final = b"opt/kept"
"""A directory the new version has not, with a file of the node's own in it: it stays, but nobody
says with which time."""

OWN: Final = {
    "home/mine": b"a file of the node's own",
    "home/.hidden/deep": b"another in a directory of its own",
    "opt/kept/mine": b"one in a directory that goes",
    "etc/local.conf": b"changed here and not by the image",
}
"""What is the node's own and in nobody's way: it stays where it is."""
_SAVED_ALWAYS: Final = {"srv/tree/mine": b"one in a directory that becomes a symlink"}
_SAVED_WITH_JOURNAL: Final = {
    "etc/motd": b"changed here and by the image",
    "etc/dropped": b"changed here and dropped by the image",
    "etc/new.conf": b"a file where the image wants to have one",
}
IN_THE_WAY: Final = {**_SAVED_ALWAYS, **_SAVED_WITH_JOURNAL}
"""What is the node's own and in the way of the new version."""
SAVED: Final = IN_THE_WAY if JOURNALLED else _SAVED_ALWAYS
"""What of it is found in `.imgstore/saved/` in the end, whatever happened."""


def _write(root: Path, name: str, data: bytes, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def _common(root: Path) -> None:
    """What both versions have, and the update has to leave alone."""
    for number in range(4):
        _write(root, f"usr/share/doc/{number}", b"documentation %d\n" % number * 300)
    _write(root, "usr/lib/same", pseudo_random("same", 30_000))
    _write(root, "etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
    _write(root, "etc/local.conf", b"as the image has it")
    _write(root, "home/skeleton", b"")
    _write(root, "opt/README", b"add-on software")
    (root / "home").chmod(0o750)


def before(root: Path) -> None:
    """The first version."""
    _common(root)
    _write(root, "etc/hostname", b"before\n")
    _write(root, "etc/shadow", b"root:*:1::::::\n", 0o640)
    _write(root, "etc/motd", b"the first message\n")
    _write(root, "etc/dropped", b"not for long\n")
    _write(root, "etc/gone", b"gone soon\n")
    _write(root, "usr/lib/library", pseudo_random("library", 200_000))
    _write(root, "usr/bin/moved", pseudo_random("moved", 20_000), 0o755)
    _write(root, "usr/bin/tool", b"#!/bin/sh\necho before\n", 0o4755)
    able = _write(root, "usr/bin/able", b"#!/bin/sh\n", 0o755)
    os.setxattr(able, "security.capability", _CAPABILITY)
    os.setxattr(able, "user.note", b"before")
    for name in ("opt/old/one", "opt/old/deep/two", "opt/kept/theirs", "srv/tree/a", "srv/tree/b"):
        _write(root, name, name.encode())
    _write(root, "srv/file to directory", b"a file")
    os.symlink("../usr", root / "srv/link to file")
    os.symlink("first", root / "srv/link")
    os.mkfifo(root / "srv/old fifo", 0o600)
    _write(root, "links/a", b"linked " * 1000)
    os.link(root / "links/a", root / "links/b")
    _write(root, "links/c", b"alone")
    _write(root, "etc/fixed", b"immutable, before\n")
    _finish(root, 0)


def after(root: Path) -> None:
    """The second version."""
    _common(root)
    _write(root, "etc/hostname", b"after, and longer\n")
    shadow = _write(root, "etc/shadow", b"root:*:1::::::\n", 0o600)
    os.chown(shadow, 0, 42)
    os.setxattr(shadow, "user.note", b"new")
    _write(root, "etc/motd", b"the second message\n")
    _write(root, "etc/new.conf", b"new in the image\n")
    library = bytearray(pseudo_random("library", 200_000))
    library[100_000:100_100] = bytes(100)
    _write(root, "usr/lib/library", bytes(library))
    _write(root, "usr/bin/renamed", pseudo_random("moved", 20_000), 0o755)
    _write(root, "usr/bin/tool", b"#!/bin/sh\necho after\n", 0o4755)
    able = _write(root, "usr/bin/able", b"#!/bin/sh\n", 0o755)
    os.setxattr(able, "security.capability", _CAPABILITY)
    _write(root, "srv/file to directory/inside", b"inside")
    os.symlink("../usr", root / "srv/tree")
    _write(root, "srv/link to file", b"was a link")
    os.symlink("second", root / "srv/link")
    os.mkfifo(root / "srv/new fifo", 0o622)
    os.mknod(root / "srv/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    _write(root, "links/b", b"linked " * 1000)
    os.link(root / "links/b", root / "links/c")
    _write(root, "links/a", b"alone")
    _write(root, "var/new/deep/deeper/deepest/file", pseudo_random("deep", 9_000))
    (root / "var/new/empty").mkdir()
    trees.sparse_file(root / "var/sparse", 1 << 20, (500 << 10, pseudo_random("sparse", 8192)))
    (root / "usr/share/doc").chmod(0o711)
    _write(root, "etc/fixed", b"immutable, after\n")
    _finish(root, 1)


def _finish(root: Path, version: int) -> None:
    """Give everything the time of its version, and what did not change that of the first."""
    changed = {"etc", "srv", "links", "var", "opt", "usr/bin", "usr/share/doc"} if version else ()
    for above, folders, names in os.walk(root, topdown=False):
        for name in (*folders, *names):
            path = Path(above, name)
            inner = str(path.relative_to(root))
            moved = any(inner == top or inner.startswith(f"{top}/") for top in changed)
            moved = moved and inner not in ("etc/passwd", "etc/local.conf")
            time = _TIME + len(inner) * 1_000_000_007 + moved * 86_400_000_000_000
            os.utime(path, ns=(time, time), follow_symlinks=False)
    os.utime(root, ns=(_TIME, _TIME))
    fix(root)


def fix(root: Path) -> None:
    """Make the immutable file of either version so, where the file system knows such flags."""
    with suppress(OSError):
        trees.set_flags(root / "etc/fixed", "i")


def _edit(root: Path, own: dict[str, bytes]) -> None:
    """Give a tree the node's own files, without a trace in the times of the image's directories."""
    for name, data in own.items():
        path = root / name
        folder = path.parent
        while not folder.is_dir():
            folder = folder.parent
        times = os.stat(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        for made in (path, path.parent):
            if made != folder:
                os.utime(made, ns=(_TIME, _TIME))
        os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


class Update:
    """The two versions in a store, and what a node with edits of its own has to become.

    `place` is an empty directory. Give `prepare` a place for the node first, then call `publish`.
    """

    def __init__(self, place: Path, program: Program) -> None:
        self._place = place
        self._program = program
        self.store = place / "store"
        self.source = place / "source"
        self.wanted = place / "wanted"
        for tree, fill in ((self.source, before), (self.wanted, after)):
            tree.mkdir()
            fill(tree)
        settle()
        self._commit()

    def _commit(self) -> None:
        ended = self._program.run("--store", self.store, "commit", "web", self.source)
        assert ended.code == 0, ended.err

    def first_pull(self, node: Path) -> tuple[str, ...]:
        """What a shell would say to install the latest version."""
        return ("pull", f"{self.store}/web", str(node))

    def prepare(self, node: Path, seen: Path) -> None:
        """Install the first version at `node`, which this process sees as `seen`, and edit it."""
        ended = self._program.run(*self.first_pull(node))
        assert ended.code == 0, ended.err
        _edit(seen, {**OWN, **IN_THE_WAY})
        self.old = trees.facts(seen)
        os.sync()

    def publish(self) -> None:
        """Make the second version the latest, and know from now on what is right."""
        self.pristine = trees.facts(self.wanted)
        trees.remove_tree(self.source)
        self.source.mkdir()
        after(self.source)
        settle()
        self._commit()
        _edit(self.wanted, OWN)
        self.new = trees.facts(self.wanted)

    # What is right

    def is_new(self, seen: Path) -> list[str]:
        """What keeps a node from being all of the new version, with its own files; no lines: it is.

        To be asked after a pull that said it was done.
        """
        lines = _compare(trees.facts(seen), self.new)
        found = _contents(seen / ".imgstore/saved")
        lines += [f"{name} was not saved" for name, data in SAVED.items() if data not in found]
        return lines

    def is_whole(self, seen: Path) -> list[str]:
        """The same for a first installation."""
        return _compare(trees.facts(seen), self.pristine)

    def is_lawful(
        self, seen: Path, node: Path, program: Program, *, points: Sequence[str] = ()
    ) -> list[str]:
        """What is wrong with a node that was left in the middle; no lines: nothing is.

        It may be old, or new, or say that it is in between; then each path must be old or new.
        While it is old, something may have been made for it in the mount `points`, whose times
        tell of that and nothing else does: no call makes a directory and leaves the time above it.
        """
        found = {path: facts for path, facts in trees.facts(seen).items() if not _waits(path)}
        lines = self._lost(seen)
        if not _compare(found, self.old, timeless=points) or not _compare(found, self.new):
            return lines
        if not is_pending(node, program):
            lines += ["mixed and does not say so", *_compare(found, self.old)]
        return lines + self._torn(found)

    def _lost(self, seen: Path) -> list[str]:
        """Which of the node's own files are nowhere."""
        data = _contents(seen)
        return [f"{name} is lost" for name, own in {**OWN, **SAVED}.items() if own not in data]

    def _torn(self, found: dict[bytes, Facts]) -> list[str]:
        """Which paths are neither as before nor as they shall be, metadata aside."""
        lines = []
        in_the_way = {os.fsencode(name) for name in IN_THE_WAY}
        for path in sorted(found.keys() | self.old.keys() | self.new.keys()):
            sides = [_shape(facts.get(path)) for facts in (self.old, self.new)]
            shape = _shape(found.get(path))
            if shape in sides or _is_temporary(path):
                continue
            # A directory can't be exchanged for something else in one step, nor can what is saved.
            if shape is None and (path in in_the_way or self._changes_type(path)):
                continue
            lines.append(f"{path!r} is torn: {shape}")
        return lines

    def _changes_type(self, path: bytes) -> bool:
        parts = path.split(b"/")
        for depth in range(len(parts)):
            above = b"/".join(parts[: depth + 1])
            old, new = self.old.get(above), self.new.get(above)
            if old is not None and new is not None and old.form != new.form:
                return True
        return False


def is_pending(node: Path, program: Program) -> bool:
    """Whether the node says that a pull has to be finished."""
    ended = program.run("--json", "verify", node)
    assert ended.code in (0, 1), ended.err
    pending: bool = ended.document["pending"]
    return pending


def is_like(node: Path, wanted: Path, program: Program) -> list[str]:
    """What rsync finds to differ, as a second opinion."""
    return [
        line
        for line in trees.rsync_differences(wanted, node, prefix=program.prefix)
        if not line.endswith(f" {os.fsdecode(LEFT_OVER)}/")
    ]


def is_one_line(text: str) -> bool:
    """Whether this is what a user shall see of an error."""
    return text.startswith("imgstore: ") and text.endswith("\n") and text.count("\n") == 1


def _compare(
    found: dict[bytes, Facts], wanted: dict[bytes, Facts], *, timeless: Sequence[str] = ()
) -> list[str]:
    lenient_of = (LEFT_OVER, *map(os.fsencode, timeless))

    def lenient(facts: dict[bytes, Facts]) -> dict[bytes, Facts]:
        return facts | {path: replace(facts[path], mtime=0) for path in lenient_of if path in facts}

    return trees.differences(lenient(found), lenient(wanted))


def _is_temporary(path: bytes) -> bool:
    """Whether this is what a change of another file system's path needs meanwhile."""
    return path.rpartition(b"/")[2].startswith(b".imgstore")


def _waits(path: bytes) -> bool:
    """Whether this is, or is in, the place where files for another file system are made."""
    return b".imgstore-new" in path.split(b"/")


def _shape(facts: Facts | None) -> tuple[object, ...] | None:
    if facts is None:
        return None
    return (facts.form, facts.content, facts.target, facts.device)


def _contents(root: Path) -> set[bytes]:
    """What the small files below a directory hold."""
    found = set()
    for path in trees.iterate_files(root):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size < 1024:
            found.add(path.read_bytes())
    return found


def hide(store: Path) -> Path:
    """Make the remote unreachable; where it is now."""
    away = store.with_name(store.name + ".away")
    shutil.move(store, away)
    return away

"""Planning: differences between manifests, held against what stands in the tree, sorted into steps.

The tree is looked at only where something is to change. A plan is a value: what has to be made,
given new metadata, removed; what of the node's own will be moved out of the way, and what is left
as it is. Making it changes nothing, so a dry run is a plan and no more.

Rules. What the image changes, it changes whatever happened here; but content that is not the
image's is moved to the node's `saved` directory before it would be lost. What the image does not
change stays as it is here, changed or deleted. Where the image only changes the metadata of a file
whose content was changed here, the file is left alone; and so is what stands in the place of a
directory, for a directory's times move with all that comes and goes in it. Excluded paths and
mounts that are not ours are not looked at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import NoReturn

from chunkstore import fsio
from chunkstore.errors import Conflict, Corrupt, NotFound
from chunkstore.fsio import Directory
from chunkstore.objects.delta import Difference
from chunkstore.objects.entry import DIRECTORY, FILE, KIND_OF_FORMAT, Entry, change_letter
from chunkstore.objects.names import printable, sort_key, split
from chunkstore.worktree.baseline import Witness, is_linked_from_elsewhere
from chunkstore.worktree.folders import Folders
from chunkstore.worktree.groups import Groups
from chunkstore.worktree.mounts import Mounts
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.plan import Plan


class Planner:
    """Makes one plan for `tree`. `find` gives the new entry of a path, or raises `NotFound`.

    `is_exact` means that nothing put here in the image's place is to stay. `left` are paths the
    image changes and `take` did not, for what is here.
    """

    def __init__(
        self,
        tree: Directory,
        find: Callable[[bytes], Entry],
        witness: Witness,
        mounts: Mounts,
        excludes: Patterns,
        *,
        is_exact: bool = False,
    ) -> None:
        folders = Folders(tree)
        self._tree = tree
        self._find = find
        self._witness = witness
        self._mounts = mounts
        self._excludes = excludes
        self._is_exact = is_exact
        self.left: set[bytes] = set()
        self._plan = Plan()
        self._groups = Groups(find, witness, mounts, excludes, folders)
        self._new_directories: set[bytes] = set()
        self._no_directories: set[bytes] = set()
        self._going: list[bytes] = []
        self._replaced: list[bytes] = []
        self._folders = folders

    def take(self, differences: Iterable[Difference]) -> None:
        """Take the differences of two manifests, in path order."""
        for old, new in differences:
            entry = new or old
            assert entry is not None
            self._note_form(entry.path, new)
            if self._is_out_of_bounds(old, new):
                continue
            status = self._folders.lstat(entry.path)
            if new is None:
                self._remove(entry, status)
            elif new.kind == DIRECTORY and old is not None and old.kind == DIRECTORY:
                self._dress_directory(new, status)
            elif new.kind == DIRECTORY:
                self._directory(change_letter(old, new), new, status)
            elif old is not None and _only_metadata(old, new):
                self._dress(new, status)
            else:
                self._make(change_letter(old, new), new, status)

    def mend(self, letter: str, entry: Entry) -> None:
        """Take one path that does not stand as the new version has it: letters as `drift` gives."""
        self._note_form(entry.path, entry)
        status = self._folders.lstat(entry.path)
        if entry.kind == DIRECTORY:
            self._directory(letter, entry, status)
        elif (
            letter == "m"
            and entry.kind == FILE
            and not entry.link
            and status is not None
            and not is_linked_from_elsewhere(self._witness.baseline, entry, status)
        ):
            self._require_folder(entry.path)
            self._note("m", entry.path)
            self._plan.dressed.append(entry)
        else:
            self._make(letter, entry, status)

    def sweep(self, paths: Iterable[bytes]) -> None:
        """Take paths the image does not know, those inside a directory before it.

        What the image has no more may be among them: of that only directories count, which are
        tried again once what was not known in them is gone.
        """
        removed, going = set(self._plan.removed), set(self._going)
        for path in paths:
            if path not in removed:
                self._note("D", path)
            elif path not in going:
                continue
            self._plan.swept.append(path)

    def done(self) -> Plan:
        """The plan so far, in order."""
        self._look_into_directories()
        self._folders.close()
        return self._plan.finish()

    def _look_into_directories(self) -> None:
        """Find the directories that stay because of what the image does not know in them."""
        plan = self._plan
        gone = {*plan.removed, *plan.swept}
        for path in sorted(self._going, key=sort_key, reverse=True):
            if self._holds_more(path, gone):
                gone.discard(path)
        staying = {path for path in self._going if path not in gone}
        plan.removed = [path for path in plan.removed if path not in staying]
        plan.changes = [change for change in plan.changes if change[1] not in staying]
        for path in self._replaced:
            if self._holds_more(path, gone):
                self._require_nothing_excluded(path)
                plan.saved.append(path)
        needed = {entry.path for entry in (*plan.made, *plan.directories)}
        plan.kept = [path for path in plan.kept if path not in needed]

    def _holds_more(self, path: bytes, gone: set[bytes]) -> bool:
        with fsio.opened(self._tree, path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            names = map(os.fsencode, os.listdir(descriptor))
            return any(path + b"/" + name not in gone for name in names)

    def _require_nothing_excluded(self, path: bytes) -> None:
        """Raise `Conflict` when a directory that has to give way holds something excluded."""
        waiting = [path] if self._excludes else []
        while waiting:
            folder = waiting.pop()
            with fsio.opened(self._tree, folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
                inside = [
                    (item.name, item.is_dir(follow_symlinks=False))
                    for item in os.scandir(descriptor)
                ]
            for name, is_directory in inside:
                place = folder + b"/" + os.fsencode(name)
                if self._excludes.covers(place, is_directory=is_directory):
                    raise Conflict(
                        f"{printable(path)} has to make room for what the image has there, and "
                        f"{printable(place)} in it is excluded: move that, or leave out "
                        f"{printable(path)} as well"
                    )
                if is_directory:
                    waiting.append(place)

    def _is_out_of_bounds(self, old: Entry | None, new: Entry | None) -> bool:
        for entry in (old, new):
            if entry is not None and (
                self._excludes.covers(entry.path, is_directory=entry.kind == DIRECTORY)
                or self._mounts.is_left_alone(entry.path)
            ):
                return True
        return False

    def _note_form(self, path: bytes, new: Entry | None) -> None:
        """See to it that what is new lies in a directory of the image. Raises `Corrupt`.

        What an image has as a link, or has no more, may stand in the tree as a directory until all
        is under way; then it is too late to find out.
        """
        if new is None or new.kind != DIRECTORY:
            self._no_directories.add(path)
        if new is not None and path and split(path)[0] in self._no_directories:
            self._refuse(path)

    def _refuse(self, path: bytes) -> NoReturn:
        where = printable(path)
        raise Corrupt(f"{where}: its directory is not in the manifest", where=where)

    def _note(self, letter: str, path: bytes) -> None:
        self._plan.changes.append((letter, path))

    def _is_ours(self, path: bytes, status: os.stat_result, *more: Entry) -> bool:
        folder, name = self._folders.of(path)
        return self._witness.is_ours(path, folder, name, status, *more)

    def _remove(self, old: Entry, status: os.stat_result | None) -> None:
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode) != (old.kind == DIRECTORY):
            # Somebody put something else in its place, which the image never had.
            self.left.add(old.path)
            return
        self._plan.removed.append(old.path)
        self._note("D", old.path)
        if old.kind == DIRECTORY:
            self._going.append(old.path)
        if old.kind != DIRECTORY and not self._is_ours(old.path, status, old):
            self._plan.saved.append(old.path)

    def _directory(self, letter: str, new: Entry, status: os.stat_result | None) -> None:
        if new.path in self._new_directories:
            return  # something in it needed it before
        self._require_folder(new.path)
        self._new_directories.add(new.path)
        self._plan.directories.append(new)
        self._note(_as_it_stands(letter, new, status), new.path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            self._save_unless_ours(new.path, status)

    def _dress_directory(self, new: Entry, status: os.stat_result | None) -> None:
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._directory("m", new, status)
            return
        # Gone from here, or moved elsewhere with a link in its place: it comes back when something
        # new has to be in it.
        self.left.add(new.path)
        if status is not None:
            self._plan.kept.append(new.path)

    def _save_unless_ours(self, path: bytes, status: os.stat_result, *more: Entry) -> None:
        if not self._is_ours(path, status, *more):
            self._plan.saved.append(path)

    def _dress(self, new: Entry, status: os.stat_result | None) -> None:
        if status is None or not stat.S_ISREG(status.st_mode):
            self._make("M", new, status)
        elif self._groups.is_made(new.link) or is_linked_from_elsewhere(
            self._witness.baseline, new, status
        ):
            # Its other names may lie outside of the tree, where nothing is ours to change. And what
            # a group's first path is made anew for holds for all of them.
            self._make("m", new, status)
        elif self._is_ours(new.path, status, new):
            if self._excludes and status.st_nlink > 1:
                # One of its other names may be excluded, and must not change with it.
                self._make("m", new, status)
                return
            self._note("m", new.path)
            self._plan.dressed.append(new)
        else:
            self.left.add(new.path)
            self._plan.kept.append(new.path)

    def _make(self, letter: str, new: Entry, status: os.stat_result | None) -> None:
        self._require_folder(new.path)
        self._note(_as_it_stands(letter, new, status), new.path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            if self._mounts.is_on_the_way(new.path):
                # Moved out of the way, it would take along what is mounted further inside.
                where = printable(new.path)
                raise Conflict(
                    f"{where} is no directory in the image, and something is mounted on it or "
                    f"inside: unmount that, or leave it out with --exclude /{where}"
                )
            self._replaced.append(new.path)
        elif status is not None:
            self._save_unless_ours(new.path, status, new)
        self._plan.made.append(self._groups.settle(new))

    def _require_folder(self, path: bytes) -> None:
        """See to it that a path's directory is there, or will be. Raises `Conflict`, `Corrupt`."""
        above = split(path)[0]
        if not path or self._folders.find(above) >= 0:
            return
        parts = above.split(b"/")
        for depth in range(1, len(parts) + 1):
            place = b"/".join(parts[:depth])
            if place in self._new_directories:
                continue
            status = self._folders.lstat(place)
            if status is not None and stat.S_ISDIR(status.st_mode):
                continue
            try:
                entry = self._find(place)
            except NotFound:
                self._refuse(path)
            if entry.kind != DIRECTORY:
                self._refuse(path)
            if status is not None and stat.S_ISLNK(status.st_mode) and not self._is_exact:
                raise Conflict(
                    f"{printable(place)} is a symbolic link here and a directory in the image: "
                    f"put the directory back, or leave it out with --exclude /{printable(place)}"
                )
            # Deleted here, or replaced by something that is no directory.
            self._directory("A" if status is None else "T", entry, status)


def _as_it_stands(letter: str, new: Entry, status: os.stat_result | None) -> str:
    """The letter of a change: that of the two versions, but for what the tree has there."""
    if status is None:
        return "A"
    if KIND_OF_FORMAT.get(stat.S_IFMT(status.st_mode)) != new.kind:
        return "T"
    if letter in ("M", "m"):
        return letter
    return "m" if new.kind == DIRECTORY else "M"


def _only_metadata(old: Entry, new: Entry) -> bool:
    same = (old.content, old.size, old.depth, old.link) == (
        new.content,
        new.size,
        new.depth,
        new.link,
    )
    return old.kind == new.kind == FILE and same

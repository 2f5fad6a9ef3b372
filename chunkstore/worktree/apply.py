"""Applying: what a journal says, done to the tree.

Everything needed waits aside, so only the disk can fail. In this order: what changes its kind
gives way and new files are renamed into place, in path order; what is gone is removed, deepest
first; files whose metadata changed are dressed; directories get their metadata last, since all
that came before moved their times; inode flags come at the very end, since nothing can be done to
an immutable file.

Local users may own directories of the tree and change what is in them at any moment. What was
opened is looked at before anything is done to it, and done through the descriptor: metadata and
flags go to the files we put there and to no others.

Promises: a path is its old self or its new self, never something in between. Content of the node's
own is moved to `saved` before its place is taken, whatever the plan knew of it. Doing it all again
after an interruption, wherever that was, gives the same result. A replaced set-user-id file that
is linked from elsewhere loses its powers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from chunkstore import fsio
from chunkstore.errors import Corrupt, NotFound
from chunkstore.fsio import Directory
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.names import is_below, printable, sort_key
from chunkstore.worktree import metadata, restore
from chunkstore.worktree.aside import LATE, OLD, Aside, link_standing
from chunkstore.worktree.baseline import Witness, holds, marks
from chunkstore.worktree.compare import same_content
from chunkstore.worktree.journal import Journal, Made
from chunkstore.worktree.plan import split
from chunkstore.worktree.powers import disarm, has_powers, take_powers
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.saved import Saved

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)


class Applier:
    """Does what `journal` says to `tree`.

    `find` gives the new entry of a directory, or raises `NotFound`.
    """

    def __init__(
        self,
        tree: Directory,
        journal: Journal,
        aside: Aside,
        find: Callable[[bytes], Entry],
        witness: Witness,
        shortfalls: Shortfalls,
    ) -> None:
        self._tree = tree
        self._journal = journal
        self._aside = aside
        self._find = find
        self._witness = witness
        self._shortfalls = shortfalls
        self._changing = {made.entry.path for made in journal.made} | set(journal.removed)
        self._folder_path: bytes | None = None
        self._folder_descriptor = -1
        self._devices: dict[int, bytes] = {}
        self._placed: dict[bytes, tuple[int, int]] = {}
        self._marks: dict[tuple[int, int], bytes] = {}
        self._group_sizes = Counter(made.entry.link or made.entry.path for made in journal.made)
        self._group_sizes.update({made.entry.link for made in journal.made if made.name == LATE})
        self._disarmed = 0
        self.saved = Saved(tree, journal.stamp)
        self.kept: list[bytes] = []
        """Files that were changed here since this was planned, and were left alone."""

    def run(self) -> None:
        """Change the tree, durably. Raises `OSError`, and then it can be run again."""
        journal = self._journal
        try:
            for step in self._in_order():
                if isinstance(step, Made):
                    self._place(step)
                else:
                    self._place_directory(step)
            for path in reversed(journal.removed):
                self._remove(path)
            for path in journal.swept:
                self._sweep(path)
            for entry in journal.dressed:
                self._dress_file(entry)
            self._dress_directories()
            self._set_flags()
            self._note_baseline()
            self._disarm()
            self._sync()
        finally:
            self._leave()

    def _in_order(self) -> Iterator[Made | Entry]:
        steps: list[tuple[bytes, Made | Entry]] = [
            *((sort_key(entry.path), entry) for entry in self._journal.directories),
            *((sort_key(made.entry.path), made) for made in self._journal.made),
        ]
        return (step for _, step in sorted(steps, key=lambda item: item[0]))

    def _sync(self) -> None:
        """Make all of it durable, on whatever file systems inside the tree it lies."""
        self._leave()
        fsio.sync_filesystem(self._tree.descriptor)
        for path in self._devices.values():
            with suppress(FileNotFoundError):
                descriptor = self._tree.open_directory(path)
                try:
                    fsio.sync_filesystem(descriptor)
                finally:
                    os.close(descriptor)

    # Directories are held by descriptor, the last one open: steps come in path order.

    def _folder(self, path: bytes) -> int:
        above = split(path)[0]
        if above != self._folder_path:
            self._leave()
            self._folder_descriptor = self._tree.open_directory(above)
            self._folder_path = above
            self._devices.setdefault(os.fstat(self._folder_descriptor).st_dev, above)
        return self._folder_descriptor

    def _leave(self) -> None:
        if self._folder_descriptor >= 0:
            os.close(self._folder_descriptor)
        self._folder_path, self._folder_descriptor = None, -1

    @contextmanager
    def _opened_file(self, path: bytes) -> Iterator[int]:
        descriptor = fsio.open_file(self._folder(path), split(path)[1])
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # Placing

    def _place_directory(self, entry: Entry) -> None:
        if not entry.path:
            return
        folder = self._folder(entry.path)
        name = split(entry.path)[1]
        status = fsio.lstat(folder, name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return
        if status is not None:
            self._give_way(entry.path, folder, name, status)
        self._insist(folder, name, lambda: os.mkdir(name, 0o700, dir_fd=folder))

    def _place(self, made: Made) -> None:
        entry, number, waiting = made
        aside = self._aside.descriptors[number]
        folder = self._folder(entry.path)
        name = split(entry.path)[1]
        status = fsio.lstat(folder, name)
        if waiting == LATE and aside >= 0:
            waiting = self._link_late(entry, aside)
        if not waiting:
            return  # refused
        if aside < 0:
            self._require_placed(entry, folder, name, status)
            return
        try:
            # Held by descriptor until it is there, so that no other can get its number.
            held = os.open(waiting, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=aside)
        except FileNotFoundError:
            return  # in its place since before an interruption: nothing else takes it from there
        try:
            if self._move_in(entry, status, aside, waiting):
                self._note_placed(entry.path, held)
        finally:
            os.close(held)

    def _move_in(
        self, entry: Entry, status: os.stat_result | None, aside: int, waiting: bytes
    ) -> bool:
        """Give a finished file its place. Returns False when it had to be copied there."""
        name = split(entry.path)[1]
        folder = self._folder(entry.path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._clear_directory(entry.path, folder, name)
        elif status is not None:
            self._give_way(entry.path, folder, name, status, entry, replaced=True)
        folder = self._folder(entry.path)

        def rename() -> None:
            os.rename(waiting, name, src_dir_fd=aside, dst_dir_fd=folder)

        try:
            self._insist(folder, name, rename)
        except OSError as error:
            if error.errno != errno.EXDEV or entry.kind != FILE:
                raise
            self._carry(entry, aside, waiting, folder, name)
            return False
        return True

    def _note_placed(self, path: bytes, descriptor: int) -> None:
        """Remember how a file looks that we have just put there, or given new metadata."""
        status = os.fstat(descriptor)
        key = self._placed[path] = status.st_dev, status.st_ino
        self._marks[key] = marks(status)

    def _is_placed(self, path: bytes, status: os.stat_result) -> bool:
        """Whether it is the file that was put there in this run, and nobody has touched it since.

        Its number alone does not tell: the next file that is made gets that of one that is gone.
        Of linked files each further one moves the marks of all, so they are kept by inode.
        """
        key = self._placed.get(path)
        return key is not None and self._marks[key] == marks(status)

    def _require_placed(
        self, entry: Entry, folder: int, name: bytes, status: os.stat_result | None
    ) -> None:
        """See that what waited in a directory that is gone is in its place.

        Raises `Corrupt`: then somebody has taken the directory, and only a pull can help.
        """
        if status is None or not holds(folder, name, status, entry, self._witness.load):
            where = printable(entry.path)
            raise Corrupt(f"{where}: what was made for the update is gone: pull again", where=where)

    def _link_late(self, entry: Entry, aside: int) -> bytes:
        """Link to an immutable file, whose flags come back with the others at the end."""
        above, first = split(entry.link)
        with fsio.opened(self._tree, above, os.O_RDONLY | os.O_DIRECTORY) as source:
            metadata.lift_flags(source, first)
        with suppress(FileNotFoundError):
            os.unlink(b"late", dir_fd=aside)
        link_standing(self._tree, entry, aside, b"late", self._witness.load)
        return b"late"

    def _carry(self, entry: Entry, aside: int, waiting: bytes, folder: int, name: bytes) -> None:
        """Bring a file across a border that is no mount, such as that of a btrfs subvolume."""
        temporary = b".imgstore-" + waiting
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        source = fsio.open_file(aside, waiting)
        try:
            parts = iter(lambda: os.read(source, 1 << 20), b"")
            content = ((part, len(part)) for part in parts)
            descriptor = restore.make_file(folder, temporary, content, entry.size)
        finally:
            os.close(source)
        try:
            restore.dress(descriptor, entry, self._shortfalls)
            # Before the rename: else a power cut may leave the name on an empty file.
            os.fsync(descriptor)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            self._note_placed(entry.path, descriptor)
        finally:
            os.close(descriptor)
        os.unlink(waiting, dir_fd=aside)

    # Giving way

    def _give_way(
        self,
        path: bytes,
        folder: int,
        name: bytes,
        status: os.stat_result,
        *more: Entry,
        replaced: bool = False,
    ) -> None:
        """Take away what stands at a path and is no directory; `replaced` by a rename, it stays.

        Content that neither the image had there nor `more` says goes to `saved`.
        """
        if not self._witness.is_ours(path, folder, name, status, *more):
            self._save(path, folder, name)
            return
        self._hold_powers(path, folder, name, status)
        if not replaced:
            self._insist(folder, name, lambda: os.unlink(name, dir_fd=folder))

    def _clear_directory(self, path: bytes, folder: int, name: bytes) -> None:
        """Take a directory away that becomes something else, with all the image knows in it."""
        for inside in reversed(self._journal.removed):
            if is_below(inside, path):
                self._remove(inside)
        folder = self._folder(path)
        try:
            self._insist(folder, name, lambda: os.rmdir(name, dir_fd=folder))
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            # The node's own files are in it: they are not ours to delete.
            self._save(path, folder, name)

    def _save(self, path: bytes, folder: int, name: bytes) -> None:
        """Move what the image does not know out of its way."""
        self.saved.take(path, folder, name, lambda move: self._insist(folder, name, move))

    def _remove(self, path: bytes) -> None:
        """Remove a path the image has no more; directories only if they are empty then."""
        try:
            folder = self._folder(path)
        except OSError as error:
            # Something on the way is gone or has become a file or a symlink.
            if error.errno in _NOT_THERE:
                return
            raise
        name = split(path)[1]
        status = fsio.lstat(folder, name)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._remove_directory(folder, name)
        else:
            self._give_way(path, folder, name, status)

    def _remove_directory(self, folder: int, name: bytes) -> None:
        try:
            self._insist(folder, name, lambda: os.rmdir(name, dir_fd=folder))
        except OSError as error:
            # Something the image does not know is in it and stays, and so does the directory.
            if error.errno not in _NOT_EMPTY:
                raise

    def _sweep(self, path: bytes) -> None:
        """Remove what a mirror must not have."""
        try:
            folder = self._folder(path)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return
            raise
        name = split(path)[1]
        status = fsio.lstat(folder, name)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._remove_directory(folder, name)
        else:
            self._insist(folder, name, lambda: os.unlink(name, dir_fd=folder))

    def _insist(self, folder: int, name: bytes, action: Callable[[], None]) -> None:
        """Do it; when an immutable file or directory is in the way, lift that and do it again.

        The directory gets its flags back with its other metadata, at the end.
        """
        try:
            action()
        except PermissionError:
            with suppress(OSError):
                metadata.write_flags(folder, 0)
            metadata.lift_flags(folder, name)
            action()

    # Set-user-id files that are replaced: somebody may have linked to them to keep an old, broken
    # one. The old inode is held by a link of our own, which an interruption does not lose.

    def _hold_powers(self, path: bytes, folder: int, name: bytes, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) or not has_powers(folder, name, status):
            return
        if self._stays_elsewhere(path, status):
            return
        metadata.lift_flags(folder, name)
        for descriptor in self._aside.there:
            held = b"%s%d-%s" % (OLD, self._disarmed, os.urandom(4).hex().encode())
            with suppress(OSError):
                os.link(name, held, src_dir_fd=folder, dst_dir_fd=descriptor, follow_symlinks=False)
                self._disarmed += 1
                return
        # It can't be linked to where we are: take the powers now, for a moment too early. Who knows
        # whether somebody links to it before it is gone.
        descriptor = fsio.open_file(folder, name)
        try:
            take_powers(descriptor)
        finally:
            os.close(descriptor)

    def _stays_elsewhere(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the image itself goes on using the file, under the first path of its group.

        Of a group whose first path changes, every member is made anew.
        """
        for entry in self._witness.known(path):
            leader = entry.link
            if not leader or leader in self._changing:
                continue
            above, name = split(leader)
            with suppress(OSError), fsio.opened(self._tree, above, os.O_PATH) as folder:
                other = fsio.lstat(folder, name)
                if other is not None and os.path.samestat(other, status):
                    return True
        return False

    def _disarm(self) -> None:
        for descriptor in self._aside.there:
            for name in map(os.fsencode, os.listdir(descriptor)):
                if name.startswith(OLD):
                    disarm(descriptor, name)

    # Metadata

    def _dress_file(self, entry: Entry) -> None:
        try:
            folder, name = self._folder(entry.path), split(entry.path)[1]
            status = fsio.lstat(folder, name)
            if status is None or not stat.S_ISREG(status.st_mode):
                return
            with self._opened_file(entry.path) as descriptor:
                if self._witness.may_dress(entry.path, descriptor, entry):
                    self._dress(descriptor, entry)
                    self._note_placed(entry.path, descriptor)
                else:
                    self.kept.append(entry.path)
        except OSError as error:
            # It was regular when this was planned; what took its place since is not the image's.
            if error.errno not in (*_NOT_THERE, errno.ENXIO):
                raise

    def _dress(self, descriptor: int, entry: Entry) -> None:
        restore.undress(descriptor, entry, self._shortfalls)
        restore.dress(descriptor, entry, self._shortfalls)
        restore.set_flags(descriptor, entry, self._shortfalls)

    def _dress_directories(self) -> None:
        """Metadata of changed directories, times of those something changed in; inner ones first.

        A mode or owner given to a directory here stays if the image does not change it.
        """
        self._leave()
        changed = {entry.path: entry for entry in self._journal.directories}
        for path in sorted({*self._journal.touched, *changed}, key=sort_key, reverse=True):
            entry = changed.get(path)
            try:
                entry = entry or self._find(path)
                descriptor = self._tree.open_directory(path)
            except NotFound:
                continue
            except OSError as error:
                if error.errno in _NOT_THERE:
                    continue
                raise
            try:
                if path in changed:
                    self._dress(descriptor, entry)
                elif entry.kind == DIRECTORY:
                    if entry.flags:
                        with suppress(OSError):
                            metadata.write_flags(descriptor, 0)
                    restore.set_time(descriptor, entry, self._shortfalls)
                    if entry.flags:
                        restore.set_flags(descriptor, entry, self._shortfalls)
            finally:
                os.close(descriptor)

    def _set_flags(self) -> None:
        for entry, _, waiting in self._journal.made:
            if entry.flags and entry.kind == FILE and waiting:
                with suppress(FileNotFoundError), self._opened_file(entry.path) as descriptor:
                    if self._is_placed(entry.path, os.fstat(descriptor)) or (
                        entry.path not in self._placed and self._was_placed(entry, descriptor)
                    ):
                        restore.set_flags(descriptor, entry, self._shortfalls)
                        self._note_placed(entry.path, descriptor)

    def _was_placed(self, entry: Entry, descriptor: int) -> bool:
        """Whether an open file is, for all one sees, in its place since before an interruption.

        It has no more names than its group, so that none of them lies elsewhere.
        """
        status = os.fstat(descriptor)
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == entry.size
            and status.st_nlink <= self._group_sizes[entry.link or entry.path]
            and same_content(descriptor, entry, self._witness.load)
        )

    def _note_baseline(self) -> None:
        """Remember how things stand now, to tell later what was changed here."""
        baseline = self._witness.baseline
        for path in self._journal.removed:
            baseline.forget(path)
        made = [step.entry for step in self._journal.made if step.name]
        for entry in sorted((*made, *self._journal.dressed), key=lambda item: sort_key(item.path)):
            with suppress(OSError):
                status = fsio.lstat(self._folder(entry.path), split(entry.path)[1])
                # What came to its place before an interruption will be compared by content.
                if status is not None and self._is_placed(entry.path, status):
                    baseline.note(entry.path, status)
        baseline.flush()

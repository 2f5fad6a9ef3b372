"""Set-user-id files that are replaced, and others that give powers to whoever runs them.

Somebody may have linked to one to keep an old, broken program. Promises: a replaced file that the
image does not go on using under another path loses its powers, under whatever names it has. The
old inode is held aside by a link of our own, which an interruption does not lose.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from chunkstore import fsio
from chunkstore.fsio import Directory
from chunkstore.objects.names import split
from chunkstore.worktree import metadata
from chunkstore.worktree.aside import OLD, Aside
from chunkstore.worktree.baseline import Witness
from chunkstore.worktree.journal import Journal
from chunkstore.worktree.powers import disarm, has_powers, take_powers


class Replaced:
    """The files with powers that one update replaces."""

    def __init__(self, tree: Directory, journal: Journal, aside: Aside, witness: Witness) -> None:
        self._tree = tree
        self._aside = aside
        self._witness = witness
        self._changing = {made.entry.path for made in journal.made} | set(journal.removed)
        self._count = 0

    def hold(self, path: bytes, folder: int, name: bytes, status: os.stat_result) -> None:
        """Take note of what is about to lose its place at `path`. Raises `OSError`."""
        if not stat.S_ISREG(status.st_mode) or not has_powers(folder, name, status):
            return
        if self._stays_elsewhere(path, status):
            return
        metadata.lift_flags(folder, name)
        for descriptor in self._aside.there:
            held = b"%s%d-%s" % (OLD, self._count, os.urandom(4).hex().encode())
            with suppress(OSError):
                os.link(name, held, src_dir_fd=folder, dst_dir_fd=descriptor, follow_symlinks=False)
                self._count += 1
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

    def disarm(self) -> None:
        """Take the powers of all that was held, in this run or one that was interrupted."""
        for descriptor in self._aside.there:
            for name in map(os.fsencode, os.listdir(descriptor)):
                if name.startswith(OLD):
                    disarm(descriptor, name)

"""Saved things: what was changed here and stood in an update's way, moved to the node's state.

They lie in `.imgstore/saved/<stamp>/` under their own paths, readable by nobody but us. What lies
on another file system than the node's state can't be moved there, and stays beside its old place
as `.imgstore-saved-<stamp>-<name>`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.fsio import Directory
from chunkstore.objects.names import STATE_DIR

ROOT: Final = STATE_DIR + b"/saved"
_MAX_NAME: Final = 255


class Saved:
    """What one update moved out of its way: (old path, new path), both relative to the tree."""

    def __init__(self, tree: Directory, stamp: str) -> None:
        self._tree = tree
        self._stamp = stamp.encode()
        self.moved: list[tuple[bytes, bytes]] = []

    def all_of(self, planned: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """What was moved, and of what was planned what an interrupted run had moved before."""
        known = {path for path, _ in self.moved}
        earlier = ((path, self._place_of(path)) for path in planned if path not in known)
        return [*((path, place) for path, place in earlier if place is not None), *self.moved]

    def _place_of(self, path: bytes) -> bytes | None:
        above, _, name = path.rpartition(b"/")
        beside = b".imgstore-saved-" + self._stamp + b"-" + name
        for place in (
            b"/".join((ROOT, self._stamp, path)),
            above + b"/" + beside if above else beside,
        ):
            folder, _, last = place.rpartition(b"/")
            with (
                suppress(OSError),
                fsio.opened(self._tree, folder, os.O_PATH | os.O_DIRECTORY) as descriptor,
            ):
                if fsio.lstat(descriptor, last) is not None:
                    return place
        return None

    def take(
        self, path: bytes, folder: int, name: bytes, insist: Callable[[Callable[[], None]], None]
    ) -> None:
        """Move what stands at `path`; `insist` gets past inode flags. Raises `OSError`."""
        above, _, _ = path.rpartition(b"/")
        shelf = self._shelf(above)
        try:
            free = _free_name(shelf, name)

            def move() -> None:
                os.rename(name, free, src_dir_fd=folder, dst_dir_fd=shelf)

            place = b"/".join(filter(None, (ROOT, self._stamp, above, free)))
            try:
                insist(move)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                beside = _free_name(folder, b".imgstore-saved-" + self._stamp + b"-" + name)
                os.rename(name, beside, src_dir_fd=folder, dst_dir_fd=folder)
                place = above + b"/" + beside if above else beside
        finally:
            os.close(shelf)
        self.moved.append((path, place))

    def _shelf(self, above: bytes) -> int:
        """The directory for what stood in `above`, made with all on the way, open."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        shelf = self._tree.open_directory(STATE_DIR)
        for part in filter(None, (b"saved", self._stamp, *above.split(b"/"))):
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=shelf)
                try:
                    below = os.open(part, flags, dir_fd=shelf)
                except NotADirectoryError:
                    # A file of that name was saved before the directory it became.
                    other = _free_name(shelf, part)
                    os.mkdir(other, 0o700, dir_fd=shelf)
                    below = os.open(other, flags, dir_fd=shelf)
            finally:
                os.close(shelf)
            shelf = below
        return shelf


def _free_name(folder: int, name: bytes) -> bytes:
    """`name`, or something like it that is not taken; still a name a file system can hold."""
    name = name[:_MAX_NAME]
    if fsio.lstat(folder, name) is None:
        return name
    ending = os.fsencode(fsio.fresh_name(""))
    return name[: _MAX_NAME - len(ending)] + ending

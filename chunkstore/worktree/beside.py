"""The directory of ours beside a tree, in the same folder: `.NAME.imgstore`.

It is made by us, closed to all others (0700) and known by owner and mode once it is open, no link
followed; what lies inside needs no check then, since nobody else gets there. Being closed also
keeps old programs away from everybody: a previous tree may hold the very set-user-id program that
the update replaced because of a hole in it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from chunkstore.errors import Conflict
from chunkstore.objects.names import printable

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Beside:
    """The one beside the tree `name` in the open directory `above`, which is at `folder`."""

    def __init__(self, above: int, folder: bytes, name: bytes) -> None:
        self._above = above
        self._name = b"." + name + b".imgstore"
        self._held: int | None = None
        self._path = os.path.join(folder, self._name)

    @property
    def path(self) -> str:
        """Where it is; for those who take no descriptor."""
        return os.fsdecode(self._path)

    def make(self) -> int:
        """As `open`, and makes it when there is none."""
        with suppress(FileExistsError):
            os.mkdir(self._name, 0o700, dir_fd=self._above)
        folder = self.open()
        if folder is None:
            raise self._planted()
        return folder

    def open(self) -> int | None:
        """A descriptor of it, held until `close`; None when there is none.

        Raises `OSError`; `Conflict` when what is there is not ours.
        """
        if self._held is not None:
            return self._held
        try:
            descriptor = os.open(self._name, _FOLDER, dir_fd=self._above)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise self._planted() from error
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            os.close(descriptor)
            raise self._planted()
        # A folder may hand down its group to what is made inside; that is of no use here.
        os.fchmod(descriptor, 0o700)
        self._held = descriptor
        return descriptor

    def _planted(self) -> Conflict:
        return Conflict(
            f"{printable(self._path)} is not a directory of ours alone: look who made it, and "
            "remove it"
        )

    def tidy(self) -> None:
        """Leave no empty directory behind where nothing was to be done."""
        if self._held is not None and not os.listdir(self._held):
            os.rmdir(self._name, dir_fd=self._above)
            self.close()

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

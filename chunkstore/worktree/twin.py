"""One path of a tree cloned into another: made, filled, dressed, linked.

Promises: nothing is opened through a link; a file is readable by nobody else until its metadata
is complete; memory grows with hardlinked files only. Leaves the walk, and directories' content, to
`clone`.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import Final

from chunkstore.errors import LocalError
from chunkstore.fsio import NOT_THERE, Directory
from chunkstore.objects.entry import Entry
from chunkstore.objects.names import printable
from chunkstore.progress import Progress
from chunkstore.worktree import capture, duplicate, metadata, restore
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.scan import Found

_ATTEMPTS: Final = 3
_NO_COPY_ON_WRITE: Final = 0x00800000
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

GONE: Final = (*NOT_THERE, errno.ESTALE)
"""What is said of a path that is there no more, or is something else now."""


@dataclass
class CloneReport:
    """What was cloned. Bytes are those of content: whole files shared, data without holes copied.

    `vanished` counts paths that were gone, or something else, by the time they were to be cloned.
    """

    paths: int = 0
    reflinked_files: int = 0
    reflinked_bytes: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    sockets: int = 0
    vanished: int = 0
    shortfalls: Shortfalls = field(default_factory=Shortfalls)


class Twins:
    """Makes the paths of `target`. `shares`: files can be reflinked."""

    def __init__(
        self, target: Directory, report: CloneReport, progress: Progress, *, shares: bool
    ) -> None:
        self._target = target
        self._report = report
        self._progress = progress
        self._shares = shares
        self._groups: dict[tuple[int, ...], bytes] = {}
        self._flagged: list[Entry] = []

    def complete(self, folder: int, entry: Entry) -> None:
        """Dress a directory that has got all its content."""
        restore.dress(folder, entry, self._report.shortfalls)
        if entry.flags:
            restore.set_flags(folder, entry, self._report.shortfalls)

    def set_late_flags(self) -> None:
        """Make immutable what had to stay as it was until all its names were there."""
        for entry in self._flagged:
            above, _, name = entry.path.rpartition(b"/")
            folder = self._target.open_directory(above)
            try:
                descriptor = os.open(name, _READ, dir_fd=folder)
                try:
                    restore.set_flags(descriptor, entry, self._report.shortfalls)
                finally:
                    os.close(descriptor)
            finally:
                os.close(folder)

    def clone(self, folder: int, target: int, above: bytes, name: str, *, is_file: bool) -> None:
        """Clone what is no directory: `name` in `folder` into `target`, both at path `above`."""
        try:
            for _ in range(_ATTEMPTS):
                make = self._file if is_file else self._special
                if make(folder, target, above, name):
                    return
                # It was replaced by something of another type since it was listed.
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    break
                is_file = stat.S_ISREG(mode)
            self._report.vanished += 1
        except FileNotFoundError:
            self._report.vanished += 1
        except FileExistsError:
            # A directory that changes while it is read may name something twice.
            return
        except OSError as error:
            where = printable(join(above, name))
            reason = error.strerror or str(error)
            raise LocalError(f"can't clone {where}: {reason}", errno=error.errno) from error

    def _special(self, folder: int, target: int, above: bytes, name: str) -> bool:
        """Clone what is neither file nor directory; False when it is not there as such."""
        path = join(above, name)
        raw = os.fsencode(name)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                # Only the program that listens on it can make it.
                self._report.sockets += 1
                self._progress.advance(files=1)
                return True
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                return False
            entry = capture.capture_other(Found(path, status, folder, raw, b""))
        except OSError as error:
            if error.errno in (*GONE, errno.EINVAL):
                return False
            raise
        if not self._is_linked(target, above, name, status):
            restore.make_special(target, raw, entry, self._report.shortfalls)
        self._report.paths += 1
        self._progress.advance(files=1)
        return True

    def _is_linked(self, target: int, above: bytes, name: str, status: os.stat_result) -> bool:
        """Link what has a name in the target already; remember the first name of a group."""
        if status.st_nlink == 1:
            return False
        # Not by the inode's number alone: it may be that of another file by now, even of another
        # owner, who would then have his file in the place of this one.
        identity = (
            *(status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid),
            *(status.st_size, status.st_mtime_ns, status.st_rdev),
        )
        first = self._groups.setdefault(identity, join(above, name))
        first_above, _, first_name = first.rpartition(b"/")
        if (first_above, first_name) == (above, os.fsencode(name)):
            return False
        source = self._target.open_directory(first_above)
        try:
            os.link(first_name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            # The first one was a device that could not be made.
            return False
        finally:
            os.close(source)
        return True

    def _file(self, folder: int, target: int, above: bytes, name: str) -> bool:
        """Clone a regular file; False when it is not there as such."""
        try:
            source = _open(name, folder)
        except OSError as error:
            if error.errno in (*GONE, errno.ENXIO):
                return False
            raise
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode):
                return False
            if self._is_linked(target, above, name, status):
                self._progress.advance(size=status.st_size)
            else:
                made = os.open(name, _MAKE, 0o600, dir_fd=target)
                try:
                    self._fill(made, source, status, above, name)
                finally:
                    os.close(made)
        finally:
            os.close(source)
        self._report.paths += 1
        self._progress.advance(files=1)
        return True

    def _fill(
        self, made: int, source: int, status: os.stat_result, above: bytes, name: str
    ) -> None:
        flags = metadata.read_flags(source)
        if flags & _NO_COPY_ON_WRITE:
            # Only an empty file takes it, and only its like can share with it.
            metadata.write_flags(made, _NO_COPY_ON_WRITE)
        self._content(made, source, status)
        xattrs = metadata.read_xattrs(source)
        try:
            # In this order: see `restore.dress`, which says what was refused, one kind at a time.
            os.fchown(made, status.st_uid, status.st_gid)
            os.fchmod(made, stat.S_IMODE(status.st_mode))
            for key, value in xattrs:
                os.setxattr(made, key, value)
            os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
            if not flags:
                return
        except OSError:
            restore.dress(
                made, _describe(status, above, name, xattrs, flags), self._report.shortfalls
            )
        if flags:
            entry = _describe(status, above, name, xattrs, flags)
            if status.st_nlink > 1 and flags & metadata.IMMUTABLE_FLAGS:
                self._flagged.append(entry)
            else:
                restore.set_flags(made, entry, self._report.shortfalls)

    def _content(self, made: int, source: int, status: os.stat_result) -> None:
        report, size = self._report, status.st_size
        if self._shares and size and duplicate.share(made, source):
            report.reflinked_files += 1
            report.reflinked_bytes += size
            self._progress.advance(size=size)
            return
        report.copied_files += 1
        if size:
            copied = duplicate.copy(
                made, source, status, lambda length: self._progress.advance(size=length)
            )
            report.copied_bytes += copied
            self._progress.advance(size=max(0, size - copied))


def join(above: bytes, name: str) -> bytes:
    """The path of a name in the directory at `above`."""
    return above + b"/" + os.fsencode(name) if above else os.fsencode(name)


def _describe(
    status: os.stat_result,
    above: bytes,
    name: str,
    xattrs: tuple[tuple[bytes, bytes], ...],
    flags: int,
) -> Entry:
    path = join(above, name)
    return capture.describe(path, status, content=b"", xattrs=xattrs, flags=flags, link=b"")


def _open(name: str, folder: int) -> int:
    try:
        # Reading a tree must not leave marks on it; only owners and root may ask for that.
        return os.open(name, _READ | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, _READ, dir_fd=folder)

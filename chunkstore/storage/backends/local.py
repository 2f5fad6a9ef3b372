"""Objects as files below a directory.

Promises: an object is replaced whole or not at all, and is durable once a call has returned.
Nothing is reached through a symbolic link below the root, so one that was planted there is refused
and not followed. Reading works on a read-only file system. Names that begin with '.' are files on
their way and never objects.

Leaves to the caller: to change an object either by `swap` always or by `put` always, since `put`
does not take the lock that `swap` holds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from chunkstore import fsio
from chunkstore.errors import ChunkstoreError, Conflict, LocalError, NotFound, Usage, local_errors
from chunkstore.storage.backends import (
    RESERVED,
    check_name,
    check_prefix,
    check_range,
    is_object_name,
)

KEPT_OPEN: Final = 64
"""Descriptors kept between reads: a pull reads few packs many times."""
_LOCK: Final = f"{RESERVED}/refs.lock"
_COPY_BYTES: Final = 1024 * 1024


class _OpenFile:
    """A descriptor that closes when the last thread reading from it has let go."""

    __slots__ = ("descriptor", "identity")

    def __init__(self, descriptor: int, identity: tuple[int, int]) -> None:
        self.descriptor = descriptor
        self.identity = identity

    def __del__(self) -> None:
        os.close(self.descriptor)


class LocalBackend:
    """A store in a directory. `create` makes the directory when it is missing."""

    def __init__(self, root: str, *, create: bool = False) -> None:
        self.root = os.path.abspath(root)
        self._closed = False
        self._lock = threading.Lock()
        self._open_files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._durable: set[str] = set()
        with local_errors("can't open store"):
            if create:
                _make_root(self.root)
            try:
                self._directory = fsio.Directory(self.root)
            except FileNotFoundError:
                raise NotFound(f"no store in {self.root}: no such directory", name=root) from None

    def close(self) -> None:
        """Close all descriptors, the ones in use as soon as they are done with."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._open_files.clear()
                self._directory.close()

    # Reading

    def get(self, name: str, start: int, stop: int) -> bytes:
        """Part of a file."""
        check_range(start, stop)
        file = self._held(name)
        with local_errors(f"can't read {name} in {self.root}"):
            # A read takes memory for all it is asked for; callers ask for what they can bear.
            stop = min(stop, os.fstat(file.descriptor).st_size)
            return fsio.read_at(file.descriptor, start, stop)

    def size(self, name: str) -> int:
        """Length of a file."""
        file = self._held(name)
        with local_errors(f"can't read {name} in {self.root}"):
            return os.fstat(file.descriptor).st_size

    def _held(self, name: str) -> _OpenFile:
        """The file of that name, opened unless it is open already and still the same."""
        check_name(name)
        with self._lock:
            self._check_open()
            file = self._open_files.get(name)
            if file is not None:
                self._open_files.move_to_end(name)
        if file is not None and self._is_current(name, file):
            return file
        self._forget(name)
        file = self._open(name)
        with self._lock:
            self._check_open()
            self._open_files[name] = file
            if len(self._open_files) > KEPT_OPEN:
                self._open_files.popitem(last=False)
        return file

    def _is_current(self, name: str, file: _OpenFile) -> bool:
        # Another process may have replaced or deleted it. An inode that is held open keeps its
        # number to itself, so equal numbers mean the same file.
        try:
            found = os.stat(name, dir_fd=self._directory.descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == file.identity

    def _open(self, name: str) -> _OpenFile:
        try:
            # Without O_NONBLOCK, a planted fifo would hold us up for ever.
            descriptor = self._directory.open(name.encode(), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise self._refusal(name, error) from error
        status = os.fstat(descriptor)
        file = _OpenFile(descriptor, (status.st_dev, status.st_ino))
        if stat.S_ISDIR(status.st_mode):
            raise NotFound(f"no object {name} in {self.root}", name=name)
        if not stat.S_ISREG(status.st_mode):
            raise LocalError(f"{self.root}/{name} is no regular file; remove it from the store")
        return file

    def _refusal(self, name: str, error: OSError) -> ChunkstoreError:
        what = f"can't open {name} in {self.root}"
        # A link where a directory was wanted is ENOTDIR, too; but it is no honest absence.
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and self._has_link(name)):
            reason = "leads through a symbolic link, which a store never follows"
            return LocalError(f"{what}: {reason}", errno=errno.ELOOP)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return NotFound(f"no object {name} in {self.root}", name=name)
        return LocalError(f"{what}: {error.strerror}", errno=error.errno)

    def _has_link(self, name: str) -> bool:
        root, above = self._directory.descriptor, name.rstrip("/")
        while above:
            with suppress(OSError):
                if stat.S_ISLNK(os.stat(above, dir_fd=root, follow_symlinks=False).st_mode):
                    return True
            above = above.rpartition("/")[0]
        return False

    def _check_open(self) -> None:
        # A closed descriptor's number may belong to another file by now.
        if self._closed:
            raise Usage(f"store {self.root} was closed")

    def _forget(self, name: str) -> None:
        with self._lock:
            self._open_files.pop(name, None)

    def list(self, prefix: str) -> Iterator[str]:
        """Names of the files below a prefix."""
        check_prefix(prefix)
        return self._walk(prefix)

    def _walk(self, prefix: str) -> Iterator[str]:
        self._check_open()
        try:
            descriptor = self._directory.open_directory(prefix[:-1].encode())
        except OSError as error:
            refusal = self._refusal(prefix, error)
            if isinstance(refusal, NotFound):
                return
            raise refusal from error
        try:
            with (
                local_errors(f"can't list {prefix} in {self.root}"),
                os.scandir(descriptor) as found,
            ):
                names = [
                    prefix + item.name + "/" * item.is_dir(follow_symlinks=False)
                    for item in found
                    if item.is_file(follow_symlinks=False) or item.is_dir(follow_symlinks=False)
                ]
        finally:
            os.close(descriptor)
        # With its '/', a directory sorts where the names of the objects in it belong.
        for name in sorted(names):
            if not is_object_name(name.removesuffix("/")):
                continue
            if name.endswith("/"):
                yield from self._walk(name)
            else:
                yield name

    # Writing

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        with self._writing(name) as path:
            fsio.write_durably(path, data)

    def put_file(self, name: str, path: str) -> None:
        """Move a file here, or copy it from another file system; it keeps its mode."""
        with self._writing(name) as target:
            try:
                fsio.move_durably(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy_durably(path, target)
                os.unlink(path)

    @contextmanager
    def _writing(self, name: str) -> Iterator[str]:
        """The path to write `name` to, in a directory that is there, is durable and is ours."""
        check_name(name)
        self._check_open()
        folder, _, _ = name.rpartition("/")
        with local_errors(f"can't write {name} in {self.root}"):
            self._make_folder(folder)
            yield f"{self.root}/{name}"
        # What was replaced would otherwise take up space until it is asked for again.
        self._forget(name)

    def _make_folder(self, folder: str, mode: int = 0o755) -> None:
        """Make a directory below the root and those above it unless they are there; durably."""
        if folder in self._durable:
            with suppress(FileNotFoundError):
                os.close(self._open_folder(folder))
                return
        # One by one and by descriptor: a planted link must not have us make them elsewhere.
        made = ""
        parent = self._open_folder("")
        try:
            for component in folder.split("/") if folder else ():
                with suppress(FileExistsError):
                    os.mkdir(component, mode, dir_fd=parent)
                # Even if it was there: who made it just now may not have come this far yet.
                os.fsync(parent)
                made = f"{made}/{component}" if made else component
                below = self._open_folder(made)
                os.close(parent)
                parent = below
        finally:
            os.close(parent)
        self._durable.add(folder)

    def _open_folder(self, folder: str) -> int:
        try:
            return self._directory.open_directory(folder.encode())
        except OSError as error:
            refusal = self._refusal(folder, error)
            if isinstance(refusal, NotFound):
                raise
            raise refusal from error

    def delete(self, name: str) -> None:
        """Remove a file."""
        check_name(name)
        self._check_open()
        folder, _, last = name.rpartition("/")
        self._forget(name)
        try:
            descriptor = self._directory.open_directory(folder.encode())
        except OSError as error:
            refusal = self._refusal(name, error)
            if isinstance(refusal, NotFound):
                return
            raise refusal from error
        try:
            with local_errors(f"can't delete {name} in {self.root}"):
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(last, dir_fd=descriptor)
                # Also when it was gone: an unlink before a crash may not have reached the disk.
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> None:
        """Replace a file that still is `old`, one process at a time."""
        check_name(name)
        self._check_open()
        with self._exclusively():
            if self._content(name, 0 if old is None else len(old) + 1) != old:
                raise Conflict(f"{name} was changed by somebody else meanwhile; run this again")
            if new is not None:
                self.put(name, new)
            elif old is not None:
                self.delete(name)

    def _content(self, name: str, limit: int) -> bytes | None:
        try:
            return self.get(name, 0, limit)
        except NotFound:
            return None

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        # The kernel lets go of the lock when its holder dies. It counts per open file, so threads
        # of one process keep each other out as well.
        with local_errors(f"can't lock the refs of {self.root}"):
            self._make_folder(RESERVED, 0o700)
            descriptor = self._directory.open(_LOCK.encode(), os.O_RDWR | os.O_CREAT)
        try:
            with local_errors(f"can't lock the refs of {self.root}"):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make_root(path: str) -> None:
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        _make_root(above)
    with suppress(FileExistsError):
        os.mkdir(path, 0o755)
        fsio.sync_directory(above)


def _copy_durably(source: str, path: str) -> None:
    import shutil

    temporary = os.path.join(os.path.dirname(path), fsio.fresh_name())
    try:
        with open(source, "rb") as old:
            mode = stat.S_IMODE(os.fstat(old.fileno()).st_mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(temporary, flags, mode), "wb") as new:
                shutil.copyfileobj(old, new, _COPY_BYTES)
        fsio.move_durably(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

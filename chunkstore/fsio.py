"""The ground floor of file access: durable replacement, directory descriptors, confined paths.

Promises: `write_durably` leaves the old file or the new one, whole, whatever happens in between,
and the new one survives a power cut once it has returned. Nothing below a `Directory` is ever
reached through a symbolic link.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_PATIENCE: Final = 1000
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_HOW: Final = struct.Struct("<QQQ")
_RENAME_EXCHANGE: Final = 2
_RENAMEAT2: Final = {"x86_64": 316, "i686": 353, "aarch64": 276, "riscv64": 276, "armv7l": 382}
_FICLONE: Final = 0x40049409
_LONGEST: Final = 4095
_STATFS_ROOM: Final = 256
_CONFINED: Final = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS

_counter_lock = threading.Lock()
_counter = 0


def fresh_name(prefix: str = ".new") -> str:
    """A file name no other writer on this machine is using now."""
    global _counter  # noqa: PLW0603  one counter per process is the point
    with _counter_lock:
        _counter += 1
        return f"{prefix}-{os.getpid()}-{_counter}-{os.urandom(4).hex()}"


def is_fresh_name(name: str) -> bool:
    """Whether this is a name `fresh_name` gave to a file that was to get another one."""
    return re.fullmatch(r"\.new-[0-9]+-[0-9]+-[0-9a-f]{8}", name) is not None


def sync_directory(path: str) -> None:
    """Make the names in a directory durable: a rename is lost in a power cut without this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: str) -> None:
    """Make a directory, and those above it that are missing, durably. Raises `OSError`."""
    path = os.path.abspath(path)
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        try:
            os.mkdir(each)
        except FileExistsError:
            if not os.path.isdir(each):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), each) from None
        sync_directory(os.path.dirname(each))


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; a single write may stop short at a signal or a nearly full disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte at an offset. Raises `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def write_many(
    descriptor: int, buffers: Sequence[bytes | memoryview], offset: int | None = None
) -> None:
    """Write every byte of several buffers in a row, by one call if the system takes them all.

    At an offset, or where the descriptor stands. Raises `OSError`.
    """
    if not buffers:
        return
    if offset is None:
        written = os.writev(descriptor, buffers)
    else:
        written = os.pwritev(descriptor, buffers, offset)
    for data in buffers:
        if written >= len(data):
            written -= len(data)
        elif offset is None:
            write_all(descriptor, memoryview(data)[written:])
            written = 0
        else:
            write_at(descriptor, memoryview(data)[written:], offset + written)
            written = 0
        if offset is not None:
            offset += len(data)


def punch(descriptor: int, offset: int, length: int) -> None:
    """Make a range of a file a hole; its length stays. Raises `OSError`."""
    mode = _KEEP_SIZE | _PUNCH_HOLE
    if _libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_durably(path: str, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at `path` by `data`, durably and at once. Raises `OSError`."""
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, fresh_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            write_all(descriptor, data)
            # Before the rename: else a power cut may leave the new name on an empty file.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(folder)


def move_durably(source: str, path: str) -> None:
    """Give a finished file its final name, durably. Raises `OSError`."""
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(source, path)
    sync_directory(os.path.dirname(path) or ".")


def read_at(descriptor: int, start: int, stop: int) -> bytes:
    """The bytes from `start` up to `stop`, or to the end of the file if it comes first."""
    parts = []
    while start < stop:
        part = os.pread(descriptor, stop - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _openat2(directory: int, path: bytes, flags: int, mode: int) -> int:
    how = _HOW.pack(flags, mode if flags & os.O_CREAT else 0, _CONFINED)
    patience = _PATIENCE
    while True:
        result: int = _libc.syscall(_OPENAT2, directory, path, how, _HOW.size)
        if result >= 0:
            return result
        number = ctypes.get_errno()
        # EAGAIN: the kernel could not rule out that a racing rename led outside; ask again. But
        # not for ever: with O_NONBLOCK it also says that another process has a lease on the file.
        patience -= number == errno.EAGAIN
        if number not in (errno.EINTR, errno.EAGAIN) or not patience:
            raise OSError(number, os.strerror(number), path)


def _walk_open(directory: int, path: bytes, flags: int, mode: int) -> int:
    """The same promise component by component, for kernels and sandboxes without openat2."""
    folder = os.dup(directory)
    try:
        *above, name = path.split(b"/")
        if b".." in above or name == b"..":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        step = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        for component in above:
            below = os.open(component, step, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=folder)
    finally:
        os.close(folder)


def _has_openat2() -> bool:
    try:
        os.close(_openat2(_at_root, b".", os.O_PATH | os.O_CLOEXEC, 0))
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


_at_root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
_confined_open = _openat2 if _has_openat2() else _walk_open


NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
"""What `Directory.open` says when something on the way is gone, has become something else, or is
being moved out of the directory at this very moment."""


class Directory:
    """A directory held by descriptor; everything is reached relative to it and stays inside."""

    def __init__(self, path: str | bytes) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = os.fsencode(path)

    def open(self, path: bytes, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Open a relative byte path; the empty path is the directory itself. Raises `OSError`."""
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        return _confined_open(self.descriptor, path or b".", flags, mode)

    @classmethod
    def held(cls, descriptor: int, path: bytes) -> Directory:
        """One that is open already, and closed with this; `path` is for messages."""
        directory = cls.__new__(cls)
        directory.descriptor = descriptor
        directory.path = path
        return directory

    def open_directory(self, path: bytes) -> int:
        """A descriptor of a directory inside, for `dir_fd`; `path` may be of any length."""
        if len(path) <= _LONGEST:
            return self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        # Longer than a system call takes: in pieces, each confined to the one before.
        cut = path.rindex(b"/", 0, _LONGEST)
        step = self.open(path[:cut], os.O_PATH | os.O_DIRECTORY)
        with Directory.held(step, path[:cut]) as above:
            return above.open_directory(path[cut + 1 :])

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_file(folder: int, name: bytes) -> int:
    """Open what should be a file for reading, by its name in an open directory. Raises `OSError`.

    Neither a link nor a fifo that stands there instead can lead or hold us up. The owner of a file
    can, by a lease, as long as the kernel lets him (`/proc/sys/fs/lease-break-time`).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NONBLOCK, dir_fd=folder)
    except BlockingIOError:
        held = os.open(name, flags | os.O_PATH, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)
        return os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)


def lstat(folder: int, name: bytes) -> os.stat_result | None:
    """The status of a name in an open directory, links not followed; None when nothing is there."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def file_system_magic(descriptor: int) -> int:
    """The number the kernel tells the type of a file system by, 0 when it does not say."""
    answer = ctypes.create_string_buffer(_STATFS_ROOM)
    if _libc.fstatfs(descriptor, answer) != 0:
        return 0
    # The first field, on all machines whose kernel has it as wide as a word.
    return ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF


def sync_filesystem(descriptor: int) -> None:
    """Make everything on the file system of `descriptor` durable: one call for many files."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def exchange(folder: int, name: bytes, other_folder: int, other_name: bytes) -> None:
    """Let two names change places in one step: both are always there. Raises `OSError`."""
    arguments = (folder, name, other_folder, other_name, _RENAME_EXCHANGE)
    call = getattr(_libc, "renameat2", None)
    number = _RENAMEAT2.get(os.uname().machine)
    if call is not None:
        result = call(*arguments)
    elif number is not None:
        result = _libc.syscall(number, *arguments)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    if result != 0:
        reason = ctypes.get_errno()
        raise OSError(reason, os.strerror(reason), name)


def reflink(target: int, source: int) -> None:
    """Let an open file share all its content with another until either is written to.

    Raises `OSError`; EOPNOTSUPP where the file system has no such thing.
    """
    fcntl.ioctl(target, _FICLONE, source)


@contextmanager
def opened(directory: Directory, path: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
    """`Directory.open` for a `with` statement."""
    descriptor = directory.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

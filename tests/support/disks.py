"""Disks to fill, to break and to cut the power of: file systems in files, mounted out of sight.

All of it happens in a mount namespace that dies with its process, so nothing is left behind
whatever becomes of the test: no mount, and no loop device, which goes with its mount.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_PATIENCE: Final = 500
_SHUTDOWN: Final = 0x8004587D
WITHOUT_LOG: Final = 2
"""A power cut: what was not made durable is gone."""
WITHOUT_DATA: Final = 1
"""A power cut just after the journal was written: all names are there, data that nobody asked to
be written is not."""

SIZES: Final = {"ext4": 48 << 20, "xfs": 300 << 20}
_MAKE: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
# ext4 would write data before a rename over an existing file, even if it is not asked to; xfs takes
# no two copies of a disk at once, unless it is told to.
_OPTIONS: Final = {"ext4": "loop,noauto_da_alloc", "xfs": "loop,nouuid"}

needs_disks = pytest.mark.skipif(
    os.geteuid() != 0
    or not os.path.exists("/dev/loop-control")
    or not all(map(shutil.which, ("mkfs.ext4", "mkfs.xfs", "unshare", "nsenter"))),
    reason="needs root, loop devices, mkfs.ext4, mkfs.xfs, unshare and nsenter",
)


def make_disk(path: Path, kind: str, *options: str, size: int = 0) -> Path:
    """A file with an empty file system of that kind, sparse; `options` go to mkfs."""
    whole = path.with_name(path.name + ".whole")
    with whole.open("wb") as file:
        file.truncate(size or SIZES[kind])
    subprocess.run([*_MAKE[kind], *options, str(whole)], check=True, capture_output=True)
    # The journal of zeros that mkfs wrote becomes a hole: copies are quick then.
    subprocess.run(["cp", "--sparse=always", str(whole), str(path)], check=True)
    whole.unlink()
    return path


def copy_disk(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "--sparse=auto", str(source), str(target)], check=True)
    return target


def cut_power(path: Path, how: int = WITHOUT_LOG) -> None:
    """Let the file system at `path` lose what is not on its disk; all it can do is be unmounted."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", how))
    finally:
        os.close(descriptor)


class Mounts:
    """A mount namespace of its own. A context manager; skips the test where that is not allowed."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        # Its echo says that it is on its own by now.
        self._keeper.stdin.write(b"!")
        if self._keeper.stdout.read(1) != b"!":
            _, errors = self._keeper.communicate()
            pytest.skip(f"no mount namespace here: {errors.decode().strip()}")
        self.prefix = ("nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "--")
        """What to put before a command that shall see the mounts."""

    def seen(self, path: Path) -> Path:
        """Where a path of the namespace is to be found from outside."""
        return Path(f"/proc/{self._keeper.pid}/root{path}")

    def require(self, disk: Path, at: Path, kind: str) -> None:
        """Skip the test where such a disk can't be mounted."""
        try:
            with self.mounted(disk, at, kind):
                pass
        except AssertionError as error:
            pytest.skip(f"can't mount {kind} here: {error}")

    def mount(self, disk: Path, at: Path, kind: str) -> None:
        self.seen(at).mkdir(exist_ok=True)
        self._run("mount", "-t", kind, "-o", _OPTIONS[kind], disk, at)

    def mount_memory(self, at: Path, options: str) -> None:
        """Mount a tmpfs, or give one that is mounted other options."""
        self.seen(at).mkdir(exist_ok=True)
        mounted = os.path.ismount(self.seen(at))
        how = f"remount,{options}" if mounted else options
        self._run("mount", "-t", "tmpfs", "-o", how, "tmpfs", at)

    def unmount(self, at: Path) -> None:
        # Another thread may be about to start a process, which has our descriptors until it runs.
        for _ in range(_PATIENCE):
            try:
                return self._run("umount", at)
            except AssertionError as error:
                if "busy" not in str(error):
                    raise
                time.sleep(0.02)
        raise AssertionError(f"{at} stays busy")

    @contextmanager
    def mounted(self, disk: Path, at: Path, kind: str) -> Iterator[Path]:
        """The disk mounted for a while; gives the path to look at it from outside."""
        self.mount(disk, at, kind)
        try:
            yield self.seen(at)
        finally:
            self.unmount(at)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run([*self.prefix, *map(str, command)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode().strip()

    def close(self) -> None:
        self._keeper.communicate()

    def __enter__(self) -> Mounts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""What is mounted where, as the kernel says: where a mount begins, no device number tells.

A bind mount of the same file system has the device number of its surroundings, and on some file
systems a plain directory has one of its own. So mounts are told by what the kernel lists, and an
open directory by the mount it was reached through. What is mounted in other mount namespaces does
not show, and is not in the way: the kernel lets a directory below such a mount move.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from chunkstore.errors import Conflict
from chunkstore.objects.names import printable

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mount of this process's namespace: its number, where, and the type of its file system."""

    number: bytes
    point: bytes
    kind: str


def mounts() -> list[Mount]:
    """All mounts, in the order they were made; later ones may cover earlier ones."""
    with open("/proc/self/mountinfo", "rb") as file:
        return [_mount(line) for line in file]


def _mount(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    # Space, tab, newline and backslash in a name are written as octal numbers.
    fields = before.split(b" ")
    point = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), fields[4])
    return Mount(fields[0], point, after.split(b" ", 1)[0].decode("ascii", "replace"))


def mount_id(descriptor: int) -> bytes:
    """The number of the mount through which an open file or directory was reached."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return line.split()[1]
    return b""


def file_system(path: bytes) -> str:
    """The type of the file system an absolute path without symlinks lies on."""
    kind = "unknown"
    longest = -1
    for mount in mounts():
        around = mount.point.rstrip(b"/")
        if (path + b"/").startswith(around + b"/") and len(around) >= longest:
            kind, longest = mount.kind, len(around)
    return kind


def path_of(descriptor: int) -> bytes:
    """Where an open directory is now."""
    return os.readlink(b"/proc/self/fd/%d" % descriptor)


def require_none_below(descriptor: int) -> None:
    """Raise `Conflict`, naming the first, when something is mounted below an open directory."""
    path = path_of(descriptor).rstrip(b"/")
    below = sorted(mount.point for mount in mounts() if mount.point.startswith(path + b"/"))
    if below:
        more = f" and {len(below) - 1} more" if len(below) > 1 else ""
        raise Conflict(
            f"{printable(below[0])}{more} is mounted inside {printable(path)}: "
            "unmount it, or do it in place, without --atomic"
        )

"""What a tree is, and ways to compare trees that are not ours.

`facts` looks at a tree with system calls of its own; `assert_same` adds what rsync, getfattr,
getfacl, lsattr and find have to say. Nothing here uses the code under test.
"""

from __future__ import annotations

import fcntl
import gc
import os
import random
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path

import pytest

GET_FLAGS = 0x80086601
SET_FLAGS = 0x40086602
CHATTR = {
    "s": 0x1,
    "u": 0x2,
    "c": 0x4,
    "S": 0x8,
    "i": 0x10,
    "a": 0x20,
    "d": 0x40,
    "A": 0x80,
    "j": 0x4000,
    "t": 0x8000,
    "D": 0x10000,
    "T": 0x20000,
    "C": 0x800000,
    "P": 0x20000000,
}
VISIBLE_FLAGS = sum(CHATTR.values())
STATE = b".imgstore"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, mounts")


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def get_flags(path: str | bytes | Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        packed = fcntl.ioctl(descriptor, GET_FLAGS, bytes(8))
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    flags: int = struct.unpack("i4x", packed)[0]
    return flags & VISIBLE_FLAGS


def set_flags(path: str | bytes | Path, letters: str) -> None:
    """Make the flags `chattr` knows exactly those. Raises `OSError` where there are none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        (before,) = struct.unpack("i4x", fcntl.ioctl(descriptor, GET_FLAGS, bytes(8)))
        after = before & ~VISIBLE_FLAGS | sum(CHATTR[letter] for letter in letters)
        fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("i4x", after))
    finally:
        os.close(descriptor)


def open_descriptors() -> int:
    """How many descriptors this process has open, garbage not counted."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def has_flags(folder: Path) -> bool:
    """Whether inode flags can be set in this folder."""
    probe = folder / "flag probe"
    probe.write_bytes(b"")
    try:
        set_flags(probe, "i")
        set_flags(probe, "")
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


def remove_tree(path: Path) -> None:
    """Remove a tree whatever is in it: mounts, immutable files, paths too deep for Python."""
    top = os.path.join(os.path.realpath(path.parent), path.name)
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in mounts]
    for point in sorted((p for p in points if p.startswith(f"{top}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False)
    if subprocess.run(["rm", "-rf", top], check=False, stderr=subprocess.DEVNULL).returncode:
        subprocess.run(
            ["chattr", "-R", "-f", "-i", "-a", top], check=False, stderr=subprocess.DEVNULL
        )
        subprocess.run(["chmod", "-R", "u+rwX", top], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", top], check=False)


# What a tree is


@dataclass(frozen=True)
class Facts:
    """Everything about one path. `group` is the first path of its hardlink group."""

    form: str
    mode: int
    owner: tuple[int, int]
    mtime: int
    device: tuple[int, int]
    size: int
    content: bytes
    data: tuple[tuple[int, int], ...]
    target: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    flags: int
    group: bytes


FORMS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def data_ranges(descriptor: int, size: int) -> tuple[tuple[int, int], ...]:
    """Where a file holds data, the rest being holes."""
    ranges = []
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:
            break
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        ranges.append((start, end))
    return tuple(ranges)


def _content(descriptor: int, size: int) -> bytes:
    """A hash of what reading would give, made without reading the holes."""
    hasher = blake2b(str(size).encode(), digest_size=16)
    for start, stop in data_ranges(descriptor, size):
        at = start
        while at < stop:
            # In blocks that lie the same however the holes do.
            part = os.pread(descriptor, min(65536 - at % 65536, stop - at), at)
            for offset in range(0, len(part), 4096):
                piece = part[offset : offset + 4096]
                if piece.strip(b"\0"):
                    hasher.update(b"%d:" % (at + offset) + piece)
            at += len(part)
    return hasher.digest()


def _look(folder: int, name: bytes, status: os.stat_result) -> Facts:
    mode = status.st_mode
    content, data, flags, target = b"", (), 0, b""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            if stat.S_ISREG(mode):
                content = _content(descriptor, status.st_size)
                data = data_ranges(descriptor, status.st_size)
            try:
                packed = fcntl.ioctl(descriptor, GET_FLAGS, bytes(8))
                flags = struct.unpack("i4x", packed)[0] & VISIBLE_FLAGS
            except OSError:
                pass
            xattrs = [(key, os.getxattr(descriptor, key)) for key in os.listxattr(descriptor)]
        finally:
            os.close(descriptor)
    else:
        if stat.S_ISLNK(mode):
            target = os.readlink(name, dir_fd=folder)
        path = b"/proc/self/fd/%d/%s" % (folder, name)
        listed = os.listxattr(path, follow_symlinks=False)
        xattrs = [(key, os.getxattr(path, key, follow_symlinks=False)) for key in listed]
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return Facts(
        form=FORMS[stat.S_IFMT(mode)],
        mode=stat.S_IMODE(mode),
        owner=(status.st_uid, status.st_gid),
        mtime=status.st_mtime_ns,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        size=status.st_size if stat.S_ISREG(mode) else 0,
        content=content,
        data=data,
        target=target,
        xattrs=tuple(sorted(xattrs)),
        flags=flags,
        group=b"",
    )


def facts(root: Path | str, *, skip: tuple[bytes, ...] = (STATE,)) -> dict[bytes, Facts]:
    """Every path of a tree, sockets and `skip` at the top left out; by descriptor, at any depth."""
    found: dict[bytes, Facts] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    found[b""] = _look(top, b".", os.stat(top))
    stack = [(b"", top)]
    while stack:
        above, folder = stack.pop()
        for text in os.listdir(folder):
            name = os.fsencode(text)
            if not above and name in skip:
                continue
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                continue
            path = above + b"/" + name if above else name
            found[path] = _look(folder, name, status)
            if stat.S_ISDIR(status.st_mode):
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                stack.append((path, below))
            elif status.st_nlink > 1:
                inodes.setdefault((status.st_dev, status.st_ino), []).append(path)
        os.close(folder)
    for paths in inodes.values():
        for path in paths if len(paths) > 1 else ():
            known = {field.name: getattr(found[path], field.name) for field in fields(Facts)}
            found[path] = Facts(**{**known, "group": min(paths)})
    return found


def differences(
    one: dict[bytes, Facts], other: dict[bytes, Facts], *, ignore: tuple[str, ...] = ()
) -> list[str]:
    """What differs between two trees, a line for each path and property."""
    lines = []
    for path in sorted(one.keys() | other.keys()):
        left, right = one.get(path), other.get(path)
        if left is None or right is None:
            lines.append(f"{path!r} only in the {'second' if left is None else 'first'}")
            continue
        for field in fields(Facts):
            a, b = getattr(left, field.name), getattr(right, field.name)
            if field.name not in ignore and a != b:
                lines.append(f"{path!r} {field.name}: {a!r} != {b!r}"[:300])
    return lines


# What others say


def _run(*command: str, cwd: Path | str) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    return done.stdout.decode("latin-1")


def rsync_differences(
    one: Path | str, other: Path | str, *excludes: str, prefix: tuple[str, ...] = ()
) -> list[str]:
    """What rsync would do to make `other` like `one`; `prefix` is a command to start it with."""
    left_out = [f"--exclude={pattern}" for pattern in ("/.imgstore", "*.sock", *excludes)]
    done = subprocess.run(
        [
            *prefix,
            *("rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete", *left_out),
            *(f"{one}/", f"{other}/"),
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("latin-1").splitlines()


def _blocks(text: str) -> list[str]:
    return sorted(block for block in text.split("\n\n") if block.strip())


def _paths(*tests: str) -> tuple[str, ...]:
    left_out = ("(", "-path", "./.imgstore", "-o", "-name", "*.sock", ")")
    return ("find", ".", *left_out, "-prune", *tests)


def tool_reports(root: Path | str) -> dict[str, list[str]]:
    """What getfattr, getfacl, lsattr, stat and find say of a tree, in an order of its own."""
    each = ("-o", "-print0")
    listing = subprocess.run(_paths(*each), cwd=root, capture_output=True, check=True).stdout
    names = sorted(name for name in listing.split(b"\0") if name)

    def of_all(*command: str, only: Callable[[bytes], bool] = lambda _: True) -> str:
        wanted = b"\0".join(name for name in names if only(os.path.join(os.fsencode(root), name)))
        run = ["xargs", "-0", "-r", *command]
        done = subprocess.run(run, input=wanted, cwd=root, capture_output=True, check=False)
        return done.stdout.decode("latin-1")

    def has_acl(path: bytes) -> bool:
        return not os.path.islink(path)

    def has_letters(path: bytes) -> bool:
        return stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR)

    shown = "%P\\t%y\\t%m\\t%U\\t%G\\t%T@\\t%l\\t%D\\0".replace("%D", "")
    return {
        "getfattr": _blocks(of_all("getfattr", "-h", "-d", "-m", "-", "-e", "hex", "--")),
        "getfacl": _blocks(of_all("getfacl", "-n", "-p", "--", only=has_acl)),
        # `e` (extents) and `I` (indexed) are the file system's own business.
        "lsattr": sorted(
            line.replace("e", "-", 1) if " " in line else line
            for line in of_all("lsattr", "-d", "--", only=has_letters).splitlines()
            for line in [_own_letters(line)]
        ),
        "stat": of_all("stat", "-c", "%N %f %u %g %t %T %y", "--").splitlines(),
        "find": sorted(_run(*_paths("-o", "-printf", shown), cwd=root).split("\0")),
    }


def _own_letters(line: str) -> str:
    letters, space, name = line.partition(" ")
    return "".join(letter for letter in letters if letter not in "eIE-V") + space + name


def assert_same(one: Path | str, other: Path | str, *, tools: bool = True) -> None:
    """Fail with a list of differences unless every oracle finds two trees identical."""
    assert differences(facts(one), facts(other)) == []
    if tools and shutil.which("rsync"):
        assert rsync_differences(one, other, "/sparse/huge") == []
    if tools and shutil.which("getfattr"):
        left, right = tool_reports(one), tool_reports(other)
        for tool, report in left.items():
            assert report == right[tool], tool


# Trees


def pseudo_random(seed: object, size: int) -> bytes:
    """Bytes no compressor likes, the same for the same seed."""
    return random.Random(repr(seed)).randbytes(size)


def sparse_file(path: Path, size: int, *pieces: tuple[int, bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for offset, data in pieces:
            os.pwrite(descriptor, data, offset)
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def set_flags_if_possible(path: Path, letters: str) -> None:
    with suppress(OSError):
        set_flags(path, letters)


def deep(root: Path, *, component: bytes, length: int) -> bytes:
    """Directories inside each other until a path of `length` bytes, a file at the end; its path."""
    root.mkdir(exist_ok=True)
    folder = os.open(root, os.O_RDONLY)
    parts: list[bytes] = []
    used = 0
    while used + len(component) + 2 <= length:
        os.mkdir(component, dir_fd=folder)
        below = os.open(component, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
        os.close(folder)
        folder = below
        parts.append(component)
        used += len(component) + 1
    name = b"f" * (length - used)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
    os.write(descriptor, b"deep down\n")
    os.close(descriptor)
    os.close(folder)
    return b"/".join([*parts, name])


def mount_tmpfs(path: Path, options: str) -> None:
    """Mount a tmpfs, or skip the test where that is not allowed."""
    path.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"can't mount a tmpfs: {done.stderr.decode().strip()}")


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


def iterate_files(root: Path) -> Iterator[Path]:
    for above, _, names in os.walk(root):
        yield from (Path(above) / name for name in names)

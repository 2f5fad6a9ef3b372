"""One tree with some of everything that a file system keeps."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path

from support.trees import has_flags, pseudo_random, set_flags, set_flags_if_possible, sparse_file

ODD_NAMES = (
    b"new\nline",
    b"tab\there",
    b"\xff\xfe not UTF-8",
    b"n" * 255,
    b"-leading-dash",
    b"--delete",
    b"back\\slash",
    b" spaces ",
    b"'quotes\"",
    b"#hash",
    b"~tilde",
    b"*star?[a]",
    b"\x01\x7f\x1b[31m",
    "\u00e9 composed".encode(),
    "e\u0301 decomposed".encode(),
    b"%s%n",
    b"...",
    b"$(reboot)",
)


def make_variety(root: Path) -> None:
    """Fill `root` with everything that the file system and these privileges allow."""
    root.mkdir(exist_ok=True)
    _plain(root / "plain")
    _names(root / "names")
    _order(root)
    _links(root / "links")
    _sparse(root / "sparse")
    _specials(root / "specials")
    _extended(root / "extended")
    _modes(root / "modes")
    if os.geteuid() == 0:
        _owners(root / "owners")
    _times(root / "times")
    if os.geteuid() == 0 and has_flags(root):
        _flags(root / "flags")
    os.utime(root, ns=(1_111_111_111_123_456_789, 1_111_111_111_123_456_789))


def _plain(folder: Path) -> None:
    folder.mkdir()
    (folder / "empty").write_bytes(b"")
    (folder / "one byte").write_bytes(b"x")
    (folder / "text").write_bytes(b"some text\n" * 500)
    (folder / "random").write_bytes(pseudo_random("random", 300_000))
    # Longer than a block of reading, and long enough for list nodes with a small chunker.
    (folder / "large").write_bytes(pseudo_random("large", 9 * 1024 * 1024 + 4321))
    (folder / "zeros").write_bytes(bytes(200_000))
    for copy in range(3):
        (folder / f"copy {copy}").write_bytes(pseudo_random("copies", 70_000))
    (folder / "empty directory").mkdir()
    below = folder
    for level in range(40):
        below = below / f"level {level}"
        below.mkdir()
    (below / "bottom").write_bytes(b"the bottom\n")
    many = folder / "many"
    many.mkdir()
    for number in range(300):
        (many / f"file {number}").write_bytes(b"%d\n" % (number % 50) * 20)


def _names(folder: Path) -> None:
    folder.mkdir()
    top = os.fsencode(folder)
    for name in ODD_NAMES:
        Path(os.fsdecode(top + b"/" + name)).write_bytes(name)
        below = top + b"/in " + name[:200]
        os.mkdir(below)
        Path(os.fsdecode(below + b"/" + name)).write_bytes(b"")
        os.symlink(name, below + b"/link")


def _order(root: Path) -> None:
    """Names that sort differently by component and by byte."""
    for name in ("a", "a-b", "a.b", "a b", "a\x01b"):
        (root / "order" / name / "z").mkdir(parents=True)
        (root / "order" / name / "z.txt").write_bytes(name.encode())
    (root / "order" / "a.txt").write_bytes(b"")


def _links(folder: Path) -> None:
    (folder / "one").mkdir(parents=True)
    (folder / "two").mkdir()
    (folder / "zero").mkdir()
    (folder / "one" / "file").write_bytes(pseudo_random("linked", 40_000))
    for place in ("two/file", "zero/file", "one/again"):
        os.link(folder / "one" / "file", folder / place)
    os.symlink("one/file", folder / "to file")
    os.symlink("one", folder / "to directory")
    os.symlink("/nonexistent/absolute", folder / "dangling")
    os.symlink("../" * 20 + "etc/passwd", folder / "far up")
    os.symlink("x" * 255 + "/" + "y" * 3839, folder / "long target")
    os.symlink("loop", folder / "loop")
    os.symlink(b"\xff\n\\", os.fsencode(folder) + b"/odd target")
    os.symlink("target", folder / "linked symlink")
    os.link(folder / "linked symlink", folder / "two" / "linked symlink", follow_symlinks=False)
    os.mkfifo(folder / "linked fifo")
    os.link(folder / "linked fifo", folder / "two" / "linked fifo")
    (folder / "linked empty").write_bytes(b"")
    os.link(folder / "linked empty", folder / "two" / "linked empty")


def _sparse(folder: Path) -> None:
    folder.mkdir()
    block = pseudo_random("sparse", 8192)
    sparse_file(folder / "hole at start", 1 << 20, ((1 << 20) - 8192, block))
    sparse_file(folder / "hole in the middle", 1 << 20, (0, block), ((1 << 20) - 8192, block))
    sparse_file(folder / "hole at end", 1 << 20, (0, block))
    sparse_file(folder / "all hole", 1 << 20)
    sparse_file(folder / "odd length", 1_000_003, (500_000, b"odd"))
    sparse_file(folder / "small", 12_288, (8192, block[:4096]))
    sparse_file(folder / "small all hole", 5000)
    comb = [(place * 16_384, block[:4096]) for place in range(40)]
    sparse_file(folder / "comb", 40 * 16_384, *comb)
    sparse_file(folder / "huge", 5 << 30, (0, b"begin"), (3 << 30, block), ((5 << 30) - 3, b"end"))


def _specials(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as made:
        before = os.getcwd()
        os.chdir(folder)
        try:
            made.bind("left out.sock")
        finally:
            os.chdir(before)
    if os.geteuid() == 0:
        for name, form, numbers in (
            ("null", stat.S_IFCHR, (1, 3)),
            ("whiteout", stat.S_IFCHR, (0, 0)),
            ("largest", stat.S_IFCHR, (4095, (1 << 20) - 1)),
            ("loop", stat.S_IFBLK, (7, 200)),
        ):
            os.mknod(folder / name, form | 0o660, os.makedev(*numbers))
        os.link(folder / "null", folder / "null again")
        os.chown(folder / "null", 12, 34)
        os.chmod(folder / "loop", 0o4751)


def _extended(folder: Path) -> None:
    folder.mkdir()
    file, inner, link = folder / "file", folder / "directory", folder / "symlink"
    file.write_bytes(b"extended")
    inner.mkdir()
    os.symlink("file", link)
    try:
        for path in (file, inner):
            os.setxattr(path, "user.comment", b"hello")
            os.setxattr(path, "user.binary", bytes(range(256)))
            os.setxattr(path, "user.empty", b"")
            os.setxattr(path, b"user.\xff odd", b"name")
    except OSError:
        pass
    if os.geteuid() == 0:
        for path in (file, inner, link):
            os.setxattr(path, "trusted.secret", b"for root", follow_symlinks=False)
        os.mkfifo(folder / "fifo")
        os.setxattr(folder / "fifo", "trusted.fifo", b"1")
        able = folder / "capable"
        able.write_bytes(b"#!/bin/true\n")
        able.chmod(0o755)
        os.setxattr(able, "security.capability", struct.pack("<5I", 0x02000001, 0x2400, 0, 0, 0))
        both = folder / "capable and owned"
        both.write_bytes(b"")
        os.chown(both, 1234, 5678)
        os.setxattr(both, "security.capability", struct.pack("<5I", 0x02000000, 1, 1, 1, 1))
    if shutil.which("setfacl"):
        shared = folder / "acl"
        shared.mkdir()
        _acl("-m", "u:1234:rwx,g:4321:r-x,m::rwx", shared)
        _acl("-d", "-m", "u:1234:rwx,u:77:---,g::r-x,o::---", shared)
        (shared / "inherits").write_bytes(b"")
        (shared / "also a directory").mkdir()
        plain = folder / "acl file"
        plain.write_bytes(b"")
        _acl("-m", "u:1234:rw-,g:99:---,m::r--", plain)


def _acl(*arguments: str | Path) -> None:
    subprocess.run(["setfacl", *arguments], check=False, capture_output=True)


def _modes(folder: Path) -> None:
    folder.mkdir()
    for mode in (0o0000, 0o0400, 0o0777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o4000):
        path = folder / f"file {mode:04o}"
        path.write_bytes(b"%o" % mode)
        path.chmod(mode)
        if os.geteuid() == 0 or mode & 0o500 == 0o500:
            below = folder / f"directory {mode:04o}"
            below.mkdir()
            (below / "inside").write_bytes(b"")
            below.chmod(mode)
    if os.geteuid() != 0:
        (folder / "file 0000").unlink()
        (folder / "file 4000").unlink()


def _owners(folder: Path) -> None:
    folder.mkdir()
    for uid, gid in ((1, 1), (65534, 65534), (2**31, 2**31 + 1), (2**32 - 2, 2**32 - 2)):
        file, inner, link = (folder / f"{kind} {uid}" for kind in ("file", "directory", "link"))
        file.write_bytes(b"")
        inner.mkdir()
        os.symlink("nowhere", link)
        for path in (file, inner, link):
            os.chown(path, uid, gid, follow_symlinks=False)
        file.chmod(0o6755)  # after chown, which takes the bits away


def _times(folder: Path) -> None:
    folder.mkdir()
    for number, mtime in enumerate(
        (
            0,
            1,
            -1,
            -1_500_000_001,
            -2_000_000_000_000_000_003,
            1_234_567_890_123_456_789,
            (2**31) * 10**9 + 7,
            (2**32) * 10**9 - 1,
            13_000_000_000_987_654_321,
        )
    ):
        file, inner, link = (folder / f"{kind} {number}" for kind in ("file", "directory", "link"))
        file.write_bytes(b"")
        inner.mkdir()
        os.symlink("nowhere", link)
        for path in (file, inner, link):
            os.utime(path, ns=(5, mtime), follow_symlinks=False)


def _flags(folder: Path) -> None:
    folder.mkdir()
    for letters in ("i", "a", "d", "A", "S", "s", "ia", "dAS"):
        file, inner = folder / f"file {letters}", folder / f"directory {letters}"
        file.write_bytes(letters.encode() * 3000)
        inner.mkdir()
        (inner / "inside").write_bytes(letters.encode())
        os.symlink("inside", inner / "link")
        os.mkfifo(inner / "fifo")
        set_flags(file, letters)
        # What was made inside before does not inherit.
        set_flags(inner, letters)
    set_flags_if_possible(folder / "directory A" / "inside", "D")
    linked = folder / "linked"
    linked.write_bytes(b"immutable and linked")
    os.link(linked, folder / "linked too")
    set_flags(linked, "i")

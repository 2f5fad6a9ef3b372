"""A place to read trees into entries, write archives, and unpack them with other people's readers.

The reader here is the tests' own: nothing of `worktree` is used, so that what is compared was
found out in two ways.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from chunkstore.archive import selection, sidecar, sparse
from chunkstore.archive.tar import TarWriter
from chunkstore.objects import chunklist, delta, manifest
from chunkstore.objects import entry as entries
from chunkstore.objects.digest import HOLE, chunk_digest
from chunkstore.objects.entry import Entry
from chunkstore.objects.names import sort_key

CHUNK = 16 * 1024
GET_FLAGS = 0x80086601

PYTHON_READER = """
import sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    archive.errorlevel = 1
    archive.extraction_filter = staticmethod(lambda member, path: member)
    archive.extractall(sys.argv[2], numeric_owner=True)
"""

READERS = {
    "gnu": [
        *("tar", "-xpSf", "{archive}", "-C", "{into}", "--numeric-owner"),
        *("--xattrs", "--xattrs-include=*", "--acls"),
    ],
    "gnu-plain": ["tar", "-xpSf", "{archive}", "-C", "{into}", "--numeric-owner"],
    "bsdtar": [
        *("bsdtar", "-xpf", "{archive}", "-C", "{into}", "--numeric-owner"),
        *("--acls", "--xattrs", "--fflags"),
    ],
    "busybox": ["busybox", "tar", "-xpf", "{archive}", "-C", "{into}"],
    "python": [sys.executable, "-c", PYTHON_READER, "{archive}", "{into}"],
}


class Seen(NamedTuple):
    """One path as the system shows it."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    device: int
    target: bytes
    names: tuple[bytes, ...]
    content: str
    data: tuple[tuple[int, int], ...]
    xattrs: tuple[tuple[str, bytes], ...]
    flags: int


class Image(NamedTuple):
    """A tree as entries in order, and the chunks of its content."""

    entries: list[Entry]
    chunks: dict[bytes, bytes]

    def data(self, entry: Entry) -> Iterator[bytes]:
        for digest, _ in chunklist.walk(entry, self.chunks.__getitem__):
            if digest != HOLE:
                yield self.chunks[digest]

    def runs(self, entry: Entry) -> list[sparse.Extent]:
        return sparse.extents(chunklist.walk(entry, self.chunks.__getitem__))


class Lab:
    """Trees, images and archives below one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tree(self, name: str) -> Path:
        tree = self.path / name
        tree.mkdir()
        return tree

    def read(self, tree: Path, chunk: int = CHUNK) -> Image:
        return _read(os.fsencode(tree), chunk)

    def see(self, tree: Path) -> dict[bytes, Seen]:
        return _see(os.fsencode(tree))

    def archive(self, image: Image) -> bytes:
        return _write(image, image.entries)

    def differential(self, old: Image, new: Image) -> tuple[bytes, bytes, Counter[str]]:
        """The archive, the sidecar and what was lost."""
        chunks = {**old.chunks, **new.chunks}

        def save(data: bytes) -> bytes:
            digest = chunk_digest(data)
            chunks[digest] = data
            return digest

        load = chunks.__getitem__
        base, root = (manifest.build(image.entries, save) for image in (old, new))
        lost: Counter[str] = Counter()
        steps = list(
            selection.select(
                delta.diff(base, root, load), lambda path: manifest.find(root, path, load), lost
            )
        )
        members = [
            step.entry if isinstance(step, selection.Revisit) else step
            for step in steps
            if not isinstance(step, selection.Removal)
        ]
        removals = [step.path for step in steps if isinstance(step, selection.Removal)]
        return _write(Image([], chunks), members), sidecar.encode(removals), lost

    def unpack(self, reader: str, archive: bytes, into: Path, *, quiet: bool = True) -> str:
        """Unpack with one of `READERS`; returns what it had to say, which is nothing if `quiet`."""
        need(READERS[reader][0])
        file = self.path / "archive.tar"
        file.write_bytes(archive)
        command = [word.format(archive=file, into=into) for word in READERS[reader]]
        done = subprocess.run(command, capture_output=True, check=False, env=plain_environment())
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, said
        if quiet:
            assert said == ""
        return said

    def remove(self, sidecar: bytes, tree: Path) -> None:
        """Apply deletions with the line that `docs/archives.md` gives."""
        file = self.path / "image-diff.deletions"
        file.write_bytes(sidecar)
        line = f"xargs -0 -r rm -rf -- < {file}"
        subprocess.run(["sh", "-c", line], cwd=tree, check=True, env=plain_environment())


def plain_environment() -> dict[str, str]:
    # Installers run in the C locale, where readers are at their most particular.
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can restore owners, devices and attributes")
    try:
        os.setxattr(tmp_path, "user.test", b"")
    except OSError:
        pytest.skip("the file system of the temporary directory has no extended attributes")


def _write(image: Image, members: list[Entry]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for entry in members:
        if entry.kind == entries.FILE and not entry.link:
            writer.add(entry, image.data(entry), image.runs(entry))
        else:
            writer.add(entry)
    writer.finish()
    assert not writer.lost
    return out.getvalue()


def _walk(tree: bytes) -> list[bytes]:
    found = [b""]
    for folder, folders, files in os.walk(tree):
        found.extend(os.path.relpath(os.path.join(folder, n), tree) for n in folders + files)
    return sorted(found, key=sort_key)


def _read(tree: bytes, chunk: int) -> Image:
    found: list[Entry] = []
    chunks: dict[bytes, bytes] = {}
    first: dict[tuple[int, int], bytes] = {}
    for path in _walk(tree):
        place = os.path.join(tree, path) if path else tree
        status = os.lstat(place)
        kind = entries.KIND_OF_FORMAT[stat.S_IFMT(status.st_mode)]
        content, depth, size = b"", 0, 0
        if kind == entries.FILE:
            size = status.st_size
            content, depth = _cut(place, size, chunk, chunks)
        elif kind == entries.SYMLINK:
            content = os.readlink(place)
        elif kind in (entries.CHARACTER, entries.BLOCK):
            content = entries.DEVICE.pack(os.major(status.st_rdev), os.minor(status.st_rdev))
        link = b""
        if kind != entries.DIRECTORY and status.st_nlink > 1:
            link = first.setdefault((status.st_dev, status.st_ino), path)
            link = b"" if link == path else link
        entry = Entry(
            path,
            kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=status.st_mtime_ns,
            size=size,
            content=content,
            depth=depth,
            xattrs=_xattrs(place),
            flags=_flags(place),
            link=link,
        )
        found.append(entries.check(tuple(entry), "test"))
    return Image(found, chunks)


def _segments(place: bytes) -> list[tuple[int, int]]:
    found = []
    with open(place, "rb") as file:
        end = 0
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, end))
    return found


def _digest(place: bytes) -> str:
    """Of what is not zero, and where it is: holes need not be read, and filled ones look alike."""
    running = sha256()
    with open(place, "rb") as file:
        for start, stop in _segments(place):
            file.seek(start)
            for offset in range(start, stop, 4096):
                block = file.read(min(4096, stop - offset))
                if block.strip(b"\0"):
                    running.update(b"%d:" % offset + block)
    return running.hexdigest()


def _cut(place: bytes, size: int, chunk: int, chunks: dict[bytes, bytes]) -> tuple[bytes, int]:
    def save(data: bytes) -> bytes:
        digest = chunk_digest(data)
        chunks[digest] = data
        return digest

    writer = chunklist.ListWriter(save)
    position = 0
    with open(place, "rb") as file:
        for start, stop in _segments(place):
            if start > position:
                writer.add(HOLE, start - position)
            file.seek(start)
            for offset in range(start, stop, chunk):
                data = file.read(min(chunk, stop - offset))
                writer.add(save(data), len(data))
            position = stop
    if position < size:
        writer.add(HOLE, size - position)
    return writer.finish()


def _xattrs(place: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = os.listxattr(place, follow_symlinks=False)
    pairs = ((os.fsencode(n), os.getxattr(place, n, follow_symlinks=False)) for n in names)
    return tuple(sorted(pairs))


def _flags(place: bytes) -> int:
    if not stat.S_ISREG(os.lstat(place).st_mode) and not os.path.isdir(place):
        return 0
    if os.path.islink(place):
        return 0
    descriptor = os.open(place, os.O_RDONLY)
    try:
        packed = fcntl.ioctl(descriptor, GET_FLAGS, bytes(8))
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    flags: int = struct.unpack("i4x", packed)[0]
    return flags & 0x208300FF


def _see(tree: bytes) -> dict[bytes, Seen]:
    paths = _walk(tree)
    names: dict[int, list[bytes]] = {}
    for path in paths:
        names.setdefault(os.lstat(os.path.join(tree, path)).st_ino, []).append(path)
    seen = {}
    for path in paths:
        place = os.path.join(tree, path)
        status = os.lstat(place)
        is_file, is_link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
        seen[path] = Seen(
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_size if is_file else 0,
            status.st_rdev,
            os.readlink(place) if is_link else b"",
            tuple(names[status.st_ino]),
            _digest(place) if is_file else "",
            tuple(_segments(place)) if is_file else (),
            tuple((name.decode(errors="replace"), value) for name, value in _xattrs(place)),
            _flags(place),
        )
    return seen

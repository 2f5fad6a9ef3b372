"""A directory of published archives: which are right, and how they are replaced.

Promises: each file is replaced at once, and a diff never stands beside another base unnoticed.
`SHA256SUMS` is the last to be replaced: in between, and after a crash, it disagrees with what is
there. Before a new base comes an empty diff, which is right with both, so that not even who checks
nothing gets a mixture of two bases. `image.json`, by which a file is known to be right, is taken
away first and written once all it speaks of is in place: after a crash everything is written anew.

Leaves what the archives hold to the caller.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple

from chunkstore import fsio
from chunkstore.archive import compression
from chunkstore.archive.compression import Sink
from chunkstore.archive.tar import TarWriter
from chunkstore.errors import Conflict, Usage
from chunkstore.export.output import Hashed

IMAGE: Final = "image.tar.gz"
DIFF: Final = "image-diff.tar.gz"
DELETIONS: Final = "image-diff.deletions"
RECORD: Final = "image.json"
SUMS: Final = "SHA256SUMS"

_ARCHIVES: Final[tuple[str, ...]] = (IMAGE, DELETIONS, DIFF)
"""In the order in which they are replaced. The list comes before its diff: a new archive beside an
old list could leave files behind."""
_LARGEST: Final = 64 * 1024
_PREFIX: Final = ".publish"
"""Of files that are not complete yet; other programs' are not ours to sweep."""


class Published(NamedTuple):
    """One file: its bytes, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Record(NamedTuple):
    """What the archives were made of: versions by their ids in hexadecimal."""

    image: str
    base: str
    version: str
    level: int


class Folder:
    """The directory, held against other publishers. A context manager; `OSError` passes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._begun: list[str] = []
        self._drafts: dict[str, tuple[str, Published]] = {}

    def __enter__(self) -> Folder:
        fsio.make_directories(self._path)
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What a killed one has left.
            self._remove(n for n in os.listdir(self._path) if n.startswith(f"{_PREFIX}-"))
        except BlockingIOError:
            os.close(self._descriptor)
            raise Conflict(f"another publish is at work in {self._path}: wait for it") from None
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove(self._begun)
        os.close(self._descriptor)

    def _place(self, name: str) -> str:
        return os.path.join(self._path, name)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(self._place(name))

    def right(self, wanted: Record) -> dict[str, Published]:
        """The archives that need not be written. Raises `Usage` if another image is here."""
        found = self._read()
        if found is None:
            return {}
        known, files = found
        if known.image != wanted.image:
            raise Usage(
                f"{self._path} holds the image {known.image!r}: each needs a directory of its own"
            )
        if known._replace(version="") != wanted._replace(version=""):
            return {}
        right = {name: file for name, file in files.items() if self._size(name) == file.size}
        if IMAGE not in right:
            return {}
        if known == wanted and len(right) == len(_ARCHIVES):
            return right
        return {IMAGE: right[IMAGE]}

    def _read(self) -> tuple[Record, dict[str, Published]] | None:
        try:
            with open(self._place(RECORD), "rb") as file:
                document = json.loads(file.read(_LARGEST))
            described = {name: Published(**document["files"][name]) for name in _ARCHIVES}
            return Record(*(document[name] for name in Record._fields)), described
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            # Somebody else's, or damaged: then nothing is known.
            return None

    def _size(self, name: str) -> int:
        try:
            return os.lstat(self._place(name)).st_size
        except FileNotFoundError:
            return -1

    def draft(self, name: str, write: Callable[[Sink], object]) -> None:
        """Write a file, durably, that is to become `name`; nobody sees it yet."""
        self._drafts[name] = self._write(write)

    def _write(self, write: Callable[[Sink], object]) -> tuple[str, Published]:
        temporary = fsio.fresh_name(_PREFIX)
        self._begun.append(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._place(temporary), flags, 0o644)
        with open(descriptor, "wb", buffering=1 << 20) as file:
            hashed = Hashed(file)
            write(hashed)
            file.flush()
            os.fsync(descriptor)
        return temporary, Published(hashed.written, hashed.digest)

    def conclude(
        self, made_of: Record, right: Mapping[str, Published]
    ) -> tuple[dict[str, Published], list[str]]:
        """Put the drafts into place; returns all files, and the names of those that changed."""
        files = {**right, **{name: file for name, (_, file) in self._drafts.items()}}
        written = [name for name in _ARCHIVES if name in self._drafts]
        if written:
            self._remove([RECORD])
            os.fsync(self._descriptor)
        if IMAGE in written and self._size(IMAGE) >= 0:
            # A list without its diff would take away what is not put back: it is emptied first.
            self._put(DELETIONS, b"")
            self._put(DIFF, _nothing())
        for name in written:
            fsio.move_durably(self._place(self._drafts[name][0]), self._place(name))
        record = _document(made_of, files)
        described = files | {RECORD: Published(len(record), sha256(record).hexdigest())}
        sums = "".join(f"{described[name].sha256}  {name}\n" for name in sorted(described))
        for name, data in ((RECORD, record), (SUMS, sums.encode())):
            if self._content(name) != data:
                self._put(name, data)
                written.append(name)
        return described, written

    def _put(self, name: str, data: bytes) -> None:
        temporary, _ = self._write(lambda sink: sink.write(data))
        fsio.move_durably(self._place(temporary), self._place(name))

    def _content(self, name: str) -> bytes | None:
        try:
            with open(self._place(name), "rb") as file:
                return file.read(_LARGEST)
        except FileNotFoundError:
            return None


def _document(made_of: Record, files: Mapping[str, Published]) -> bytes:
    described: dict[str, Any] = {name: files[name]._asdict() for name in sorted(files)}
    return json.dumps({**made_of._asdict(), "files": described}, indent=2).encode() + b"\n"


def _nothing() -> bytes:
    """An archive without members."""
    out = io.BytesIO()
    with compression.open_sink(out, "tar.gz", threads=1) as sink:
        TarWriter(sink).finish()
    return out.getvalue()

"""Export: a version, or layers, as a tar archive, whole or as the difference from a base.

The difference is found from two manifests and written from stored chunks: neither the base nor
the worktree is read. Promises: the same versions, format and level give the same bytes; the output
file appears whole or not at all, and what unpacking can't remove stands beside it in a list.
Leaves tar, compression and the choice of members to `archive`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from chunkstore import fsio
from chunkstore.archive import compression, selection, sparse
from chunkstore.archive.compression import Sink
from chunkstore.archive.selection import Removal, Revisit
from chunkstore.archive.tar import TarWriter
from chunkstore.errors import Usage, local_errors
from chunkstore.objects import chunklist, delta, manifest
from chunkstore.objects.digest import HOLE
from chunkstore.objects.documents import Version
from chunkstore.objects.entry import Entry
from chunkstore.objects.lookup import Lookup
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.layers import Layered, loader
from chunkstore.storage.store import Store
from chunkstore.worktree.content import FileContents

DELETIONS: Final = ("sidecar", "none")


@dataclass(frozen=True)
class ExportReport:
    """What was written: members, bytes of the archive, paths to remove, and where those stand.

    `lost` counts, by kind, what a tar archive can't say.
    """

    members: int
    written: int
    deletions: int
    sidecar: str | None
    lost: Counter[str]


def export(
    store: Store,
    version: Version | Layered,
    output: str | BinaryIO,
    *,
    base: Version | Layered | None = None,
    deletions: str = "sidecar",
    form: str = "tar.gz",
    level: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write `version`, or what differs in it from `base`, to a file or an open stream.

    Raises `Usage`, `LocalError`, `Corrupt`, `NotFound`; then a file that was there before is
    still there.
    """
    if deletions not in DELETIONS:
        raise Usage(f"unknown way to record deletions {deletions!r}: {' or '.join(DELETIONS)}")
    is_sidecar = base is not None and deletions == "sidecar"
    if is_sidecar and not isinstance(output, str):
        raise Usage("a stream has no file beside it for the deletions: use --deletions none")
    work = _Export(store, version, base, progress or Unwatched())
    with local_errors("can't write the archive"):
        if not isinstance(output, str):
            return work.run(output, form, level, sidecar=None)
        beside = _sidecar_name(output) if is_sidecar else None
        with _replacing(output) as file:
            report = work.run(file, form, level, sidecar=beside)
            if beside is not None:
                # Before the archive: a new archive beside an old list could leave files behind.
                fsio.write_durably(beside, selection.sidecar(work.removals))
        return report


def _sidecar_name(output: str) -> str:
    for suffix in sorted(compression.LEVELS, key=len, reverse=True):
        stem = output.removesuffix(f".{suffix}")
        if stem != output:
            return f"{stem}.deletions"
    return f"{output}.deletions"


class _Counted:
    """A file that counts what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.written = 0

    def write(self, data: bytes, /) -> object:
        self.written += len(data)
        return self._file.write(data)


class _Export:
    def __init__(
        self,
        store: Store,
        version: Version | Layered,
        base: Version | Layered | None,
        progress: Progress,
    ) -> None:
        self.store = store
        self.version = version
        self.base = base
        self.progress = progress
        self.removals: list[bytes] = []
        self.lost: Counter[str] = Counter()

    def run(
        self, file: BinaryIO, form: str, level: int | None, *, sidecar: str | None
    ) -> ExportReport:
        counted = _Counted(file)
        with self.store.chunks() as nodes, self.store.chunks() as chunks:
            load = loader(self.version, nodes.get)
            if self.base is not None:
                load = loader(self.base, load)
            contents = FileContents(self._members(load), chunks, load)
            with compression.open_sink(counted, form, level=level) as sink:
                members = self._write(contents, sink, load)
        return ExportReport(members, counted.written, len(self.removals), sidecar, self.lost)

    def _members(self, load: manifest.Load) -> Iterator[Entry]:
        root = self.version.root
        if self.base is None:
            self.progress.expect(files=root.entries, size=root.size)
            yield from manifest.walk(root, load)
            return
        differences = delta.diff(self.base.root, root, load)

        for item in selection.select(differences, Lookup(root, load).find, self.lost):
            if isinstance(item, Removal):
                self.removals.append(item.path)
            elif isinstance(item, Revisit):
                yield item.entry
            else:
                yield item

    def _write(self, contents: FileContents, sink: Sink, load: manifest.Load) -> int:
        members = 0
        writer = TarWriter(sink)
        for entry, is_wanted in contents.entries:
            if is_wanted:
                has_holes = entry.depth > 0 or HOLE in entry.content
                runs = sparse.extents(chunklist.walk(entry, load)) if has_holes else None
                is_whole = runs is not None and sum(size for _, size in runs) == entry.size
                data = (part for part, _ in contents.content(entry) if part is not None)
                writer.add(entry, cast(Iterable[bytes], data), None if is_whole else runs)
            else:
                writer.add(entry)
            members += 1
            self.progress.advance(files=1, size=entry.size)
        writer.finish()
        self.lost.update(writer.lost)
        return members


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` if all goes well."""
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, fsio.fresh_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o644)
    try:
        with open(descriptor, "wb", buffering=1 << 20) as file:
            yield file
        fsio.move_durably(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

"""Archives as people hand them in, laid into a tree: whatever they are, and are compressed with.

    a tar archive     laid over what is in the tree; if that is not empty, first what the list of
                      deletions beside it names is removed, and whiteouts in it are obeyed
    an image          of containers, as an OCI layout (a directory, or an archive of one) or from
                      `docker save`: takes the place of what is in the tree, layer after layer

Promises: see `members` and `unpacking`. Leaves making a manifest of the tree to the caller.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from chunkstore.archive import sidecar
from chunkstore.archive.acl import Lookup, nobody
from chunkstore.archive.reading import layers
from chunkstore.archive.reading.decompression import Readable, open_blocks
from chunkstore.archive.reading.images import Layout, Sifted
from chunkstore.archive.reading.members import TarReader
from chunkstore.archive.reading.paths import path_of
from chunkstore.archive.reading.source import Source
from chunkstore.archive.reading.tree import Tree
from chunkstore.archive.reading.unpacking import unpack
from chunkstore.errors import Corrupt, Usage
from chunkstore.fsio import Directory
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.cutting import Sink
from chunkstore.objects.names import printable
from chunkstore.progress import Progress, Unwatched

STANDARD_INPUT: Final = "standard input"

_BLOCK: Final = 1024 * 1024
_LONGEST: Final = 8192


@dataclass
class ArchiveReport:
    """What was read: the members, of how many layers (0: a plain archive), and bytes of tar.

    `deletions` are the paths in the list beside it; None where there is none. `has_more` says that
    something follows the end of the archive. `remarks` counts by kind what was left out.
    """

    name: str
    members: int = 0
    layers: int = 0
    size: int = 0
    deletions: int | None = None
    has_more: bool = False
    remarks: Counter[str] = field(default_factory=Counter)


class Archives:
    """Lays archives into `tree`, their content into `sink`.

    `folder` is where an image of containers waits until its layers are known. `ref` picks one of
    several images in an archive. `lookup` gives the ids of names in ACLs.
    """

    def __init__(
        self,
        tree: Tree,
        folder: str,
        parameters: Parameters,
        sink: Sink,
        *,
        ref: str | None = None,
        lookup: Lookup = nobody,
        progress: Progress | None = None,
    ) -> None:
        self._tree = tree
        self._folder = folder
        self._parameters = parameters
        self._sink = sink
        self._ref = ref
        self._lookup = lookup
        self._progress = progress or Unwatched()

    def lay(self, archive: str | BinaryIO) -> ArchiveReport:
        """Lay in an archive, by its path or as an open stream.

        Raises `Usage`, `Corrupt`, `Unsupported`, `LocalError`, `OSError`; then the tree is of no
        more use. Also `Corrupt` when there is nothing in the tree afterwards.
        """
        report = self._lay(archive)
        if self._tree.is_empty:
            where = report.name
            raise Corrupt(f"{where}: holds nothing that could be an image", where=where)
        return report

    def _lay(self, archive: str | BinaryIO) -> ArchiveReport:
        if not isinstance(archive, str):
            return self._lay_file(archive, ArchiveReport(name_of(archive)))
        report = ArchiveReport(archive)
        if os.path.isdir(archive):
            with Directory(archive) as directory:
                layout = Layout(directory)
                if not (layout.has(layers.INDEX) or layout.has(layers.DOCKER)):
                    raise Usage(
                        f"{archive} is a directory, but no OCI layout: record it with 'commit'"
                    )
                self._lay_image(layout, report)
            return report
        if not self._tree.is_empty:
            report.deletions = self._remove(archive)
        with open(archive, "rb", buffering=0) as file:
            return self._lay_file(file, report)

    def _lay_file(self, file: Readable, report: ArchiveReport) -> ArchiveReport:
        source = Source(open_blocks(file, report.name), report.name)
        reader = TarReader(source, lookup=self._lookup)
        with Sifted(reader, self._folder, report.name) as sifted:
            if sifted.is_image:
                self._lay_image(sifted, report)
            else:
                is_over = not self._tree.is_empty
                report.members = self._unpack(sifted, is_over=is_over)
                report.size = source.position
        report.has_more |= reader.has_more
        report.remarks += reader.remarks
        return report

    def _lay_image(self, files: layers.Files, report: ArchiveReport) -> None:
        self._tree.clear()
        for layer in layers.find(files, self._ref):
            where = f"{files.name}, {printable(layer.path)}"
            source = Source(layers.open_layer(files, layer), where)
            reader = TarReader(source, lookup=self._lookup)
            report.members += self._unpack(reader, is_over=True)
            report.layers += 1
            report.size += source.position
            report.remarks += reader.remarks

    def _unpack(self, members: TarReader | Sifted, *, is_over: bool) -> int:
        return unpack(
            members,
            self._tree,
            self._parameters,
            self._sink,
            whiteouts=is_over,
            progress=self._progress,
        )

    def _remove(self, archive: str) -> int | None:
        """Remove what the list beside an archive names; returns how many paths that are."""
        beside = sidecar.beside(archive)
        count = 0
        try:
            with open(beside, "rb") as file:
                for name in _names(file, beside):
                    path = path_of(name, beside)
                    if not path or path != name.removeprefix(b"./").rstrip(b"/"):
                        shown = printable(name[:_LONGEST])
                        raise Corrupt(f"{beside}: {shown} is no path to remove", where=beside)
                    self._tree.remove(path)
                    count += 1
        except FileNotFoundError:
            return None
        return count


def name_of(archive: str | BinaryIO) -> str:
    """What messages call an archive."""
    return archive if isinstance(archive, str) else STANDARD_INPUT


@contextmanager
def blamed(archive: str | BinaryIO) -> Iterator[None]:
    """Let errors of what is inside name the archive: those of a tree name only the path."""
    name = name_of(archive)
    try:
        yield
    except Corrupt as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}", where=error.where) from error


def _names(file: BinaryIO, where: str) -> Iterator[bytes]:
    """Names with a NUL behind each."""
    rest = b""
    while block := file.read(_BLOCK):
        *names, rest = (rest + block).split(b"\0")
        yield from names
        if len(rest) > _LONGEST:
            break
    if rest:
        raise Corrupt(f"{where}: a name without a NUL behind it: it was cut short", where=where)

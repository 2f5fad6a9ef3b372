"""Export as an OCI image layout: a directory, or a tar of one, that container tools take.

Without a base the image has one layer, else that of the base and the difference over it. Promises:
the same versions, level and kind of machine give the same bytes; the layout appears whole or not
at all. Leaves the documents to `archive.layout`, layers to `stream`.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import BinaryIO, Protocol

from chunkstore import fsio
from chunkstore.archive import compression, layout
from chunkstore.archive.header import BLOCK_SIZE, header
from chunkstore.archive.layout import Blob, Layer
from chunkstore.archive.tar import TarWriter
from chunkstore.errors import Usage, local_errors
from chunkstore.export.output import Hashed, replacing, replacing_folder
from chunkstore.export.report import ExportReport
from chunkstore.export.stream import Stream, Tree, tree_id, tree_time
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.store import Store

_FORM = "tar.gz"


def export_image(
    store: Store,
    version: Tree,
    path: str,
    *,
    base: Tree | None = None,
    name: str,
    level: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a layout to `path`: a tar if that ends in `.tar`, else a new or empty directory.

    `name` is what tools call the image in it. Raises `Usage`, `LocalError`, `Corrupt`, `NotFound`;
    then what was there before is still there.
    """
    watched = progress or Unwatched()
    streams = [Stream(store, version, base, "oci", watched)]
    if base is not None:
        streams.insert(0, Stream(store, base, None, "oci", watched))
    with local_errors("can't write the image"), _opened(path) as place:
        place.put(layout.MARK, layout.mark())
        layers, members = [], 0
        for stream in streams:
            comment = tree_id(stream.version)
            if stream.base is not None and base is not None:
                comment = f"{tree_id(base)} to {comment}"
            layer, count = _layer(place, stream, comment, level)
            layers.append(layer)
            members += count
        machine = platform.machine()
        configuration = _document(
            place, layout.config(layers, machine=machine, created=tree_time(version))
        )
        manifest = _document(
            place, layout.manifest(configuration, layers, revision=tree_id(version))
        )
        place.put(layout.INDEX, layout.index(manifest, name=name, machine=machine))
    lost = sum((stream.lost for stream in streams), Counter[str]())
    written = sum(layer.blob.size for layer in layers)
    removed = len(streams[-1].removals)
    return ExportReport(members, written, removed, None, lost, f"sha256:{manifest.digest}")


class _Place(Protocol):
    """Where a layout is written to."""

    def put(self, name: str, data: bytes) -> None:
        """Add a file."""
        ...

    def begin(self) -> BinaryIO:
        """Begin a blob whose name is not known yet: where its bytes go."""
        ...

    def finish(self, blob: Blob) -> None:
        """Give the blob that was begun last its name."""
        ...


def _layer(place: _Place, stream: Stream, comment: str, level: int | None) -> tuple[Layer, int]:
    stored = Hashed(place.begin())
    with compression.open_sink(stored, _FORM, level=level) as sink:
        whole = Hashed(sink)
        members = stream.write(whole)
    blob = Blob(stored.digest, stored.written)
    place.finish(blob)
    return Layer(blob, whole.digest, comment), members


def _document(place: _Place, data: bytes) -> Blob:
    blob = Blob(sha256(data).hexdigest(), len(data))
    place.put(f"{layout.BLOBS}/{blob.digest}", data)
    return blob


@contextmanager
def _opened(path: str) -> Iterator[_Place]:
    if path.endswith(".tar"):
        with replacing(path) as file:
            archive = _Archive(file)
            yield archive
            archive.end()
        return
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise Usage(f"{path} is there: an image layout needs a new or empty directory, or a .tar")
    with replacing_folder(path) as temporary:
        place = _Folder(temporary)
        try:
            yield place
        finally:
            place.close()
        # The blobs are durable by now, and their names with this: they lie in two directories.
        for folder in (layout.BLOBS, os.path.dirname(layout.BLOBS), ""):
            fsio.sync_directory(os.path.join(temporary, folder))


class _Folder:
    """A layout as a directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        os.makedirs(os.path.join(path, layout.BLOBS))

    def _place(self, name: str) -> str:
        return os.path.join(self._path, name)

    def put(self, name: str, data: bytes) -> None:
        fsio.write_durably(self._place(name), data)

    def begin(self) -> BinaryIO:
        self._file = open(self._place("layer"), "xb", buffering=1 << 20)  # noqa: SIM115
        return self._file

    def finish(self, blob: Blob) -> None:
        if self._file is not None:
            self._file.close()
        fsio.move_durably(self._place("layer"), self._place(f"{layout.BLOBS}/{blob.digest}"))

    def close(self) -> None:
        """Let go of a blob that was begun and not finished."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


class _Archive:
    """A layout as a tar, in a file that can be written to at any place."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer = TarWriter(file)
        self._begun = 0
        for folder in (os.path.dirname(layout.BLOBS), layout.BLOBS):
            self._writer.add(Entry(folder.encode(), DIRECTORY, 0o755, 0, 0, 0))

    def put(self, name: str, data: bytes) -> None:
        self._writer.add(_file(name, len(data)), [data])

    def begin(self) -> BinaryIO:
        # What the blob is called and how long it is stands in front of it.
        self._begun = self._file.tell()
        self._file.write(bytes(BLOCK_SIZE))
        return self._file

    def finish(self, blob: Blob) -> None:
        self._file.write(bytes(-blob.size % BLOCK_SIZE))
        end = self._file.tell()
        self._file.seek(self._begun)
        # The last block alone: sizes that are too big for ustar stand there in base-256, too.
        self._file.write(header(_file(f"{layout.BLOBS}/{blob.digest}", blob.size))[-BLOCK_SIZE:])
        self._file.seek(end)

    def end(self) -> None:
        self._file.write(bytes(2 * BLOCK_SIZE))


def _file(name: str, size: int) -> Entry:
    return Entry(name.encode(), FILE, 0o644, 0, 0, 0, size)

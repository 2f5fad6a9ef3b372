"""Export: a version, or layers, as a tar archive, whole or as the difference from a base.

The difference is found from two manifests and written from stored chunks: neither the base nor
the worktree is read. Promises: the same versions, format and level give the same bytes; the output
file appears whole or not at all, and what unpacking can't remove stands beside it in a list, or in
it as `deletions` says. Leaves tar, compression and the choice of members to `archive`, writing them
to `stream`, and images for container tools to `oci`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from chunkstore.archive import compression, sidecar
from chunkstore.errors import Usage, local_errors
from chunkstore.export.output import Counted, replacing
from chunkstore.export.report import ExportReport
from chunkstore.export.stream import Stream, Tree
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.store import Store

if TYPE_CHECKING:
    from chunkstore.export.stream import Base

__all__ = ["DELETIONS", "SIDECAR", "ExportReport", "export"]

SIDECAR: Final = "sidecar"
DELETIONS: Final = (SIDECAR, "gnu", "oci", "none")
"""Where deletions are told: a list beside the archive, lists of what stays as `tar --incremental`
reads them, whiteouts, nowhere."""


def export(
    store: Store,
    version: Tree,
    output: str | BinaryIO,
    *,
    base: Base | None = None,
    deletions: str = SIDECAR,
    form: str = "tar.gz",
    level: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write `version`, or what differs in it from `base`, to a file or an open stream.

    Raises `Usage`, `LocalError`, `Corrupt`, `NotFound`; then a file that was there before is
    still there.
    """
    if deletions not in DELETIONS:
        raise Usage(f"unknown way to record deletions {deletions!r}: {', '.join(DELETIONS)}")
    is_sidecar = base is not None and deletions == SIDECAR
    if is_sidecar and not isinstance(output, str):
        raise Usage("a stream has no file beside it for the deletions: use another --deletions")
    stream = Stream(store, version, base, deletions, progress or Unwatched())
    with local_errors("can't write the archive"):
        if not isinstance(output, str):
            return _write(stream, output, form, level, sidecar=None)
        beside = sidecar.beside(output) if is_sidecar else None
        with replacing(output) as file:
            report = _write(stream, file, form, level, sidecar=beside)
            if beside is not None:
                # Before the archive: a new archive beside an old list could leave files behind.
                with replacing(beside) as listed:
                    listed.write(sidecar.encode(stream.removals))
        return report


def _write(
    stream: Stream, file: BinaryIO, form: str, level: int | None, *, sidecar: str | None
) -> ExportReport:
    counted = Counted(file)
    with compression.open_sink(counted, form, level=level) as sink:
        members = stream.write(sink)
    return ExportReport(members, counted.written, len(stream.removals), sidecar, stream.lost)

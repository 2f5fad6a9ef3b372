"""Publish: an image as archives in a directory, for machines that know nothing of imgstore.

    image.tar.gz            the version tagged `base`, whole
    image-diff.tar.gz       what differs in `latest`; without a member when nothing does
    image-diff.deletions    what has to go before the diff is unpacked
    image.json              which versions these are
    SHA256SUMS              of all of them, for `sha256sum -c`

Promises: what is right already is not written again; with the same versions and level the files are
the same to the last bit. Leaves to `folder` that no reader is misled while files are replaced, and
to `rebase` to move the base.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from chunkstore.archive import compression, sidecar
from chunkstore.archive.compression import Sink
from chunkstore.errors import local_errors
from chunkstore.export import SIDECAR
from chunkstore.export.stream import Stream
from chunkstore.objects.documents import Version
from chunkstore.objects.names import BASE, LATEST, Spec, check_name
from chunkstore.progress import Progress, Unwatched
from chunkstore.publish.folder import DELETIONS, DIFF, IMAGE, Folder, Published, Record
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store

_FORM = "tar.gz"


@dataclass(frozen=True)
class PublishReport:
    """What stands in the directory now, and which of it was written for that.

    `lost` counts, by kind, what the archives that were written can't say.
    """

    base: Resolved
    version: Resolved
    files: dict[str, Published]
    written: list[str]
    lost: Counter[str]

    @property
    def percent(self) -> float:
        """How large the diff is beside the image."""
        return 100 * self.files[DIFF].size / self.files[IMAGE].size


def publish(
    store: Store,
    image: str,
    directory: str,
    *,
    level: int | None = None,
    progress: Progress | None = None,
) -> PublishReport:
    """Bring the archives in `directory`, which is made if need be, up to date.

    Raises `NotFound` when the image has no base, `Usage` when another image is published there,
    `Conflict` when another publish is at work there, `LocalError`, `Corrupt`.
    """
    check_name(image, "an image")
    base, latest = (store.resolve(Spec(image, tag, 0)) for tag in (BASE, LATEST))
    if level is None:
        level = compression.DEFAULT_LEVELS[_FORM]
    lost: Counter[str] = Counter()
    removals: list[bytes] = []

    def write(version: Version, below: Version | None, sink: Sink) -> None:
        stream = Stream(store, version, below, SIDECAR, progress or Unwatched())
        with compression.open_sink(sink, _FORM, level=level) as packed:
            stream.write(packed)
        removals.extend(stream.removals)
        lost.update(stream.lost)

    with local_errors("can't publish"), Folder(directory) as folder:
        wanted = Record(image, base.id.hex(), latest.id.hex(), level)
        right = folder.right(wanted)
        if IMAGE not in right:
            folder.draft(IMAGE, partial(write, base.version, None))
        if DIFF not in right:
            folder.draft(DIFF, partial(write, latest.version, base.version))
            folder.draft(DELETIONS, lambda sink: sink.write(sidecar.encode(removals)))
        files, written = folder.conclude(wanted, right)
    return PublishReport(base, latest, files, written, lost)

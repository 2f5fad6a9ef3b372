"""Commit: record a directory as the next version of an image.

Scan, capture what may have changed, store what is new, edit the manifest, publish. Nothing
changed means no new version. Promises: when this returns a version, it and everything it names is
durable; when it raises, the image is what it was. Unchanged files are not opened, and where all is
unchanged nothing is loaded that would only record: that is in `recording`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from chunkstore.commit.worktree import Remark, Worktree, memory_of
from chunkstore.errors import Usage, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.documents import MAX_MESSAGE
from chunkstore.objects.names import check_name
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store

if TYPE_CHECKING:
    from chunkstore.objects.delta import Difference
    from chunkstore.storage.deltas import DeltaReport

__all__ = ["CommitReport", "Remark", "commit", "remembered_directory", "status"]


class CommitReport(NamedTuple):
    """What a commit did. `version` is the image's latest, new or not; `changes` counts letters.

    `deltas` is what was written besides for nodes that are one version behind.
    """

    version: Resolved
    is_new: bool
    changes: Counter[str]
    chunks: int
    raw: int
    stored: int
    packs: int
    deltas: DeltaReport | None
    warnings: list[Remark]
    unsteady: list[bytes]


def remembered_directory(store: Store, image: str) -> str:
    """The directory an image was last committed from. Raises `Usage` when there is none."""
    try:
        with open(memory_of(store, image)) as file:
            directory: str = json.load(file)["directory"]
            return directory
    except (OSError, ValueError, KeyError, TypeError):
        raise Usage(
            f"image {image!r} was not committed from this store yet: name its directory"
        ) from None


def commit(
    store: Store,
    image: str,
    directory: str,
    *,
    message: str = "",
    tags: Sequence[str] = (),
    excludes: Iterable[bytes] = (),
    now: int,
    progress: Progress | None = None,
) -> CommitReport:
    """Record `directory` as the next version of `image`. `now` is the time, in nanoseconds.

    Raises `LocalError` naming what could not be read; then nothing is recorded.
    """
    check_name(image, "an image")
    for tag in tags:
        check_name(tag, "a tag")
    try:
        length = len(message.encode())
    except UnicodeEncodeError:
        raise Usage("the message is not valid UTF-8") from None
    if length > MAX_MESSAGE:
        raise Usage(f"message is longer than {MAX_MESSAGE} bytes")
    with (
        store.locked(f"imgstore commit {image}"),
        local_errors("can't commit"),
        Directory(directory) as tree,
    ):
        # Only the holder of the lock writes to the spool, and what is left there is swept.
        spool = os.path.join(store.local, "spool")
        worktree = Worktree(store, image, tree, excludes, now, spool)
        try:
            if worktree.is_as_recorded():
                return _unchanged(worktree, tags)
            from chunkstore.commit.recording import record

            return record(worktree, message, tags, progress or Unwatched())
        finally:
            worktree.cache.abandon()


def _unchanged(worktree: Worktree, tags: Sequence[str]) -> CommitReport:
    parent = worktree.parent
    assert parent is not None
    worktree.name(parent, tags)
    worktree.remember(parent.id)
    return CommitReport(
        *(parent, False, Counter(), 0, 0, 0, 0),
        deltas=None,
        warnings=worktree.scan.report.warnings,
        unsteady=[],
    )


def status(
    store: Store, image: str, directory: str, *, excludes: Iterable[bytes] = (), now: int
) -> tuple[list[Difference], list[Remark]]:
    """What a commit would record, and what it would warn of; writes nothing."""
    with local_errors("can't look at the worktree"), Directory(directory) as tree:
        worktree = Worktree(store, image, tree, excludes, now, None)
        try:
            if worktree.is_as_recorded():
                return [], worktree.scan.report.warnings
            from chunkstore.commit.recording import compare

            return compare(worktree), worktree.scan.report.warnings
        finally:
            worktree.cache.abandon()

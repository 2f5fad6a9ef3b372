"""Import: archives as versions of an image, each applied over the one before.

The first archive is a whole image; the further ones are diffs, unless they are whole by their kind.
Content goes to chunks as it is read, entries wait in a table on disk until they can be sorted. What
an archive means, and what in it is refused, is decided in `archive.reading`.

Promises: as for a commit, what is returned is durable and what is known is not stored again; an
archive that changes nothing makes no version. If any of the archives is bad, none makes one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from chunkstore.archive.acl import Lookup, nobody
from chunkstore.archive.reading.archives import ArchiveReport, Archives, blamed
from chunkstore.archive.reading.tree import Tree
from chunkstore.errors import NotFound, Usage, local_errors
from chunkstore.objects import delta, manifest
from chunkstore.objects.documents import MAX_MESSAGE, PackUse, Tag, Version
from chunkstore.objects.entry import change_letter
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import BASE, LATEST, Spec, check_name
from chunkstore.progress import Progress
from chunkstore.storage.deltas import DeltaReport, try_deltas
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.storage.writer import Written

NOTHING_WRITTEN = Written([], 0, 0, 0)


@dataclass(frozen=True)
class ImportReport:
    """What became of one archive. `version` is the image's latest with it, new or not.

    `deltas` is what was written besides for nodes that are one version behind.
    """

    archive: ArchiveReport
    version: Resolved
    is_new: bool
    changes: Counter[str]
    written: Written
    deltas: DeltaReport | None


def import_archives(
    store: Store,
    image: str,
    archives: Sequence[str | BinaryIO],
    *,
    base: Resolved | None = None,
    ref: str | None = None,
    message: str = "",
    tags: Sequence[str] = (),
    now: int,
    lookup: Lookup = nobody,
    progress: Progress | None = None,
) -> list[ImportReport]:
    """Record archives, by path or as open streams, as the next versions of `image`.

    With a `base` the first is applied over that version. `ref` picks one of several images in an
    archive of layers. `tags` name the last version. `now` is the time, in nanoseconds; `lookup`
    gives the ids of names in ACLs. Raises `Usage`, `Corrupt`, `LocalError`; then nothing is
    recorded.
    """
    check_name(image, "an image")
    for tag in tags:
        check_name(tag, "a tag")
    if len(message.encode()) > MAX_MESSAGE:
        raise Usage(f"message is longer than {MAX_MESSAGE} bytes")
    with store.locked(f"imgstore import {image}"), local_errors("can't import"):
        folder = os.path.join(store.local, "spool")
        with Tree(folder) as tree:
            uses: list[PackUse] = []
            if base is not None:
                _load(store, base, tree)
                uses = store.uses(base.id)
            read = []
            for archive in archives:
                with blamed(archive), store.writer() as writer:
                    laid = Archives(
                        tree,
                        folder,
                        store.settings.chunker,
                        writer,
                        ref=ref,
                        lookup=lookup,
                        progress=progress,
                    ).lay(archive)
                    root = manifest.build(tree.entries(), writer.store_node)
                    written = writer.finish()
                    uses = _with(store, uses, written, writer.reused)
                read.append(_Read(laid, root, written, uses))
        # Only now: a bad archive must not leave the versions of those before it.
        return _publish(store, image, read, message, tags, now)


class _Read(NamedTuple):
    """An archive whose content is stored: its manifest, and the packs it may need."""

    report: ArchiveReport
    root: NodeRef
    written: Written
    uses: list[PackUse]


def _load(store: Store, base: Resolved, tree: Tree) -> None:
    with store.chunks() as chunks:
        for entry in manifest.walk(base.version.root, chunks.get):
            if entry.link:
                tree.link(entry.path, entry.link, entry.mtime)
            else:
                tree.put(entry)


def _with(
    store: Store, before: list[PackUse], written: Written, reused: set[bytes]
) -> list[PackUse]:
    """The packs an archive's version may need, newest first: its own, then those it shares."""
    new = [PackUse(pack.id, pack.pack_size, pack.index_size) for pack in written.packs]
    named = {use.pack for use in new}
    shared = [use for use in before if use.pack not in named]
    named.update(use.pack for use in shared)
    return new[::-1] + shared + [store.pack_use(pack_id) for pack_id in sorted(reused - named)]


def _publish(
    store: Store, image: str, read: list[_Read], message: str, tags: Sequence[str], now: int
) -> list[ImportReport]:
    try:
        latest: Resolved | None = store.resolve(Spec(image, LATEST, 0))
    except NotFound:
        latest = None
    reports = []
    for report, root, written, uses in read:
        if latest is not None and root.digest == latest.version.root.digest:
            reports.append(ImportReport(report, latest, False, Counter(), NOTHING_WRITTEN, None))
            continue
        first = [BASE] if latest is None else []
        changes = _changes(store, latest, root)
        version = Version(root, latest.id if latest else b"", now, message)
        version_id = store.publish(image, version, uses, tags=first, now=now)
        published = Resolved(version_id, version)
        deltas = try_deltas(store, published, latest, written) if latest is not None else None
        latest = published
        reports.append(ImportReport(report, latest, True, changes, written, deltas))
    if latest is not None and tags:
        length = len(latest.version.encode())
        store.change_ref(image, [Tag(tag, latest.id, length) for tag in tags], now=now)
    return reports


def _changes(store: Store, before: Resolved | None, root: NodeRef) -> Counter[str]:
    if before is None:
        return Counter(A=root.entries)
    with store.chunks() as chunks:
        differences = delta.diff(before.version.root, root, chunks.get)
        return Counter(change_letter(old, new) for old, new in differences)

"""Recording: what may have changed in a worktree, read, stored, and made a version.

The changed entries, in path order, edit the parent's manifest. Promises: nothing refers to what was
stored until all of it is durable; a worktree of which something can't be read is not recorded.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from chunkstore.commit import CommitReport
from chunkstore.commit.worktree import Worktree
from chunkstore.objects import delta, manifest
from chunkstore.objects.cutting import Sink
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import PackUse, Version
from chunkstore.objects.entry import Entry, change_letter
from chunkstore.objects.manifest import Change, NodeRef
from chunkstore.objects.names import BASE
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.repository import Resolved
from chunkstore.storage.writer import ChunkWriter, Written
from chunkstore.worktree.capture import Unsteady, Vanished, capture
from chunkstore.worktree.scan import Gone

if TYPE_CHECKING:
    from chunkstore.storage.deltas import DeltaReport


def record(
    worktree: Worktree, message: str, tags: Sequence[str], progress: Progress
) -> CommitReport:
    """Make a version of what is there, unless it is the parent's content after all."""
    with worktree.store.writer() as writer:
        return _Recording(worktree, writer, progress).run(writer, message, tags)


def compare(worktree: Worktree) -> list[delta.Difference]:
    """How what is there differs from the parent; nothing is stored."""
    sink = _Weighed()
    with worktree.store.chunks() as chunks:

        def load(digest: bytes) -> bytes:
            return sink.nodes.get(digest) or chunks.get(digest)

        root = _Recording(worktree, sink, Unwatched()).manifest(load)
        worktree.raise_errors()
        old = worktree.parent.version.root if worktree.parent is not None else None
        return list(delta.diff(old, root, load))


class _Weighed:
    """Content that is only looked at: nodes are kept in memory, the rest is let go."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        pass

    def store_node(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self.nodes[digest] = data
        return digest


class _Recording:
    """One worktree on its way to becoming a version."""

    def __init__(self, worktree: Worktree, sink: Sink, progress: Progress) -> None:
        self._worktree = worktree
        self._store = worktree.store
        self._parent = worktree.parent
        self._sink = sink
        self._progress = progress
        self._parameters = worktree.store.settings.chunker
        self._unsteady: list[bytes] = []

    def run(self, writer: ChunkWriter, message: str, tags: Sequence[str]) -> CommitReport:
        worktree, parent = self._worktree, self._parent
        if worktree.base is None and not isinstance(self._progress, Unwatched):
            # Everything will be read: look how much that is, so that somebody can be told.
            files, size = _weigh(os.fsdecode(worktree.tree.path))
            self._progress.expect(files=files, size=size)
        with self._store.chunks() as chunks:
            root = self.manifest(chunks.get)
        worktree.raise_errors()
        changes: Counter[str] = Counter()
        if parent is not None and root.digest == parent.version.root.digest:
            written = Written([], 0, 0, 0)
            version_id = parent.id
            worktree.name(parent, tags)
        else:
            written = writer.finish()
            changes = self._count_changes(root)
            first = [BASE] if parent is None else []
            version = Version(root, parent.id if parent else b"", worktree.now, message)
            uses = self._uses(written, writer.reused)
            version_id = self._store.publish(
                worktree.image, version, uses, tags=[*first, *tags], now=worktree.now
            )
        worktree.remember(version_id)
        published = Resolved(version_id, self._store.version(version_id))
        return CommitReport(
            version=published,
            is_new=bool(written.packs) or parent is None or version_id != parent.id,
            changes=changes,
            chunks=written.chunks,
            raw=written.raw,
            stored=written.stored,
            packs=len(written.packs),
            deltas=self._deltas(published, written),
            warnings=worktree.scan.report.warnings,
            unsteady=self._unsteady,
        )

    def _deltas(self, published: Resolved, written: Written) -> DeltaReport | None:
        """Write delta packs, if that may pay."""
        if self._parent is None or not written.raw:
            return None
        from chunkstore.storage.deltas import try_deltas

        return try_deltas(self._store, published, self._parent, written)

    def manifest(self, load: manifest.Load) -> NodeRef:
        """Capture what was found; the manifest of what is there."""
        changes = self._changes()
        if self._worktree.base is not None:
            return manifest.edit(self._worktree.base, changes, load, self._sink.store_node)
        entries = (entry for _, entry in changes if entry is not None)
        return manifest.build(entries, self._sink.store_node)

    def _changes(self) -> Iterator[Change]:
        errors = self._worktree.scan.report.errors
        for item in self._worktree.found():
            if isinstance(item, Gone):
                yield item.path, None
                continue
            try:
                entry: Entry | None = capture(item, self._parameters, self._sink)
            except Vanished:
                if stat.S_ISDIR(item.status.st_mode):
                    # What is in it may be found all the same, and would have no parent.
                    errors.append((item.path, "vanished while it was looked at"))
                    continue
                entry = None
            except Unsteady as error:
                self._unsteady.append(item.path)
                entry = error.entry
            except OSError as error:
                errors.append((item.path, error.strerror or str(error)))
                continue
            self._progress.advance(files=1, size=entry.size if entry is not None else 0)
            yield item.path, entry

    def _count_changes(self, root: NodeRef) -> Counter[str]:
        if self._parent is None:
            return Counter(A=root.entries)
        with self._store.chunks() as chunks:
            differences = delta.diff(self._parent.version.root, root, chunks.get)
            return Counter(change_letter(old, new) for old, new in differences)

    def _uses(self, written: Written, reused: set[bytes]) -> list[PackUse]:
        """The packs of the new version, newest first: its own, then those it shares."""
        new = [PackUse(pack.id, pack.pack_size, pack.index_size) for pack in written.packs]
        uses = new[::-1]
        named = {use.pack for use in uses}
        if self._parent is not None and self._worktree.base is not None:
            uses += [use for use in self._store.uses(self._parent.id) if use.pack not in named]
            named = {use.pack for use in uses}
        return uses + [self._store.pack_use(pack_id) for pack_id in sorted(reused - named)]


def _weigh(directory: str) -> tuple[int, int]:
    """Paths and bytes of the regular files below a directory, roughly: only to be shown."""
    paths = size = 0
    waiting = [directory]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as found:
            for item in found:
                paths += 1
                if item.is_dir(follow_symlinks=False):
                    waiting.append(item.path)
                elif item.is_file(follow_symlinks=False):
                    size += item.stat(follow_symlinks=False).st_size
    return paths, size

"""Commit: record a directory as the next version of an image.

Scan, capture what may have changed, store what is new, edit the manifest, publish. Nothing
changed means no new version. Promises: when this returns a version, it and everything it names is
durable; when it raises, the image is what it was. Unchanged files are not opened.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chunkstore import fsio
from chunkstore.errors import LocalError, NotFound, Usage, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects import delta, manifest
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import MAX_MESSAGE, PackUse, Tag, Version
from chunkstore.objects.entry import Entry, change_letter
from chunkstore.objects.manifest import Change, NodeRef
from chunkstore.objects.names import BASE, LATEST, Spec, check_name, printable
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.storage.writer import ChunkWriter, Written
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.capture import Sink, Unsteady, Vanished, capture
from chunkstore.worktree.patterns import Patterns, own_rules
from chunkstore.worktree.scan import Gone, Scan

if TYPE_CHECKING:
    from chunkstore.storage.deltas import DeltaReport

_SHOWN_ERRORS: Final = 5
Remark = tuple[bytes, str]
"""A path and what is to be said about it."""


@dataclass(frozen=True)
class CommitReport:
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
        with open(_memory(store, image)) as file:
            directory: str = json.load(file)["directory"]
            return directory
    except (OSError, ValueError, KeyError, TypeError):
        raise Usage(
            f"image {image!r} was not committed from this store yet: name its directory"
        ) from None


def _memory(store: Store, image: str) -> str:
    return os.path.join(store.local, "worktrees", f"{image}.json")


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
        store.writer() as writer,
    ):
        # Only the holder of the lock writes to the spool, and what is left there is swept.
        spool = os.path.join(store.local, "spool")
        worktree = _Worktree(store, image, tree, excludes, now, progress or Unwatched(), spool)
        try:
            return worktree.commit(writer, message, tags)
        finally:
            worktree.cache.abandon()


def status(
    store: Store, image: str, directory: str, *, excludes: Iterable[bytes] = (), now: int
) -> tuple[list[delta.Difference], list[Remark]]:
    """What a commit would record, and what it would warn of; writes nothing."""
    with local_errors("can't look at the worktree"), Directory(directory) as tree:
        worktree = _Worktree(store, image, tree, excludes, now, Unwatched(), None)
        try:
            return worktree.status()
        finally:
            worktree.cache.abandon()


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


class _Worktree:
    """One directory on its way to becoming a version."""

    def __init__(
        self,
        store: Store,
        image: str,
        tree: Directory,
        excludes: Iterable[bytes],
        now: int,
        progress: Progress,
        spool: str | None,
    ) -> None:
        self.store = store
        self.image = image
        self.tree = tree
        # The tree's own come last, and a `!` among them forgets none of those given.
        self.excludes = Patterns([*excludes, *own_rules(tree)])
        self.now = now
        self.progress = progress
        self.parameters: Parameters = store.settings.chunker
        self.unsteady: list[bytes] = []
        try:
            self.parent: Resolved | None = store.resolve(Spec(image, LATEST, 0))
        except NotFound:
            self.parent = None
        path = os.path.join(store.local, "worktrees", f"{image}.cache")
        self.cache = WorktreeCache(path, spool=spool)
        is_known = self.parent is not None and self.cache.load(self._identity(self.parent.id))
        self.base = self.parent.version.root if self.parent is not None and is_known else None
        self.scan = Scan(tree, self.cache, self.excludes, now=now)

    def _identity(self, version_id: bytes) -> list[bytes | int]:
        """What the cache is about: another version, directory or exclude makes it useless."""
        place = os.stat(self.tree.descriptor)
        path = os.path.realpath(self.tree.path)
        return [version_id, path, place.st_dev, place.st_ino, *self.excludes.lines]

    def commit(self, writer: ChunkWriter, message: str, tags: Sequence[str]) -> CommitReport:
        if self.base is None and not isinstance(self.progress, Unwatched):
            # Everything will be read: look how much that is, so that somebody can be told.
            files, size = _weigh(os.fsdecode(self.tree.path))
            self.progress.expect(files=files, size=size)
        with self.store.chunks() as chunks:
            root = self._manifest(chunks.get, writer)
        self._raise_errors()
        if self.parent is not None and root.digest == self.parent.version.root.digest:
            written = Written([], 0, 0, 0)
            version_id = self.parent.id
            changes: Counter[str] = Counter()
            named = [Tag(tag, version_id, len(self.parent.version.encode())) for tag in tags]
            self.store.change_ref(self.image, named, now=self.now)
        else:
            written = writer.finish()
            changes = self._count_changes(root)
            first = [BASE] if self.parent is None else []
            version = Version(root, self.parent.id if self.parent else b"", self.now, message)
            uses = self._uses(written, writer.reused)
            version_id = self.store.publish(
                self.image, version, uses, tags=[*first, *tags], now=self.now
            )
        # The version stands, whatever becomes of the cache: without one, the next commit reads all.
        with suppress(OSError, LocalError):
            self._remember(version_id)
        published = Resolved(version_id, self.store.version(version_id))
        return CommitReport(
            version=published,
            is_new=bool(written.packs) or self.parent is None or version_id != self.parent.id,
            changes=changes,
            chunks=written.chunks,
            raw=written.raw,
            stored=written.stored,
            packs=len(written.packs),
            deltas=self._deltas(published, written),
            warnings=self.scan.report.warnings,
            unsteady=self.unsteady,
        )

    def _deltas(self, published: Resolved, written: Written) -> DeltaReport | None:
        """Write delta packs, if that may pay."""
        if self.parent is None or not written.raw:
            return None
        from chunkstore.storage.deltas import try_deltas

        return try_deltas(self.store, published, self.parent, written)

    def status(self) -> tuple[list[delta.Difference], list[Remark]]:
        sink = _Weighed()
        with self.store.chunks() as chunks:

            def load(digest: bytes) -> bytes:
                return sink.nodes.get(digest) or chunks.get(digest)

            root = self._manifest(load, sink)
            self._raise_errors()
            old = self.parent.version.root if self.parent is not None else None
            return list(delta.diff(old, root, load)), self.scan.report.warnings

    def _manifest(self, load: manifest.Load, sink: Sink) -> NodeRef:
        """Scan and capture; the manifest of what is there."""
        changes = self._changes(sink)
        if self.base is not None:
            return manifest.edit(self.base, changes, load, sink.store_node)
        entries = (entry for _, entry in changes if entry is not None)
        return manifest.build(entries, sink.store_node)

    def _changes(self, sink: Sink) -> Iterator[Change]:
        for item in self.scan:
            if isinstance(item, Gone):
                yield item.path, None
                continue
            try:
                entry: Entry | None = capture(item, self.parameters, sink)
            except Vanished:
                if stat.S_ISDIR(item.status.st_mode):
                    # What is in it may be found all the same, and would have no parent.
                    self.scan.report.errors.append((item.path, "vanished while it was looked at"))
                    continue
                entry = None
            except Unsteady as error:
                self.unsteady.append(item.path)
                entry = error.entry
            except OSError as error:
                self.scan.report.errors.append((item.path, error.strerror or str(error)))
                continue
            self.progress.advance(files=1, size=entry.size if entry is not None else 0)
            yield item.path, entry

    def _raise_errors(self) -> None:
        errors = self.scan.report.errors
        if not errors:
            return
        shown = "; ".join(f"{printable(path)}: {reason}" for path, reason in errors[:_SHOWN_ERRORS])
        more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
        raise LocalError(f"can't read all of the worktree, nothing was recorded: {shown}{more}")

    def _count_changes(self, root: NodeRef) -> Counter[str]:
        if self.parent is None:
            return Counter(A=root.entries)
        with self.store.chunks() as chunks:
            differences = delta.diff(self.parent.version.root, root, chunks.get)
            return Counter(change_letter(old, new) for old, new in differences)

    def _uses(self, written: Written, reused: set[bytes]) -> list[PackUse]:
        """The packs of the new version, newest first: its own, then those it shares."""
        new = [PackUse(pack.id, pack.pack_size, pack.index_size) for pack in written.packs]
        uses = new[::-1]
        named = {use.pack for use in uses}
        if self.parent is not None and self.base is not None:
            uses += [use for use in self.store.uses(self.parent.id) if use.pack not in named]
            named = {use.pack for use in uses}
        return uses + [self.store.pack_use(pack_id) for pack_id in sorted(reused - named)]

    def _remember(self, version_id: bytes) -> None:
        same = self.parent is not None and self.base is not None and version_id == self.parent.id
        self.cache.save(self._identity(version_id), self.scan.links, identity_changed=not same)
        document = json.dumps({"directory": os.path.realpath(os.fsdecode(self.tree.path))})
        try:
            with open(_memory(self.store, self.image)) as file:
                known = file.read()
        except OSError:
            known = ""
        if known != document:
            fsio.write_durably(_memory(self.store, self.image), document.encode())


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

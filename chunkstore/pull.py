"""Pull: make a directory the version a remote names, moving only what it lacks.

    resolve   ref, version, the manifest nodes that are not here yet
    plan      difference of the manifests; chunks the node's own files have
    fetch     what is missing, checked, to the stage; the tree is not touched
    apply     make files aside, then rename them into place

A first installation streams instead: chunks become files as they arrive. Promises: the tree is
the old version, the new one, or marked as in between, and then the next pull finishes it. Reads
`REMOTE/SPEC` as `storage.backends` opens it; leaves HTTP to the backend and trust to `trust`.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from chunkstore.errors import Corrupt, LocalError, NotFound, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects import chunklist, delta, manifest
from chunkstore.objects.documents import Ref, Tag
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import STATE_DIR, Spec, sort_key
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.backend import Reader
from chunkstore.storage.catalog import FramePlace, Place
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.metered import MeteredReader
from chunkstore.storage.repository import RemoteLocator, Repository, Resolved
from chunkstore.storage.stage import Stage
from chunkstore.worktree.compare import same_content
from chunkstore.worktree.content import FileContents, chunks_of, has_content
from chunkstore.worktree.install import Installer, require_empty
from chunkstore.worktree.node import Installed, NodeState
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.sources import TreeChunks, WrittenBefore
from chunkstore.worktree.update import Plan, Updater, plan_update

CONNECTIONS = 6
_NODES_AT_ONCE = 128


@dataclass
class PullReport:
    """What a pull did. Chunks are counted once, however often they occur; `fetched` is raw bytes.

    `received` are the bytes that came from the remote, everything included, in `requests`.
    """

    version: bytes
    image: str
    is_changed: bool = False
    is_first: bool = False
    entries: int = 0
    changed: int = 0
    removed: int = 0
    needed_chunks: int = 0
    needed_bytes: int = 0
    local_chunks: int = 0
    local_bytes: int = 0
    fetched_chunks: int = 0
    fetched_bytes: int = 0
    received: int = 0
    requests: int = 0
    shortfalls: Shortfalls = field(default_factory=Shortfalls)
    saved: list[tuple[bytes, str]] = field(default_factory=list)


def remembered_source(directory: str) -> tuple[str, str] | None:
    """Remote and SPEC of the last pull into a directory; None when there was none."""
    if not os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR))):
        return None
    with NodeState(directory) as state:
        return state.source


def pull(
    reader: Reader,
    spec: Spec,
    directory: str,
    *,
    location: str = "",
    progress: Progress | None = None,
) -> PullReport:
    """Make `directory` the version `spec` names in the store that `reader` reads.

    `location` is what to remember as the remote. Raises `Conflict` when the directory is neither
    empty nor pulled, `NotFound`, `Corrupt`, `TransferError`, `LocalError`; all but a failing disk
    before the tree is touched.
    """
    if not os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR))):
        require_empty(directory)
    metered = MeteredReader(reader)
    with (
        local_errors("can't pull"),
        NodeState(directory) as state,
        Directory(directory) as tree,
    ):
        if state.is_new:
            require_empty(directory, but=STATE_DIR)
        work = _Pull(metered, spec, state, tree, progress or Unwatched())
        report = work.run((location, str(spec)))
    report.requests, report.received = metered.traffic
    return report


class _Pull:
    def __init__(
        self,
        reader: MeteredReader,
        spec: Spec,
        state: NodeState,
        tree: Directory,
        progress: Progress,
    ) -> None:
        self.reader = reader
        self.spec = spec
        self.state = state
        self.tree = tree
        self.progress = progress
        self.old = state.installed
        known = self.old or state.pending
        is_same_image = known is not None and known.image == spec.image
        store_id = known.store_id if known is not None and is_same_image else None
        self.repository = Repository(reader, store_id=store_id)

    def run(self, source: tuple[str, str]) -> PullReport:
        ref = self._ref()
        tag = ref.find(self.spec.tag)
        halves = self.state.halves
        if self.old is not None and not halves and self._is_installed(tag, self.old):
            report = PullReport(self.old.version, self.spec.image, entries=self.old.root.entries)
            if self.state.source != source:
                self.state.complete(self.old, source)
            return report
        resolved = self.repository.resolve_in(ref, self.spec)
        target = Installed(ref.store_id, ref.image, resolved.id, resolved.version.root)
        report = PullReport(resolved.id, ref.image, entries=target.root.entries)
        if self.old is None or target != self.old or halves:
            report.is_changed = True
            self._change(resolved, target, halves, report)
        self.state.complete(target, source)
        self.state.clear()
        self._sweep(target.root)
        return report

    def _ref(self) -> Ref:
        try:
            return self.repository.ref(self.spec.image)
        except NotFound:
            # Say so when there is no store at all, rather than that it has no such image.
            _ = self.repository.settings
            raise

    def _is_installed(self, tag: Tag | None, old: Installed) -> bool:
        return tag is not None and not self.spec.back and tag.version == old.version

    def _change(
        self, resolved: Resolved, target: Installed, halves: list[Installed], report: PullReport
    ) -> None:
        catalog = self.state.catalog()
        try:
            locator = RemoteLocator(self.repository, catalog, resolved.id)
            with ChunkReader(self.reader, locator, threads=CONNECTIONS) as chunks:
                self.chunks = chunks
                self._fetch_nodes(target.root)
                if self.old is None:
                    self._install(target, halves, report)
                else:
                    self._update(self.old, target, halves, locator, report)
        finally:
            catalog.close()

    def _fetch_nodes(self, root: NodeRef) -> None:
        """Bring the manifest's nodes that are not here, level by level."""
        refs = [root]
        level: int | None = None
        while True:
            missing = self.state.missing(ref.digest for ref in refs)
            for start in range(0, len(missing), _NODES_AT_ONCE):
                batch = missing[start : start + _NODES_AT_ONCE]
                self.state.add_nodes(self.chunks.get_many(batch))
            level = self._node(refs[0], level).level
            if level == 0:
                return
            refs = [child for ref in refs for child in self._node(ref, level).records]
            level -= 1

    def _node(self, ref: NodeRef, level: int | None = None) -> manifest.Node:
        return manifest.read_node(ref, self._load(ref.digest), level=level)

    def _load(self, digest: bytes) -> bytes:
        """A node from the state, else from the remote; list nodes come only when needed."""
        data = self.state.node(digest)
        if data is None:
            data = self.chunks.get(digest)
            self.state.add_nodes({digest: data})
        return data

    def _install(self, target: Installed, halves: list[Installed], report: PullReport) -> None:
        """Write the whole version into the empty, or half filled, directory."""
        report.is_first = True
        root = target.root
        again = WrittenBefore(self.tree, manifest.walk(root, self._load), self._load)
        if not halves:  # else part of the room is taken by what is there already
            _require_room(self.tree, again.total_bytes, root.entries)
        self.state.begin(target)
        for half in halves:
            self._remove_leftovers(half.root, root)
        self.progress.expect(files=root.entries, size=root.size)
        present = self._is_present if halves else _is_absent
        report.needed_chunks, report.needed_bytes = again.unique, again.unique_bytes
        contents = FileContents(
            manifest.walk(root, self._load), self.chunks, self._load, reuse=again, present=present
        )
        installer = Installer(
            self.tree,
            report.shortfalls,
            self.progress,
            written=again.written,
            resume=bool(halves),
        )
        try:
            installer.run(contents)
        finally:
            again.close()
        report.changed = root.entries
        report.fetched_chunks = self.chunks.read
        report.fetched_bytes = self.chunks.read_bytes
        # The table counts a few chunks too little, the stream none.
        report.needed_chunks = max(report.needed_chunks, report.fetched_chunks)
        report.needed_bytes = max(report.needed_bytes, report.fetched_bytes)
        report.local_chunks = report.needed_chunks - report.fetched_chunks
        report.local_bytes = report.needed_bytes - report.fetched_bytes

    def _is_present(self, entry: Entry) -> bool:
        """Whether an interrupted installation has left this file whole."""
        try:
            descriptor = self.tree.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            is_alone = os.fstat(descriptor).st_nlink == 1
            return is_alone and same_content(descriptor, entry, self._load)
        finally:
            os.close(descriptor)

    def _remove_leftovers(self, abandoned: NodeRef, root: NodeRef) -> None:
        """Take away what an abandoned installation had put here and the new one does not know."""
        plan = plan_update(
            (pair for pair in delta.diff(abandoned, root, self._load) if pair[1] is None),
            is_certain=False,
        )
        updater = self._updater(plan, root, PullReport(b"", ""))
        try:
            updater.apply()
        finally:
            updater.close()

    def _updater(self, plan: Plan, root: NodeRef, report: PullReport) -> Updater:
        return Updater(
            self.tree,
            plan,
            self.state.fresh_directory(),
            self.state.saved_directory(report.version.hex()[:12]),
            lambda path: manifest.find(root, path, self._load),
            report.shortfalls,
            self.progress,
        )

    def _update(
        self,
        old: Installed,
        target: Installed,
        halves: list[Installed],
        locator: RemoteLocator,
        report: PullReport,
    ) -> None:
        """Change the tree from the old version, or from half way to others, into the new one."""
        # What was made aside by a pull that did not come to its end takes up room.
        self.state.fresh_directory()
        sides = [half.root for half in (old, *halves)]
        differences = _united(delta.diff(side, target.root, self._load) for side in sides)
        plan = plan_update(differences, is_certain=not halves)
        report.changed = len(plan.made) + len(plan.dressed) + len(plan.directories)
        report.removed = len(plan.removed)
        self.progress.expect(files=len(plan.made), size=plan.size)
        sources = TreeChunks(self.tree)
        stage = self.state.stage()
        try:
            missing = self._find_locally(plan, sides, sources, report)
            self._fetch(missing, locator, stage)
            with ChunkReader(stage, locator, max_gap=0) as staged:
                contents = FileContents(plan.made, staged, self._load, reuse=sources)
                updater = self._updater(plan, target.root, report)
                try:
                    updater.prepare(contents)
                    self.state.begin(target)
                    updater.apply()
                finally:
                    updater.close()
            report.saved = updater.saved
        finally:
            sources.close()

    def _fetch(self, chunks: list[bytes], locator: RemoteLocator, stage: Stage) -> None:
        """Bring the frames that hold these chunks to the stage."""
        try:
            needs = _by_frame(locator.places(chunks))
            stage.fetch(needs, self.reader, threads=CONNECTIONS)
        except (NotFound, Corrupt):
            # The packs may have been repacked since the node heard of them, or an index be wrong.
            if not locator.refresh():
                raise
            needs = _by_frame(locator.places(chunks))
            stage.fetch(needs, self.reader, threads=CONNECTIONS)

    def _find_locally(
        self, plan: Plan, sides: Iterable[NodeRef], sources: TreeChunks, report: PullReport
    ) -> list[bytes]:
        """Find the chunks of the new files in the tree; returns those that are not there.

        `sides` are the versions the tree may hold parts of.
        """
        needed: dict[bytes, int] = {}
        room = 0
        for entry in plan.made:
            if has_content(entry):
                for digest, length in chunks_of(entry, self._load):
                    needed[digest] = length
                    room += length
        _require_room(self.tree, room, len(plan.made))
        report.needed_chunks = len(needed)
        report.needed_bytes = sum(needed.values())
        missing = list(needed)
        for side in sides:
            if missing:
                self._note_places(manifest.walk(side, self._load), set(missing), sources)
            for digest in missing:
                if sources.has(digest) and sources.load(digest, needed[digest]) is None:
                    # The file was changed here since it was installed.
                    sources.forget(digest)
            missing = [digest for digest in missing if not sources.has(digest)]
        report.fetched_chunks = len(missing)
        report.fetched_bytes = sum(needed[digest] for digest in missing)
        report.local_chunks = report.needed_chunks - report.fetched_chunks
        report.local_bytes = report.needed_bytes - report.fetched_bytes
        return missing

    def _note_places(
        self, entries: Iterable[Entry], needed: set[bytes], sources: TreeChunks
    ) -> None:
        for entry in entries:
            if not has_content(entry):
                continue
            offset = 0
            for digest, length in chunklist.walk(entry, self._load):
                if digest in needed:
                    sources.add(digest, entry.path, offset)
                offset += length

    def _sweep(self, root: NodeRef) -> None:
        """Drop nodes of versions past, once they outnumber those of this one."""
        if not self.state.nodes_kept:
            self.state.note_nodes()
        elif self.state.node_count() > 2 * self.state.nodes_kept + 64:
            self.state.keep_nodes(self._reachable(root))

    def _reachable(self, ref: NodeRef) -> Iterator[bytes]:
        yield ref.digest
        node = self._node(ref)
        for record in node.records:
            if node.level:
                yield from self._reachable(record)
            elif record.depth:
                yield from chunklist.nodes(record, self._load)


def _is_absent(_: Entry) -> bool:
    return False


def _by_frame(places: dict[bytes, Place]) -> dict[FramePlace, list[tuple[bytes, Place]]]:
    frames: dict[FramePlace, list[tuple[bytes, Place]]] = {}
    for digest, place in places.items():
        frames.setdefault(place.frame, []).append((digest, place))
    return frames


def _united(streams: Iterable[Iterable[delta.Difference]]) -> Iterator[delta.Difference]:
    """All streams in path order, each path once; their new sides are those of one version."""

    def key(difference: delta.Difference) -> bytes:
        entry = difference[0] or difference[1]
        assert entry is not None
        return sort_key(entry.path)

    merged = heapq.merge(*streams, key=key)
    return (next(group) for _, group in itertools.groupby(merged, key))


def _require_room(tree: Directory, size: int, entries: int) -> None:
    """Raise `LocalError` when the file system has no room for so many bytes and paths."""
    room = os.fstatvfs(tree.descriptor)
    free = room.f_bavail * room.f_frsize
    if size > free:
        raise LocalError(
            f"no space: {size} bytes are needed, {free} are free in {os.fsdecode(tree.path)}",
            errno=errno.ENOSPC,
        )
    if room.f_files and entries > room.f_favail:
        raise LocalError(
            f"no inodes: {entries} are needed, {room.f_favail} are free in "
            f"{os.fsdecode(tree.path)}",
            errno=errno.ENOSPC,
        )

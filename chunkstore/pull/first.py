"""The first installation: a whole version into an empty directory, as its chunks arrive.

Nothing is written twice and there is no second copy on the disk. After an interruption the state
says what was begun; the next pull keeps the files that are whole and goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from chunkstore.objects import delta, manifest
from chunkstore.objects.entry import Entry
from chunkstore.objects.lookup import Lookup
from chunkstore.pull import hooks
from chunkstore.pull.context import Context, check_room, require_room, require_writable
from chunkstore.pull.local import frames_of, spans, weigh
from chunkstore.pull.remote import Remote
from chunkstore.storage.backend import Foreseeing, foresee
from chunkstore.worktree.apply import Applier
from chunkstore.worktree.aside import Aside
from chunkstore.worktree.compare import same_content
from chunkstore.worktree.content import FileContents, chunks_of, has_content
from chunkstore.worktree.install import Installer, wanted
from chunkstore.worktree.installed import Installed, Source
from chunkstore.worktree.journal import Journal
from chunkstore.worktree.sources import WrittenBefore

_KEPT_BYTES: Final = 24 * 1024 * 1024
"""Memory for entries that are passed over again: those of some 70,000 paths."""
_ENTRY_BYTES: Final = 256
"""What an entry takes besides its name and what it holds."""


class FirstInstallation:
    """Writes `target` into the empty, or half filled, tree of `context`."""

    def __init__(self, context: Context, remote: Remote, target: Installed, source: Source) -> None:
        self._context = context
        self._remote = remote
        self._target = target
        self._source = source
        self._kept: list[Entry] | None = None

    def _entries(self) -> Iterator[Entry]:
        """What is to be installed, as often as it is asked for; decoded once if it is not much."""
        return self._decoded() if self._kept is None else iter(self._kept)

    def _keeping(self) -> Iterator[Entry]:
        """The first pass over the entries."""
        kept: list[Entry] = []
        room = _KEPT_BYTES
        for entry in self._decoded():
            yield entry
            if room > 0:
                attributes = sum(len(name) + len(value) for name, value in entry.xattrs)
                room -= _ENTRY_BYTES + len(entry.path) + len(entry.content) + attributes
                kept.append(entry)
            elif kept:
                kept = []
        if room > 0:
            self._kept = kept

    def _decoded(self) -> Iterator[Entry]:
        context = self._context
        entries = manifest.walk(self._target.root, context.load)
        return wanted(entries, context.excludes, context.mounts)

    def run(self) -> None:
        """Install all entries. Raises `OSError`, and what reading chunks raises."""
        context, report, target = self._context, self._context.report, self._target
        report.is_first = True
        halves = context.state.halves
        again = WrittenBefore(context.tree, self._keeping(), context.load)
        report.changed = again.entries
        report.needed_chunks, report.needed_bytes = again.unique, again.unique_bytes
        if context.options.dry_run:
            self._look()
            return
        require_writable(context, (entry.path for entry in self._entries()))
        if not halves:  # else part of the room is taken by what is there already
            self._require_room(again)
        after = hooks.before(context, target, self._changes)
        context.state.begin(target, self._source, after=after)
        for half in halves:
            self._remove_leftovers(half)
        context.progress.expect(files=target.root.entries, size=target.root.size)
        try:
            self._install(again, resume=bool(halves))
        finally:
            again.close()
        report.fetched_chunks = self._remote.chunks.read
        report.fetched_bytes = self._remote.chunks.read_bytes
        # The table counts a few chunks too little, the stream none.
        report.needed_chunks = max(report.needed_chunks, report.fetched_chunks)
        report.needed_bytes = max(report.needed_bytes, report.fetched_bytes)
        report.local_chunks = report.needed_chunks - report.fetched_chunks
        report.local_bytes = report.needed_bytes - report.fetched_bytes
        context.state.complete(target, self._source, excludes=context.excludes.lines)
        context.state.clear()

    def _look(self) -> None:
        """What a dry run says of it."""
        context, report = self._context, self._context.report
        report.changes = list(self._changes())
        weigh(context, self._remote, self._chunks())
        report.fetched_chunks, report.fetched_bytes = report.needed_chunks, report.needed_bytes

    def _chunks(self) -> Iterator[bytes]:
        files = (entry for entry in self._entries() if has_content(entry))
        return (digest for entry in files for digest, _ in chunks_of(entry, self._context.load))

    def _changes(self) -> Iterator[tuple[str, bytes]]:
        return (("A", entry.path) for entry in self._entries())

    def _require_room(self, again: WrittenBefore) -> None:
        context = self._context
        if context.mounts.points:
            require_room(context, self._entries())
        else:
            check_room(context.tree, b"", again.total_bytes, again.entries)

    def _install(self, again: WrittenBefore, *, resume: bool) -> None:
        context = self._context
        present = self._is_present if resume else _is_absent
        if isinstance(self._remote.reader, Foreseeing):
            # What an interrupted installation left is read from files; too much said is no harm.
            parts = spans(frames_of(self._remote, self._chunks()))
            foresee(self._remote.reader, parts, reserve=again.total_bytes)
        contents = FileContents(
            *(self._entries(), self._remote.chunks, context.load), reuse=again, present=present
        )
        installer = Installer(
            context.tree,
            context.report.shortfalls,
            context.progress,
            baseline=context.baseline,
            mounts=context.mounts,
            written=again.written,
            resume=resume,
        )
        installer.run(contents)

    def _is_present(self, entry: Entry) -> bool:
        """Whether an interrupted installation has left this file whole."""
        tree = self._context.tree
        try:
            descriptor = tree.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            is_alone = os.fstat(descriptor).st_nlink == 1
            return is_alone and same_content(descriptor, entry, self._context.load)
        finally:
            os.close(descriptor)

    def _remove_leftovers(self, abandoned: Installed) -> None:
        """Take away what an abandoned installation had put here and the new one does not know."""
        context = self._context
        gone = (
            pair[0]
            for pair in delta.diff(abandoned.root, self._target.root, context.load)
            if pair[1] is None and pair[0] is not None
        )
        paths = [entry.path for entry in wanted(gone, context.excludes, context.mounts)]
        # Swept, not removed: half a file is like nothing the image had, and still not the node's.
        step = Journal(b"", context.options.stamp, *((),) * 5, tuple(paths[::-1]), (), (), ())
        nothing = Aside(context.tree, (), [])
        applier = Applier(
            context.tree,
            step,
            nothing,
            Lookup(self._target.root, context.load).find,
            context.witness([]),
            context.report.shortfalls,
        )
        applier.run()


def _is_absent(_: Entry) -> bool:
    return False

"""A plan: what has to be done to a tree, by path, as a value.

What has to be made, given new metadata, removed; what of the node's own will be moved out of the
way, and what is left as it is. Leaves finding it out to `planner`, doing it to `pull.change`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from chunkstore.objects.entry import Entry
from chunkstore.objects.names import sort_key, split
from chunkstore.worktree.content import has_content


@dataclass
class Plan:
    """What has to be done, by path. Entries are in path order once `finish` has been called."""

    made: list[Entry] = field(default_factory=list)
    """Everything but directories that is new or has to be made anew."""
    directories: list[Entry] = field(default_factory=list)
    """Directories that are new or differ."""
    dressed: list[Entry] = field(default_factory=list)
    """Files that only get new metadata."""
    removed: list[bytes] = field(default_factory=list)
    """Paths the image has no more, in path order."""
    swept: list[bytes] = field(default_factory=list)
    """Paths the image never had, to be removed for a mirror: what is inside comes first."""
    changes: list[tuple[str, bytes]] = field(default_factory=list)
    """Every change to the tree with its letter, as `diff` has them."""
    saved: list[bytes] = field(default_factory=list)
    """Things of the node's own that will be moved out of the way."""
    kept: list[bytes] = field(default_factory=list)
    """What was changed here and is left alone, though the image changes its metadata."""

    def __bool__(self) -> bool:
        return bool(self.made or self.directories or self.dressed or self.removed or self.swept)

    def paths(self) -> Iterator[bytes]:
        """Everything that is changed, the directories of what comes or goes aside."""
        for entry in (*self.made, *self.directories, *self.dressed):
            yield entry.path
        yield from self.removed
        yield from self.swept

    @property
    def size(self) -> int:
        """Bytes of the files that are made."""
        return sum(entry.size for entry in self.made if has_content(entry))

    def touched(self, more: Iterable[bytes] = ()) -> list[bytes]:
        """Directories in which names come or go, innermost first; their times have to be mended."""
        paths = {split(entry.path)[0] for entry in (*self.made, *self.directories) if entry.path}
        paths.update(split(path)[0] for path in (*self.removed, *self.swept))
        return sorted({*paths, *more}, key=sort_key, reverse=True)

    def finish(self) -> Plan:
        """Put everything into its order."""
        for entries in (self.made, self.directories, self.dressed):
            entries.sort(key=lambda entry: sort_key(entry.path))
        for paths in (self.removed, self.saved, self.kept):
            paths.sort(key=sort_key)
        self.changes.sort(key=lambda change: sort_key(change[1]))
        return self

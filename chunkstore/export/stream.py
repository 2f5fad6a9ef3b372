"""One tar archive on its way from the store: which members, with which content, in which order.

Promises: members come from two manifests and the store's chunks, streamed; the cost of a difference
follows what differs. Leaves the sink, and what is told beside the archive, to the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, cast

from chunkstore.archive import dumpdir, selection, sparse, whiteout
from chunkstore.archive.compression import Sink
from chunkstore.archive.selection import Removal, Revisit, Step
from chunkstore.archive.tar import TarWriter
from chunkstore.objects import chunklist, delta, manifest
from chunkstore.objects.children import children
from chunkstore.objects.delta import Difference
from chunkstore.objects.digest import HOLE, version_digest
from chunkstore.objects.documents import Version
from chunkstore.objects.entry import Entry
from chunkstore.objects.lookup import Lookup
from chunkstore.progress import Progress
from chunkstore.storage.layers import Layered, loader
from chunkstore.storage.store import Store
from chunkstore.worktree.content import FileContents

Tree = Version | Layered
"""What can be written."""
if TYPE_CHECKING:
    # Reading archives takes longer to import than a small difference takes to write.
    from chunkstore.export.tarball import Tarball

    Base = Version | Layered | Tarball
    """What it can be compared with."""


def tree_id(tree: Tree) -> str:
    """The id of the version in hexadecimal, or those of the layers joined by `+`."""
    if isinstance(tree, Layered):
        return "+".join(version.id.hex() for version in tree.versions)
    return version_digest(tree.encode()).hex()


def tree_time(tree: Tree) -> int:
    """When the version was recorded, of layers the last one, in nanoseconds."""
    return (
        tree.time if isinstance(tree, Version) else max(each.version.time for each in tree.versions)
    )


class Stream:
    """What goes into one archive.

    `removals` are the paths that have to go, as far as `deletions` tells of them; `lost` counts, by
    kind, what a tar archive can't say.
    """

    def __init__(
        self, store: Store, version: Tree, base: Base | None, deletions: str, progress: Progress
    ) -> None:
        self.version = version
        self.base = base
        self._store = store
        self._deletions = deletions
        self._progress = progress
        self._listings: dict[bytes, bytes] = {}
        self.removals: list[bytes] = []
        self.lost: Counter[str] = Counter()

    def write(self, sink: Sink) -> int:
        """Write the archive; returns the number of its members."""
        with self._store.chunks() as nodes, self._store.chunks() as chunks:
            load = loader(self.version, nodes.get)
            if isinstance(self.base, Version | Layered):
                load = loader(self.base, load)
            elif self.base is not None:
                load = self.base.over(load)
            contents = FileContents(self._members(load), chunks, load)
            return self._write(contents, sink, load)

    def _members(self, load: manifest.Load) -> Iterator[Entry]:
        root = self.version.root
        is_layer = self._deletions == "oci"
        if self.base is None:
            self._progress.expect(files=root.entries, size=root.size)
            found = manifest.walk(root, load)
            yield from map(whiteout.check, found) if is_layer else found
            return
        if self._deletions == "gnu":
            steps = self._steps(load, Counter())
            below = partial(_right_below, root, load)
            self._listings = dumpdir.listings(steps, below)
        told = self._tell(self._steps(load, self.lost))
        for item in whiteout.whiteouts(told) if is_layer else told:
            if isinstance(item, Revisit):
                yield item.entry
            elif isinstance(item, Entry):
                yield item

    def _steps(self, load: manifest.Load, lost: Counter[str]) -> Iterator[Step]:
        assert self.base is not None
        root = self.version.root
        differences = partial(self._differences, self.base, load)
        wanted: Iterable[Difference] = (
            whiteout.whole_groups(differences, partial(manifest.walk, root, load))
            if self._deletions == "oci"
            else differences()
        )
        return selection.select(wanted, Lookup(root, load).find, lost)

    def _differences(self, base: Base, load: manifest.Load) -> Iterable[Difference]:
        found = delta.diff(base.root, self.version.root, load)
        return found if isinstance(base, Version | Layered) else base.as_told(found)

    def _tell(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps, removals noted."""
        for item in steps:
            if isinstance(item, Removal) and self._is_told(item):
                self.removals.append(item.path)
            yield item

    def _is_told(self, removal: Removal) -> bool:
        if self._deletions == "gnu":
            return not removal.same_kind
        return self._deletions != "oci" or not removal.returns

    def _write(self, contents: FileContents, sink: Sink, load: manifest.Load) -> int:
        members = 0
        writer = TarWriter(sink, acls=self._deletions != "oci")
        for entry, is_wanted in contents.entries:
            if is_wanted:
                has_holes = entry.depth > 0 or HOLE in entry.content
                runs = sparse.extents(chunklist.walk(entry, load)) if has_holes else None
                is_whole = runs is not None and sum(size for _, size in runs) == entry.size
                data = (part for part, _ in contents.content(entry) if part is not None)
                writer.add(entry, cast(Iterable[bytes], data), None if is_whole else runs)
            else:
                # Once: a directory that comes a second time has nothing more to tell.
                writer.add(entry, listing=self._listings.pop(entry.path, b""))
            members += 1
            self._progress.advance(files=1, size=entry.size)
        writer.finish()
        self.lost.update(writer.lost)
        return members


def _right_below(root: manifest.NodeRef, load: manifest.Load, path: bytes) -> Iterator[Entry]:
    return islice(children(root, load, path), 1, None)

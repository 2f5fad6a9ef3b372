"""A directory beside what is recorded of it: whether anything moved, and what to keep in mind.

Promises: the cache is only used for the very version, directory and excludes it was saved for, and
is saved when the version it is about is published. Leaves reading and recording to `recording`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final

from chunkstore import fsio
from chunkstore.errors import LocalError, NotFound
from chunkstore.fsio import Directory
from chunkstore.objects.documents import Tag
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import LATEST, Spec, printable
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.patterns import Patterns, own_rules
from chunkstore.worktree.scan import Found, Gone, Scan

_SHOWN_ERRORS: Final = 5
Remark = tuple[bytes, str]
"""A path and what is to be said about it."""


def memory_of(store: Store, image: str) -> str:
    """The file that says which directory an image was last committed from."""
    return os.path.join(store.local, "worktrees", f"{image}.json")


class Worktree:
    """One directory, and the latest version of its image. Without `spool` nothing is written.

    `parent` is that version, if there is one; `base` its manifest, if the cache tells what has
    changed since.
    """

    def __init__(
        self,
        store: Store,
        image: str,
        tree: Directory,
        excludes: Iterable[bytes],
        now: int,
        spool: str | None,
    ) -> None:
        self.store = store
        self.image = image
        self.tree = tree
        # The tree's own come last, and a `!` among them forgets none of those given.
        self._excludes = Patterns([*excludes, *own_rules(tree)])
        self.now = now
        try:
            self.parent: Resolved | None = store.resolve(Spec(image, LATEST, 0))
        except NotFound:
            self.parent = None
        path = os.path.join(store.local, "worktrees", f"{image}.cache")
        self.cache = WorktreeCache(path, spool=spool)
        is_known = self.parent is not None and self.cache.load(self._identity(self.parent.id))
        self.base: NodeRef | None = None
        if self.parent is not None and is_known:
            self.base = self.parent.version.root
        self.scan = Scan(tree, self.cache, self._excludes, now=now)
        self._found = iter(self.scan)

    def _identity(self, version_id: bytes) -> list[bytes | int]:
        """What the cache is about: another version, directory or exclude makes it useless."""
        place = os.stat(self.tree.descriptor)
        path = os.path.realpath(self.tree.path)
        return [version_id, path, place.st_dev, place.st_ino, *self._excludes.lines]

    def is_as_recorded(self) -> bool:
        """Whether nothing may have changed. Raises `LocalError` when not all could be looked at.

        Walks up to the first path that may have; ask once, before `found`.
        """
        if self.base is None:
            return False
        first = next(self._found, None)
        if first is not None:
            self._found = chain((first,), self._found)
            return False
        self.raise_errors()
        return True

    def found(self) -> Iterator[Found | Gone]:
        """What may have changed; of each, `folder` is open until the next."""
        return self._found

    def raise_errors(self) -> None:
        """Raises `LocalError` when something could not be read."""
        errors = self.scan.report.errors
        if not errors:
            return
        shown = "; ".join(f"{printable(path)}: {reason}" for path, reason in errors[:_SHOWN_ERRORS])
        more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
        raise LocalError(f"can't read all of the worktree, nothing was recorded: {shown}{more}")

    def name(self, version: Resolved, tags: Sequence[str]) -> None:
        """Let tags name a version that is there."""
        named = [Tag(tag, version.id, len(version.version.encode())) for tag in tags]
        self.store.change_ref(self.image, named, now=self.now)

    def remember(self, version_id: bytes) -> None:
        """Keep for the next commit what this one saw, which is now that version."""
        # The version stands, whatever becomes of this: without it, the next commit reads all.
        with suppress(OSError, LocalError):
            self._remember(version_id)

    def _remember(self, version_id: bytes) -> None:
        same = self.parent is not None and self.base is not None and version_id == self.parent.id
        self.cache.save(self._identity(version_id), self.scan.links, identity_changed=not same)
        document = json.dumps({"directory": os.path.realpath(os.fsdecode(self.tree.path))})
        path = memory_of(self.store, self.image)
        try:
            with open(path) as file:
                known = file.read()
        except OSError:
            known = ""
        if known != document:
            fsio.write_durably(path, document.encode())

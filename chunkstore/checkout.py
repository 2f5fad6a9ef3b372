"""Checkout: a version, or layers of versions, from the local store into an empty directory."""

from __future__ import annotations

from dataclasses import dataclass

from chunkstore.errors import local_errors
from chunkstore.fsio import Directory
from chunkstore.objects import manifest
from chunkstore.objects.documents import Version
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.layers import Layered, loader
from chunkstore.storage.store import Store
from chunkstore.worktree.content import FileContents
from chunkstore.worktree.install import Installer, require_empty
from chunkstore.worktree.restore import Shortfalls


@dataclass(frozen=True)
class CheckoutReport:
    """What was written, and what could not be set."""

    entries: int
    size: int
    shortfalls: Shortfalls


def checkout(
    store: Store, version: Version | Layered, directory: str, *, progress: Progress | None = None
) -> CheckoutReport:
    """Write `version` into `directory`, which must be empty. Raises `Conflict`, `LocalError`."""
    require_empty(directory)
    watched = progress or Unwatched()
    shortfalls = Shortfalls()
    root = version.root
    watched.expect(files=root.entries, size=root.size)
    with (
        local_errors("can't check out"),
        Directory(directory) as tree,
        store.chunks() as nodes,
        store.chunks() as chunks,
    ):
        load = loader(version, nodes.get)
        entries = manifest.walk(root, load)
        Installer(tree, shortfalls, watched).run(FileContents(entries, chunks, load))
    return CheckoutReport(root.entries, root.size, shortfalls)

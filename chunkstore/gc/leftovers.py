"""What killed writers and half-done deletions leave behind in a store's public part.

Files on their way to a name, which begin with a dot; indexes and torrents without their pack;
locate hints without their version. The spool is swept whenever the store is locked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from chunkstore.storage import layout
from chunkstore.storage.store import Store


def leftovers(store: Store, before: int) -> Iterator[str]:
    """Paths of leftovers; the caller holds the lock. Raises `OSError`.

    Unfinished files count only if untouched since `before`, in nanoseconds: refs and torrents may
    be written without the lock.
    """
    for folder in _folders(store.root):
        with suppress(FileNotFoundError), os.scandir(folder) as found:
            for item in found:
                is_unfinished = item.name.startswith(".") and item.is_file(follow_symlinks=False)
                if is_unfinished and item.stat(follow_symlinks=False).st_mtime_ns <= before:
                    yield item.path
    packs = set(store.packs())
    for name in store.backend.list(layout.PACKS):
        match = layout.PACK_FILE.fullmatch(name)
        if match is not None and bytes.fromhex(match["id"]) not in packs:
            yield os.path.join(store.root, name)
    versions = set(store.backend.list(layout.VERSIONS))
    for name in store.backend.list(layout.LOCATE):
        match = layout.VERSION_FILE.fullmatch(name)
        if match is not None and layout.VERSIONS + match["id"] not in versions:
            yield os.path.join(store.root, name)


def _folders(root: str) -> Iterator[str]:
    for name in (layout.PACKS, layout.VERSIONS, layout.LOCATE, layout.DELTAS):
        yield os.path.join(root, name)
    images = os.path.join(root, layout.IMAGES)
    with os.scandir(images) as found:
        yield from (item.path for item in found if item.is_dir(follow_symlinks=False))

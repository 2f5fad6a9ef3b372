"""What is in a store at one moment, as far as a reader without the lock can tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from chunkstore.errors import NotFound
from chunkstore.objects.documents import MAX_REF
from chunkstore.objects.names import NAME
from chunkstore.storage import layout
from chunkstore.storage.store import Store


class Listing(NamedTuple):
    """Refs by image (None where one is missing), names of all other objects, what is doomed."""

    refs: dict[str, bytes | None]
    names: frozenset[str]
    doomed: dict[str, int]

    def packs(self, suffix: str) -> set[bytes]:
        """The ids that have a file with this suffix."""
        found = map(layout.PACK_FILE.fullmatch, self.names)
        return {
            bytes.fromhex(match["id"]) for match in found if match and match["suffix"] == suffix
        }

    def ids(self, prefix: str) -> Iterator[bytes]:
        """The versions that have a file below this prefix."""
        for name in sorted(self.names):
            match = layout.VERSION_FILE.fullmatch(name)
            if match is not None and name.startswith(prefix):
                yield bytes.fromhex(match["id"])


def look_around(store: Store) -> Listing:
    """List a store. Raises `OSError`, `LocalError`."""
    # Refs first: whatever they name was there before them.
    refs = {image: _ref(store, image) for image in sorted(_images(store.root))}
    names = frozenset(
        name
        for prefix in (layout.VERSIONS, layout.PACKS, layout.LOCATE, layout.DELTAS)
        for name in store.backend.list(prefix)
    )
    return Listing(refs, names, store.doomed())


def _images(root: str) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(os.path.join(root, layout.IMAGES)) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False) and NAME.fullmatch(item.name):
                yield item.name


def _ref(store: Store, image: str) -> bytes | None:
    try:
        return store.reader.get(layout.ref(image), 0, MAX_REF + 1)
    except NotFound:
        return None

"""Files in a store's public part that are no part of a store. They do no harm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from chunkstore.objects.names import NAME
from chunkstore.storage import layout

_FOLDERS: Final = (layout.VERSIONS, layout.PACKS, layout.LOCATE, layout.DELTAS, layout.ROOTS)
_FILES: Final = (layout.PACK_FILE, layout.VERSION_FILE, layout.DELTA_FILE, layout.ROOT_FILE)
_TOP: Final = {
    layout.SETTINGS,
    layout.LOCAL,
    *(folder.rstrip("/") for folder in (layout.IMAGES, *_FOLDERS)),
}


def strays(root: str) -> Iterator[str]:
    """Say of each what it is. Raises `OSError`."""
    for item in _items(root):
        if item.name not in _TOP:
            yield _note(item.name)
    for folder in _FOLDERS:
        for item in _items(os.path.join(root, folder)):
            name = folder + item.name
            belongs = any(kind.fullmatch(name) for kind in _FILES)
            if not belongs or not item.is_file(follow_symlinks=False):
                yield _note(name)
    for image in _items(os.path.join(root, layout.IMAGES)):
        if not image.is_dir(follow_symlinks=False) or not NAME.fullmatch(image.name):
            yield _note(layout.IMAGES + image.name)
            continue
        for item in _items(image.path):
            if item.name != "ref" or not item.is_file(follow_symlinks=False):
                yield _note(f"{layout.IMAGES}{image.name}/{item.name}")


def _items(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda item: item.name)
    except FileNotFoundError:
        # A copy of a store may leave out directories that are empty.
        return []


def _note(name: str) -> str:
    if name.rpartition("/")[2].startswith("."):
        return f"{name}: a file that was not finished; gc removes it when it is old"
    return f"{name}: does not belong in a store"

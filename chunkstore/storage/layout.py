"""The names of objects in a store. See `docs/format.md`, section "Store layout"."""

from __future__ import annotations

import re
from typing import Final

SETTINGS: Final = "store.json"
IMAGES: Final = "images/"
VERSIONS: Final = "versions/"
PACKS: Final = "packs/"
LOCATE: Final = "locate/"
LOCAL: Final = "local"
"""A directory beside the objects that is never served: catalog, locks, spool, caches."""

PACK_FILE: Final = re.compile(r"packs/(?P<id>[0-9a-f]{64})\.(?P<suffix>pack|idx|torrent)")
"""A pack and what may stand beside it."""
VERSION_FILE: Final = re.compile(r"(?:versions|locate)/(?P<id>[0-9a-f]{64})")
"""A version record or its locate hint."""


def ref(image: str) -> str:
    """The ref of an image."""
    return f"{IMAGES}{image}/ref"


def version(version_id: bytes) -> str:
    """A version record."""
    return f"{VERSIONS}{version_id.hex()}"


def pack(pack_id: bytes) -> str:
    """A pack."""
    return f"{PACKS}{pack_id.hex()}.pack"


def index(pack_id: bytes) -> str:
    """The index of a pack."""
    return f"{PACKS}{pack_id.hex()}.idx"


def locate(version_id: bytes) -> str:
    """The hint where a version's chunks lie."""
    return f"{LOCATE}{version_id.hex()}"

"""The names of objects in a store. See `docs/format.md`, section "Store layout"."""

from __future__ import annotations

import re
from typing import Final

SETTINGS: Final = "store.json"
IMAGES: Final = "images/"
VERSIONS: Final = "versions/"
PACKS: Final = "packs/"
LOCATE: Final = "locate/"
DELTAS: Final = "deltas/"
ROOTS: Final = "roots/"
LOCAL: Final = "local"
"""A directory beside the objects that is never served: catalog, locks, spool, caches."""

PACK_FILE: Final = re.compile(r"packs/(?P<id>[0-9a-f]{64})\.(?P<suffix>pack|idx|torrent)")
"""A pack and what may stand beside it."""
DELTA_FILE: Final = re.compile(r"deltas/(?P<id>[0-9a-f]{64})\.(?P<suffix>pack|idx)")
"""A delta pack or its index."""
VERSION_FILE: Final = re.compile(r"(?:versions|locate|deltas)/(?P<id>[0-9a-f]{64})")
"""A version record, its locate hint, or its deltas."""
ROOT_FILE: Final = re.compile(r"roots/(?P<version>[1-9][0-9]{0,18})")
"""A root document."""


def ref(image: str) -> str:
    """The ref of an image."""
    return f"{IMAGES}{image}/ref"


def root(version: int) -> str:
    """A root document: who may sign."""
    return f"{ROOTS}{version}"


def version(version_id: bytes) -> str:
    """A version record."""
    return f"{VERSIONS}{version_id.hex()}"


def pack(pack_id: bytes) -> str:
    """A pack."""
    return f"{PACKS}{pack_id.hex()}.pack"


def index(pack_id: bytes) -> str:
    """The index of a pack."""
    return f"{PACKS}{pack_id.hex()}.idx"


def torrent(pack_id: bytes) -> str:
    """The torrent of a pack."""
    return f"{PACKS}{pack_id.hex()}.torrent"


def locate(version_id: bytes) -> str:
    """The hint where a version's chunks lie."""
    return f"{LOCATE}{version_id.hex()}"


def deltas(version_id: bytes) -> str:
    """The hint which delta packs lead to a version."""
    return f"{DELTAS}{version_id.hex()}"


def delta_pack(pack_id: bytes) -> str:
    """A delta pack."""
    return f"{DELTAS}{pack_id.hex()}.pack"


def delta_index(pack_id: bytes) -> str:
    """The index of a delta pack."""
    return f"{DELTAS}{pack_id.hex()}.idx"

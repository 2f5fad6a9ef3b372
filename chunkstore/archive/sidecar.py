"""The list of deletions beside a differential archive: what it is called, and what is in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chunkstore.objects.names import sort_key

_ENDS: Final = (
    *(".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2"),
    ".tar",
)


def beside(archive: str) -> str:
    """Where the list stands that goes with an archive."""
    for end in _ENDS:
        stem = archive.removesuffix(end)
        if stem != archive:
            return f"{stem}.deletions"
    return f"{archive}.deletions"


def encode(paths: Iterable[bytes]) -> bytes:
    """Removed paths for `xargs -0 -r rm -rf --`: NUL after each, deepest first."""
    ordered = sorted(paths, key=lambda path: (-path.count(b"/"), sort_key(path)))
    return b"".join(path + b"\0" for path in ordered)

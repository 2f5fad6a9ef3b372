"""Paths in an image as people type them."""

from __future__ import annotations

import os

from chunkstore.errors import Usage


def image_path(text: str) -> bytes:
    """`etc/fstab` from `/etc/fstab`, `./etc//fstab/` and the like. Raises `Usage`."""
    components = [part for part in os.fsencode(text).split(b"/") if part not in (b"", b".")]
    if b".." in components:
        raise Usage(f"{text}: a path in an image has no '..'")
    return b"/".join(components)

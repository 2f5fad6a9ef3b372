"""The directory and the exclude patterns of `commit` and `status`."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from dataclasses import dataclass

from chunkstore.commit import remembered_directory
from chunkstore.errors import local_errors
from imgstore.output import Output
from imgstore.stores import open_store, store_path


@dataclass(frozen=True)
class Worktree:
    """A directory to be recorded, and what in it must not be, whoever asks."""

    path: str
    own_excludes: tuple[bytes, ...] = ()


def directory_of(options: Namespace, output: Output) -> Worktree:
    """The directory named, or the one the image was last committed from.

    A store inside it is left out, with a note: recording it would change what is recorded.
    """
    path = options.directory
    if path is None:
        path = remembered_directory(open_store(options, output), options.image)
    root, store = os.path.realpath(path), os.path.realpath(store_path(options))
    inside = os.path.relpath(store, root)
    if inside.startswith(os.pardir) or inside == os.curdir:
        return Worktree(path)
    output.note(f"leaving out {inside}: it is the store itself")
    return Worktree(path, (_anchored(os.fsencode(inside)),))


def _anchored(path: bytes) -> bytes:
    """The pattern that matches one directory and no other."""
    return b"/" + re.sub(rb"([*?\[\]\\])", rb"\\\1", path) + b"/"


def exclude_patterns(options: Namespace) -> list[bytes]:
    """`--exclude` and the lines of each `--exclude-from`. Raises `LocalError`."""
    patterns = [os.fsencode(pattern) for pattern in options.exclude]
    for name in options.exclude_from:
        with local_errors("can't read the exclude patterns"), open(name, "rb") as file:
            patterns += file.read().splitlines()
    return patterns

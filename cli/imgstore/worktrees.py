"""The directory and the exclude rules of `commit` and `status`."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import NamedTuple

from chunkstore.errors import local_errors
from chunkstore.worktree.patterns import in_force, only, rules_in
from imgstore.output import Output


class Worktree(NamedTuple):
    """A directory to be recorded, and what in it must not be, whoever asks."""

    path: str
    own_excludes: tuple[bytes, ...] = ()


def directory_of(options: Namespace, output: Output) -> Worktree:
    """The directory named, or the one the image was last committed from.

    A store inside it is left out, with a note: recording it would change what is recorded.
    """
    from chunkstore.commit import remembered_directory
    from imgstore.stores import open_store, store_path

    path = options.directory
    if path is None:
        path = remembered_directory(open_store(options, output), options.image)
    root, store = os.path.realpath(path), os.path.realpath(store_path(options))
    inside = os.path.relpath(store, root)
    if inside.startswith(os.pardir) or inside == os.curdir:
        return Worktree(path)
    output.note(f"leaving out {inside}: it is the store itself")
    return Worktree(path, (only(os.fsencode(inside)),))


def exclude_rules(options: Namespace) -> list[bytes]:
    """The rules of `--exclude` and in the `--exclude-from` files, as they were given.

    Raises `LocalError` when a file can't be read.
    """
    rules: list[bytes] = []
    for kind, text in options.excludes:
        if kind == "rule":
            rules.append(os.fsencode(text))
            continue
        with local_errors("can't read the exclude rules"), open(text, "rb") as file:
            rules += rules_in(file.read())
    return in_force(rules)

"""The journal: everything an update still has to do to the tree, written down before it begins.

    magic, format version; then one record
    (token, stamp, asides, directories, made, dressed, removed, swept, touched, saved, excludes),
    where made is (entry, aside, name): which directory of `asides` the finished file waits in,
    and under what name

With the files that wait aside and the manifest nodes in the node's state it holds all that is
needed to finish, so neither the network nor the old plan is. It is valid only for the change that
the state says is under way, by its token: one left over means nothing. Written durably, whole or
not at all.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final, NamedTuple

from chunkstore import fsio
from chunkstore.errors import Corrupt, local_errors
from chunkstore.objects import record
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import Entry

_MAGIC: Final = b"IMGSJRNL"
_VERSION: Final = 1
_TOKEN_SIZE: Final = 16


class Made(NamedTuple):
    """A path made anew: its entry, and where the finished file waits.

    `name` is empty for what could not be made (a device, without the privilege).
    """

    entry: Entry
    aside: int
    name: bytes


class Journal(NamedTuple):
    """One change of a tree. Paths and entries in path order, but `swept` and `touched`.

    `asides` are the directories in which files wait. `stamp` names the directory that things of
    the node's own are saved to, `saved` is what was there to be saved when this was planned.
    `excludes` are the patterns the tree will be complete but for.
    """

    token: bytes
    stamp: str
    asides: tuple[bytes, ...]
    directories: tuple[Entry, ...]
    made: tuple[Made, ...]
    dressed: tuple[Entry, ...]
    removed: tuple[bytes, ...]
    swept: tuple[bytes, ...]
    touched: tuple[bytes, ...]
    saved: tuple[bytes, ...]
    excludes: tuple[bytes, ...]

    @property
    def writes(self) -> int:
        """Paths that are made or given new metadata."""
        return len(self.made) + len(self.directories) + len(self.dressed)


def fresh_token() -> bytes:
    """A token no other change has."""
    return os.urandom(_TOKEN_SIZE)


def write(path: str, journal: Journal) -> None:
    """Make the journal durable. Raises `LocalError`."""
    data = record.seal(_MAGIC, _VERSION, journal)
    with local_errors("can't write the journal"):
        fsio.write_durably(path, data + chunk_digest(data), mode=0o600)


def read(path: str, token: bytes) -> Journal | None:
    """The journal of the change that `token` names; None when there is none, or of another.

    Raises `Corrupt` when what is there can't be read, `Unsupported` for another version's.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    body, digest = data[:-32], data[-32:]
    if chunk_digest(body) != digest:
        raise Corrupt(f"{path}: the journal is damaged", where=path)
    journal = _parse(record.unseal(body, _MAGIC, _VERSION, path), path)
    return journal if journal.token == token else None


def remove(path: str) -> None:
    """Take the journal away: what it said is done."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _parse(value: Any, path: str) -> Journal:
    # It is this program's own, in a directory only we can write to, and its digest is right: this
    # tells one written by another version of the program, no more.
    try:
        token, stamp, asides, directories, made, dressed, *paths = value
        removed, swept, touched, saved, excludes = paths
        return Journal(
            token,
            stamp,
            asides,
            tuple(Entry._make(item) for item in directories),
            tuple(Made(Entry._make(entry), aside, name) for entry, aside, name in made),
            tuple(Entry._make(item) for item in dressed),
            removed,
            swept,
            touched,
            saved,
            excludes,
        )
    except (TypeError, ValueError) as error:
        raise Corrupt(f"{path}: is no journal: {error}", where=path) from error

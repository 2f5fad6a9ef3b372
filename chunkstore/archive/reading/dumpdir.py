"""Listings of directories in GNU incremental archives: what was there when it was made. Pure.

Such an archive holds only what changed; of each directory it also holds the names of all that was
in it, so that what is gone since the archive before can be removed, and which directories were
renamed. A listing is a run of letters with a name and a NUL behind each, and a NUL at the end:

    Y name   is in this archive          D name   is a directory
    N name   has not changed             R old, T new   a directory was renamed
    X name   a directory of any name in `name` serves for what is renamed to or from nothing

See "Dumpdir" in the manual of GNU tar.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from chunkstore.archive.reading.paths import path_of
from chunkstore.errors import Corrupt
from chunkstore.objects.names import STATE_DIR

ASIDE: Final = STATE_DIR
"""Where a directory waits whose name another one needs first: no image has such a path."""

_PRESENT: Final = (b"Y", b"N", b"D")
_DIRECTORY: Final = b"D"
_FROM, _TO, _ASIDE = b"R", b"T", b"X"


class Listing(NamedTuple):
    """The names in a directory, each with whether it is one itself, and what was renamed in the
    tree before, in order, as pairs of paths."""

    names: dict[bytes, bool]
    renamed: list[tuple[bytes, bytes]]


def parse(data: bytes, where: str) -> Listing:
    """Read a listing. Raises `Corrupt` naming `where`."""
    names: dict[bytes, bool] = {}
    renamed: list[tuple[bytes, bytes]] = []
    source: bytes | None = None
    items = iter(data.split(b"\0"))
    for item in items:
        letter, name = item[:1], item[1:]
        if not letter:
            break
        if (letter == _TO) != (source is not None):
            raise Corrupt(f"{where}: half a rename in its listing", where=where)
        if letter in _PRESENT and name and b"/" not in name:
            names[name] = letter == _DIRECTORY
        elif letter == _FROM:
            source = _renamed(name, where)
        elif letter == _TO and source is not None:
            renamed.append((source, _renamed(name, where)))
            source = None
        elif letter != _ASIDE:
            raise Corrupt(f"{where}: its listing can't be read", where=where)
    if source is not None or any(items) or not data.endswith(b"\0"):
        raise Corrupt(f"{where}: its listing does not end well", where=where)
    return Listing(names, renamed)


def _renamed(name: bytes, where: str) -> bytes:
    path = path_of(name, where) if name else ASIDE
    if not path:
        raise Corrupt(f"{where}: its listing renames what can't be renamed", where=where)
    return path

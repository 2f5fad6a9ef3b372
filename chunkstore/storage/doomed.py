"""The list of what `gc` has given up: objects that stay for pulls under way, and since when.

A file of the store's own machine, one object a line: its name, a space, the time in nanoseconds.
Promises: losing the list, or lines of it, costs one more grace time and never an object, because
`gc` finds out anew what nothing needs before it deletes. Writers hold the store's lock.
"""

from __future__ import annotations

from collections.abc import Mapping

from chunkstore import fsio
from chunkstore.errors import local_errors


def read(path: str) -> dict[str, int]:
    """The objects on the list at `path` and when they were given up; empty without a list."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, PermissionError):
        # A reader that may not look into the store's own directory needs no list: it only reads.
        return {}
    found = {}
    for line in lines:
        name, _, since = line.partition(" ")
        if since.isdecimal():
            found[name] = int(since)
    return found


def write(path: str, objects: Mapping[str, int]) -> None:
    """Replace the list durably. Raises `LocalError`."""
    lines = "".join(f"{name} {since}\n" for name, since in sorted(objects.items()))
    with local_errors("can't write the list of doomed objects"):
        fsio.write_durably(path, lines.encode("ascii"), mode=0o600)

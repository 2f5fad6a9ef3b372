"""Predecessors: for each new or changed file, the file of the version before that it comes from.

The one at the same path; for a new path one whose path differs in numbers only, as the modules of
the next kernel or the next version of a library do, of several the one nearest in size. A guess:
where it is wrong, nothing is found to be alike.

Memory grows with the change. The old manifest is walked only when much is new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from chunkstore.objects import manifest
from chunkstore.objects.delta import Difference
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.manifest import Load, NodeRef
from chunkstore.objects.names import sort_key

WORTH: Final = 1024 * 1024
"""Bytes of files at new paths for which the old manifest is walked."""
_NUMBER: Final = re.compile(rb"[0-9]+(?:[-.:~+_]?[0-9]+)*")


class Succession(NamedTuple):
    """A file and the one it is thought to come from."""

    old: Entry
    new: Entry


def successions(
    differences: Iterable[Difference], old: NodeRef, load: Load
) -> Iterator[Succession]:
    """The successions among the differences from the manifest `old`, in path order."""
    found = []
    fresh: dict[bytes, list[Entry]] = {}
    for before, after in differences:
        if after is None or not _has_content(after):
            continue
        if before is not None and _has_content(before):
            if before.content != after.content:
                found.append(Succession(before, after))
        else:
            fresh.setdefault(_masked(after.path), []).append(after)
    if sum(entry.size for entries in fresh.values() for entry in entries) >= WORTH:
        found += _by_name(fresh, manifest.walk(old, load))
    found.sort(key=lambda succession: sort_key(succession.new.path))
    yield from found


def _has_content(entry: Entry) -> bool:
    return entry.kind == FILE and not entry.link and entry.size > 0


def _masked(path: bytes) -> bytes:
    return _NUMBER.sub(b"0", path)


def _by_name(fresh: dict[bytes, list[Entry]], old: Iterable[Entry]) -> Iterator[Succession]:
    nearest: dict[bytes, Succession] = {}
    for entry in old:
        if not _has_content(entry):
            continue
        for new in fresh.get(_masked(entry.path), ()):
            known = nearest.get(new.path)
            if known is None or _distance(entry, new) < _distance(known.old, new):
                nearest[new.path] = Succession(entry, new)
    return iter(nearest.values())


def _distance(old: Entry, new: Entry) -> int:
    return abs(old.size - new.size)

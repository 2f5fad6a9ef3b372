"""One directory as a scan sees it: its names, and what tells of each whether it has changed.

Promises: a directory that nothing was added to or taken from since the last scan is not listed
again, and what is as it was costs one `lstat` and no object that stays. That a directory's own
times tell whether its names are the same holds on the file systems in `_KEEPING_TIMES` alone: of an
overlay, say, a lower layer may change while it is not mounted. Everywhere else names are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

from chunkstore import fsio

FIELDS: Final = 5
_SECOND: Final = 1_000_000_000
numbers_of = attrgetter("st_mode", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""What of a status tells whether a path has changed."""
_KEEPING_TIMES: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0xF2F52010,  # F2FS
        0x2FC12FC1,  # ZFS
        0xCA451A4E,  # bcachefs
    }
)
Statuses = dict[bytes, os.stat_result]


class Listing(NamedTuple):
    """Names of a directory, sorted, five numbers of each, and where the special ones stand.

    Special are directories, and what has several names: these are visited in any case.
    """

    names: list[bytes]
    numbers: list[int]
    special: list[int]


def keeps_times(descriptor: int) -> bool:
    """Whether every change of a directory shows in its times, on this file system."""
    return fsio.file_system_magic(descriptor) in _KEEPING_TIMES


def listed(folder: int) -> Statuses:
    """All that lies in an open directory, in the order of names. Raises `OSError`."""
    names = sorted(map(os.fsencode, os.listdir(folder)))
    try:
        return dict(zip(names, _looked_at(names, folder), strict=True))
    except FileNotFoundError:
        return _present(names, folder)


def seen_again(old: Listing, folder: int) -> tuple[Statuses, bool]:
    """What lies in an open directory whose names are the same; whether all is as it was.

    Then only what is special is told of. Raises `OSError`, `FileNotFoundError` when something is
    gone by now.
    """
    # This runs once per path of the tree, so it is written for speed.
    names = old.names
    statuses = _looked_at(names, folder)
    if _flat(statuses) == old.numbers:
        return {names[place]: statuses[place] for place in old.special}, True
    return dict(zip(names, statuses, strict=True)), False


def _looked_at(names: list[bytes], folder: int) -> list[os.stat_result]:
    return [os.stat(name, dir_fd=folder, follow_symlinks=False) for name in names]


def _present(names: list[bytes], folder: int) -> Statuses:
    """The statuses of those that have not been removed since they were listed."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            found[name] = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found


def _flat(statuses: Iterable[os.stat_result]) -> list[int]:
    return list(chain.from_iterable(map(numbers_of, statuses)))


def listing_of(statuses: Statuses) -> Listing:
    """What to keep of a directory."""
    special = [
        place
        for place, status in enumerate(statuses.values())
        if status.st_nlink > 1 or stat.S_ISDIR(status.st_mode)
    ]
    return Listing(list(statuses), _flat(statuses.values()), special)


def settled(listing: Listing, until: int) -> Listing:
    """The listing as it may be believed at the next scan: statuses not older than `until` blank.

    A file system that only keeps whole seconds says of a change that it was up to one earlier.
    """
    numbers = listing.numbers
    if max(numbers[4::FIELDS], default=0) < until - _SECOND:
        return listing
    kept = list(numbers)
    for start in range(0, len(numbers), FIELDS):
        changed = numbers[start + 4]
        if changed >= (until if changed % _SECOND else until - _SECOND):
            kept[start : start + FIELDS] = [0] * FIELDS
    return listing._replace(numbers=kept)


def difference(old: Listing | None, new: Listing) -> tuple[set[bytes], list[bytes]]:
    """The names that are new or differ, and the names that are gone."""
    if old is None:
        return set(new.names), []
    before = dict(_by_name(old))
    changed = {name for name, numbers in _by_name(new) if before.pop(name, None) != numbers}
    return changed, list(before)


def _by_name(listing: Listing) -> Iterable[tuple[bytes, list[int]]]:
    for place, name in enumerate(listing.names):
        yield name, listing.numbers[place * FIELDS : (place + 1) * FIELDS]

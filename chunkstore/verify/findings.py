"""What a verification found: problems by object, and what each of them affects."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from chunkstore.errors import ChunkstoreError, LocalError

LISTED: Final = 1000
"""At most so many affected paths are named for one object; the rest is counted."""

_OURS: Final = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
"""Refusals that say nothing of the object: whoever looks has no right, or no room."""


@dataclass(frozen=True)
class Problem:
    """One damaged or missing object.

    `affected` names what can't be had as recorded, as "image:version path" (or without a path,
    if all of the version is meant); `count` says how many that are, also those not listed.
    """

    name: str
    what: str
    affected: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class StoreReport:
    """What was checked, and what was found. `size` is the bytes read from packs.

    `notes` are files that do not belong in a store; they do no harm.
    """

    packs: int
    chunks: int
    size: int
    versions: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


@dataclass
class _Finding:
    what: dict[str, None] = field(default_factory=dict)
    affected: list[str] = field(default_factory=list)
    last: tuple[Sequence[str], str] = ((), "")
    count: int = 0


class Findings:
    """Collects problems."""

    def __init__(self) -> None:
        self._found: dict[str, _Finding] = {}

    def __len__(self) -> int:
        return len(self._found)

    def problem(self, name: str, what: str, affected: Sequence[str] = ()) -> None:
        """Something is wrong with an object."""
        finding = self._found.setdefault(name, _Finding())
        finding.what[what] = None
        if affected:
            self.affect(name, affected)

    def affect(self, name: str, labels: Sequence[str], place: str = "", *, count: int = 1) -> None:
        """A problem affects `place`, which stands for `count` paths, in the versions so labelled.

        Places of one version come in order, and one that comes again at once is the same.
        """
        finding = self._found.setdefault(name, _Finding())
        if (labels, place) == finding.last:
            return
        finding.last = (labels, place)
        finding.count += count * len(labels)
        room = LISTED - len(finding.affected)
        finding.affected += [f"{label} {place}".rstrip() for label in labels[:room]]

    def problems(self) -> Iterator[Problem]:
        """All of them, by name."""
        for name, finding in sorted(self._found.items()):
            what = "; ".join(finding.what)
            yield Problem(name, what, tuple(finding.affected), finding.count)


def damage(error: ChunkstoreError) -> str:
    """What to say of an object that can't be read. Raises `error` if the object is not to blame."""
    if isinstance(error, LocalError) and error.errno in _OURS:
        raise error
    return str(error)

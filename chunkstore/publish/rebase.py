"""Rebase: let the tag `base` name the latest version, when the diff has grown.

Whoever unpacks archives fetches the whole diff for each new version, and it grows with every one.
After a rebase the diff is empty, and they fetch the whole image once more. What pays is a matter of
how often and how many; how large the diff is beside the image, `share` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from chunkstore import tags
from chunkstore.errors import NotFound
from chunkstore.objects import delta, manifest
from chunkstore.objects.documents import Version
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load
from chunkstore.objects.names import BASE, LATEST, Spec, check_name
from chunkstore.storage.chunks import Wanted
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.worktree.content import chunks_of, has_content

_PER_ENTRY: Final = 64
"""What a path costs in a compressed archive besides its content, about."""
_BATCH: Final = 1024


class Share(NamedTuple):
    """Bytes of the diff and of the whole image, about as large as their archives are."""

    diff: int
    whole: int

    @property
    def percent(self) -> float:
        """How large the diff is beside the image."""
        return 100 * self.diff / self.whole


@dataclass(frozen=True)
class RebaseReport:
    """Which version was `base` before, if any, which is now, and the diff there was."""

    before: bytes | None
    base: bytes
    moved: bool
    share: Share | None


def share(store: Store, base: Version, version: Version) -> Share:
    """How large the diff is beside the image, by what their content takes in the store.

    Reads the manifest of `version`, and no content.
    """
    with store.chunks() as nodes:
        changed = (new for _, new in delta.diff(base.root, version.root, nodes.get) if new)
        diff = _weight(store, changed, nodes.get)
        whole = _weight(store, manifest.walk(version.root, nodes.get), nodes.get)
    return Share(diff, whole)


def _weight(store: Store, entries: Iterable[Entry], load: Load) -> int:
    paths = 0

    def contents() -> Iterator[Wanted]:
        nonlocal paths
        for entry in entries:
            paths += 1
            if has_content(entry):
                yield from chunks_of(entry, load)

    total = 0.0
    found = contents()
    while batch := list(islice(found, _BATCH)):
        places = store.places({digest for digest, _ in batch})
        for digest, length in batch:
            frame = places[digest].frame
            total += length * frame.stored / frame.raw
    return int(total) + _PER_ENTRY * paths


def rebase(store: Store, image: str, *, when_over: float | None = None, now: int) -> RebaseReport:
    """Move the tag; with `when_over` only if the diff is more than so many percent of the image.

    `now` is the time, in nanoseconds. Raises `NotFound` when there is no such image.
    """
    check_name(image, "an image")
    latest = store.resolve(Spec(image, LATEST, 0))
    base = _base(store, image)
    found = None if base is None else share(store, base.version, latest.version)
    is_small = found is not None and when_over is not None and found.percent <= when_over
    if base is not None and is_small:
        return RebaseReport(base.id, base.id, False, found)
    report = tags.tag(store, Spec(image, LATEST, 0), BASE, now=now)
    return RebaseReport(report.before, report.version, report.before != report.version, found)


def _base(store: Store, image: str) -> Resolved | None:
    try:
        return store.resolve(Spec(image, BASE, 0))
    except NotFound:
        return None

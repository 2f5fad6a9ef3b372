"""Deletions as the layers of container images tell them: an empty file `.wh.NAME` deletes NAME.

What takes the place of something else needs no deletion: whoever applies a layer replaces all but
a directory by a directory. Only what is gone gets a whiteout, each path its own, as the OCI image
specification asks of those who write layers (`.wh..wh..opq`, which hides all that the layers below
have in a directory, is for readers to understand).

A layer has to make sense by itself: container engines unpack it into a directory of its own. So
where one name of a hardlink group is a member, all of them are (`whole_groups`).

Promises: pure, and in path order what comes in path order, a whiteout at the place of what it
deletes. Raises `Usage` for names that a layer can't hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge

from chunkstore.archive.selection import Revisit, Step
from chunkstore.errors import Usage
from chunkstore.objects.delta import Difference
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.names import MAX_COMPONENT, printable, sort_key
from chunkstore.objects.overlay import WHITEOUT


def whiteouts(steps: Iterable[Step]) -> Iterator[Entry | Revisit]:
    """The members of a layer: those of the selection, and a whiteout for what is gone."""
    for step in steps:
        if isinstance(step, Entry):
            yield check(step)
        elif isinstance(step, Revisit):
            yield step
        elif not step.returns:
            yield whiteout(step.path)


def whiteout(path: bytes) -> Entry:
    """The member that deletes a path. Raises `Usage`."""
    folder, slash, name = path.rpartition(b"/")
    if name.startswith(WHITEOUT) or len(WHITEOUT + name) > MAX_COMPONENT:
        raise Usage(
            f"a layer can't delete {printable(path)}: its name begins with "
            f"{printable(WHITEOUT)} or has more than {MAX_COMPONENT - len(WHITEOUT)} bytes"
        )
    return Entry(folder + slash + WHITEOUT + name, FILE, 0o644, 0, 0, 0)


def check(entry: Entry) -> Entry:
    """The same entry. Raises `Usage` for a name that every reader would take for a whiteout."""
    if entry.path.rpartition(b"/")[2].startswith(WHITEOUT):
        raise Usage(
            f"a layer can't hold {printable(entry.path)}: there a name that begins with "
            f"{printable(WHITEOUT)} deletes something"
        )
    return entry


def whole_groups(
    differences: Callable[[], Iterable[Difference]], walk: Callable[[], Iterable[Entry]]
) -> Iterator[Difference]:
    """The differences, and with each changed name of a hardlink group the unchanged ones.

    Those come as (entry, entry). `walk` gives all entries of the new version; it is only asked
    where a new name leads to an unchanged file. Memory is the paths that change, and what is added.
    """
    links: set[bytes] = set()
    changed: set[bytes] = set()
    for _, new in differences():
        if new is not None:
            changed.add(new.path)
            if new.link:
                links.add(new.link)
    wanted = links - changed
    if not wanted:
        yield from differences()
        return
    added = [
        (item, item)
        for item in walk()
        if (item.path in wanted or item.link in wanted) and item.path not in changed
    ]
    yield from merge(differences(), added, key=_place)


def _place(difference: Difference) -> bytes:
    entry = difference[1] or difference[0]
    assert entry is not None
    return sort_key(entry.path)

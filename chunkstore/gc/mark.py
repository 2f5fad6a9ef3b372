"""Marking: which versions are kept, and every chunk they need.

Versions are marked oldest first, so that chunks are numbered in the order commits made them, and
of one commit in tree order. Packs rewritten in that order serve a node one version behind by one
run of the newest chunks, as the packs of the commits did. A subtree that was seen is not opened
again: the cost follows the distinct nodes, not versions times entries.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from chunkstore.errors import Corrupt, NotFound
from chunkstore.gc.census import Census
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.entry import FILE
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import LATEST, sort_key
from chunkstore.storage import layout
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store


def kept_versions(store: Store, keep: int | None) -> list[Resolved]:
    """The versions that stay, parents before children: what tags reach.

    With `keep`, only the tagged ones and the `keep` newest on the way back from each `latest`.
    Raises `Corrupt` when a record is missing that nobody dropped: with it, all of the history
    behind it would go unnoticed.
    """
    found: dict[bytes, Resolved] = {}
    for image in store.images():
        for tag in store.ref(image).tags:
            _keep_line(store, f"{image}:{tag.name}", tag.version, _limit(tag.name, keep), found)
    # Each line was taken newest first; sorting is stable where times are equal.
    versions = [*reversed(found.values())]
    versions.sort(key=lambda kept: kept.version.time)
    return versions


def _limit(tag: str, keep: int | None) -> int | None:
    if keep is None:
        return None
    return max(keep, 1) if tag == LATEST else 1


def _keep_line(
    store: Store, spec: str, start: bytes, limit: int | None, found: dict[bytes, Resolved]
) -> None:
    try:
        newest = Resolved(start, store.version(start))
    except NotFound as error:
        raise Corrupt(
            f"{spec} names version {start.hex()[:12]}, whose record is missing; nothing was "
            "dropped: run 'imgstore verify', then remove that tag",
            where=layout.version(start),
        ) from error
    # A tagged version is kept even if it was doomed; behind it, what was doomed stays doomed.
    line = [
        newest,
        *islice(store.history(newest.version.parent), None if limit is None else limit - 1),
    ]
    for kept in line:
        found.setdefault(kept.id, kept)
    lost = line[-1].version.parent
    if (limit is None or len(line) < limit) and lost and _is_lost(store, lost):
        raise Corrupt(
            f"history of {spec} needs version {lost.hex()[:12]}, whose record is missing though "
            "gc did not drop it; nothing was dropped: restore it, or remove its locate hint to "
            "let the history end there",
            where=layout.version(lost),
        )


def _is_lost(store: Store, version_id: bytes) -> bool:
    # gc deletes the hint first: one without its version is a version that went some other way.
    return _is_there(store, layout.locate(version_id)) and not _is_there(
        store, layout.version(version_id)
    )


def _is_there(store: Store, name: str) -> bool:
    try:
        store.reader.size(name)
    except NotFound:
        return False
    return True


class _Subtree(NamedTuple):
    """A manifest node, or without `ref` a list node, and what the node above says of it."""

    digest: bytes
    level: int | None
    ref: NodeRef | None = None
    upper: bytes | None = None


class Marker:
    """Walks the trees of versions. `load` gets the bytes of a node by its digest."""

    def __init__(self, load: Callable[[bytes], bytes], census: Census) -> None:
        self._load = load
        self._census = census

    def mark(self, root: NodeRef) -> None:
        """Tell the census every chunk a manifest needs. Raises `Corrupt`, `NotFound`."""
        ahead = [_Subtree(root.digest, None, root)]
        while ahead:
            item = ahead.pop()
            if not self._census.enter(item.digest):
                continue
            chunks, below = self._open(item)
            self._census.need([item.digest], are_nodes=True)
            self._census.need(chunks, are_nodes=False)
            ahead += reversed(below)

    def homes(self, root: NodeRef) -> int:
        """The packs a marked manifest needs, as the census has them now."""
        return self._homes(_Subtree(root.digest, None, root))

    def _homes(self, item: _Subtree) -> int:
        found = self._census.homes_below(item.digest)
        if found is None:
            chunks, below = self._open(item)
            found = self._census.homes([item.digest, *chunks])
            for child in below:
                found |= self._homes(child)
            self._census.note_homes_below(item.digest, found)
        return found

    def _open(self, item: _Subtree) -> tuple[list[bytes], list[_Subtree]]:
        """The chunks a node names itself, and the nodes below it."""
        data = self._load(item.digest)
        if item.ref is None:
            assert item.level is not None
            return _listed(chunklist.read_node(data, item.level, item.digest), item.level)
        node = manifest.read_node(item.ref, data, level=item.level, upper=item.upper)
        if node.level:
            bounds = [*(sort_key(child.first) for child in node.records[1:]), item.upper]
            pairs = zip(node.records, bounds, strict=True)
            return [], [_Subtree(ref.digest, node.level - 1, ref, bound) for ref, bound in pairs]
        chunks: list[bytes] = []
        below: list[_Subtree] = []
        for entry in node.records:
            if entry.kind == FILE:
                named, nodes = _listed(entry.content, entry.depth)
                chunks += named
                below += nodes
        return chunks, below


def _listed(records: bytes, depth: int) -> tuple[list[bytes], list[_Subtree]]:
    if not depth:
        return list(chunklist.inline_digests(records)), []
    return [], [_Subtree(digest, depth - 1) for digest, _ in RECORD.iter_unpack(records)]

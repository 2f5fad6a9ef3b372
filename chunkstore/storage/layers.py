"""Layers: stored versions laid over each other, as a layered SPEC names them.

The composed manifest shares its nodes with those of the versions; the few it has of its own are
made in memory, and nothing is written. Leaves the rules to `objects.overlay`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from chunkstore.objects import overlay
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import Version
from chunkstore.objects.manifest import Load, NodeRef, read_node
from chunkstore.objects.names import Spec
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store


class Layered(NamedTuple):
    """Versions laid over each other, the base first; one alone is just that version.

    `root` is the composed manifest's; `nodes` are those of its nodes that were made for it.
    """

    specs: tuple[Spec, ...]
    versions: tuple[Resolved, ...]
    root: NodeRef
    nodes: Mapping[bytes, bytes]

    def over(self, load: Load) -> Load:
        """A `load` that has the nodes made here, and for all others asks the one given."""

        def found(digest: bytes) -> bytes:
            data = self.nodes.get(digest)
            return load(digest) if data is None else data

        return found


def lay(specs: Sequence[Spec], versions: Sequence[Resolved], load: Load) -> Layered:
    """Lay the versions that the SPECs name over each other. Raises as `overlay.compose`."""
    made: dict[bytes, bytes] = {}

    def save(data: bytes) -> bytes:
        digest = chunk_digest(data)
        made[digest] = data
        return digest

    def found(digest: bytes) -> bytes:
        data = made.get(digest)
        return load(digest) if data is None else data

    root = overlay.compose([version.root for _, version in versions], found, save)
    # Composing layer by layer makes nodes that the next layer changes again.
    nodes = dict(_reachable(root, made))
    return Layered(tuple(specs), tuple(versions), root, nodes)


def _reachable(ref: NodeRef, made: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    data = made.get(ref.digest)
    if data is None:
        return
    yield ref.digest, data
    node = read_node(ref, data)
    for child in node.records if node.level else ():
        yield from _reachable(child, made)


def resolve_layers(store: Store, specs: Sequence[Spec]) -> Layered:
    """What SPECs, the base first, name in a store. Raises `NotFound`, `Corrupt`."""
    versions = [store.resolve(spec) for spec in specs]
    with store.chunks() as chunks:
        return lay(specs, versions, chunks.get)


def loader(tree: Version | Layered, load: Load) -> Load:
    """What loads the nodes of a version, or of layers, where `load` has those of the store."""
    return tree.over(load) if isinstance(tree, Layered) else load

"""Sweeping the node's state: manifest nodes that belong to versions past."""

from __future__ import annotations

from collections.abc import Iterator

from chunkstore.objects import chunklist, manifest
from chunkstore.objects.manifest import NodeRef
from chunkstore.pull.context import Context


def sweep(context: Context, root: NodeRef) -> None:
    """Drop nodes of versions past, once they outnumber those of this one."""
    state = context.state
    if not state.nodes_kept:
        state.note_nodes()
    elif state.nodes.count() > 2 * state.nodes_kept + 64:
        kept = [root]
        if state.previous is not None:
            kept.append(state.previous.root)
        state.keep_nodes(digest for ref in kept for digest in _reachable(context, ref))


def _reachable(context: Context, ref: NodeRef) -> Iterator[bytes]:
    yield ref.digest
    node = manifest.read_node(ref, context.load(ref.digest))
    for record in node.records:
        if node.level:
            yield from _reachable(context, record)
        elif record.depth:
            yield from chunklist.nodes(record, context.load)

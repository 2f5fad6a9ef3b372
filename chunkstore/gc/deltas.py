"""Delta packs that are no longer worth their room.

They lead to versions from the ones before, and nodes go to versions that have tags: only those keep
theirs. Nobody relies on delta packs, so what goes does so at once; a pull that is just reading one
takes the plain frames.
"""

from __future__ import annotations

from contextlib import suppress

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import deltapack
from chunkstore.storage import layout
from chunkstore.storage.store import Store


def unneeded_deltas(store: Store) -> list[str]:
    """Names of hints, delta packs and their indexes that can go; the caller holds the lock."""
    tagged = {tag.version for image in store.images() for tag in store.ref(image).tags}
    needed = set()
    for version_id in tagged:
        needed.add(layout.deltas(version_id))
        for pack_id in _named(store, version_id):
            needed.update((layout.delta_pack(pack_id), layout.delta_index(pack_id)))
    found = set(store.backend.list(layout.DELTAS)) - needed
    belongs = {name for name in found if _is_ours(name)}
    # Hints first: what is still named is still there.
    return sorted(belongs, key=lambda name: ("." in name, name))


def _named(store: Store, version_id: bytes) -> list[bytes]:
    with suppress(NotFound, Corrupt):
        data = store.reader.get(layout.deltas(version_id), 0, deltapack.MAX_DELTAS + 1)
        return [use.pack for use in deltapack.parse_deltas(data, version_id)]
    return []


def _is_ours(name: str) -> bool:
    return any(
        grammar.fullmatch(name) is not None for grammar in (layout.DELTA_FILE, layout.VERSION_FILE)
    )

"""Checking delta packs: their bytes against their names, their indexes, the hints that name them.

They are hints as a whole, and affect no version: damage costs nodes the bytes they would have
saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chunkstore.errors import Corrupt, LocalError, NotFound
from chunkstore.objects import deltapack, pack
from chunkstore.objects.digest import delta_pack_hasher
from chunkstore.objects.documents import PackUse
from chunkstore.storage import layout
from chunkstore.storage.repository import Repository
from chunkstore.verify.findings import damage
from chunkstore.verify.listing import Listing

_BLOCK: Final = 1024 * 1024
Fault = tuple[str, str]
"""The object that has it, and what it is."""


def check_deltas(store: Repository, listing: Listing) -> Iterator[Fault]:
    """Read all that is there. Raises `LocalError` only when this machine is to blame."""
    packs = {
        bytes.fromhex(match["id"])
        for match in map(layout.DELTA_FILE.fullmatch, listing.names)
        if match is not None
    }
    sizes: dict[bytes, PackUse] = {}
    for pack_id in sorted(packs):
        try:
            sizes[pack_id] = _check_pack(store, pack_id)
        except (Corrupt, NotFound, LocalError) as error:
            yield layout.delta_pack(pack_id), damage(error)
    for version_id in listing.ids(layout.DELTAS):
        name = layout.deltas(version_id)
        try:
            data = store.reader.get(name, 0, deltapack.MAX_DELTAS + 1)
            uses = deltapack.parse_deltas(data, version_id)
        except (Corrupt, NotFound, LocalError) as error:
            yield name, damage(error)
            continue
        for use in uses:
            if use.pack not in packs:
                yield name, f"names delta pack {use.pack.hex()}, which is not there"
            elif sizes.get(use.pack, use) != use:
                yield name, "gives a delta pack another size than it has"


def _check_pack(store: Repository, pack_id: bytes) -> PackUse:
    """Check one pack and its index. Raises what is wrong."""
    name = layout.delta_pack(pack_id)
    size = store.reader.size(name)
    hasher = delta_pack_hasher()
    for start in range(0, size, _BLOCK):
        hasher.update(store.reader.get(name, start, min(start + _BLOCK, size)))
    if hasher.digest() != pack_id:
        raise Corrupt(f"{name}: its bytes do not match its name", where=name)
    footer = store.reader.get(name, max(size - pack.FOOTER.size, 0), size)
    start, stop = pack.index_extent(footer, size, name)
    index = store.reader.get(name, start, stop)
    frames = deltapack.parse_index(index, name)
    if frames and frames[-1].offset + frames[-1].stored != start:
        raise Corrupt(f"{name}: its frames do not end where its index begins", where=name)
    copy = store.reader.get(layout.delta_index(pack_id), 0, len(index) + 1)
    if copy != index:
        beside = layout.delta_index(pack_id)
        raise Corrupt(f"{beside}: differs from the index in its pack", where=beside)
    return PackUse(pack_id, size, len(index))

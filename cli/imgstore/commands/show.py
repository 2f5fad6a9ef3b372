"""`imgstore show`: all about one version."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects.names import parse_spec
from imgstore.describe import version_document
from imgstore.output import Output, human, local_time, one_line, warn
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.objects.documents import PackUse
    from chunkstore.storage.store import Store


def run(options: Namespace, output: Output) -> int:
    """Print what the store knows about a version, but for its entries."""
    spec = parse_spec(options.spec)
    store = open_store(options, output)
    ref = store.ref(spec.image)
    found = store.resolve_in(ref, spec)
    packs = _packs(store, found.id)
    document = version_document(ref, found)
    if output.as_json:
        listed = [{"pack": use.pack.hex(), "size": use.pack_size} for use in packs or ()]
        output.document({**document, "packs": listed if packs is not None else None})
        return 0
    root, message = found.version.root, found.version.message.rstrip("\n")
    output.line(f"image    {ref.image}")
    output.line(f"version  {found.id.hex()}")
    output.line(f"parent   {found.version.parent.hex() or 'none: the first'}")
    output.line(f"time     {local_time(found.version.time)}")
    output.line(f"tags     {', '.join(document['tags']) or 'none'}")
    output.line(f"entries  {root.entries:,}")
    output.line(f"size     {root.size:,} bytes ({human(root.size)})")
    output.line(f"root     {root.digest.hex()}")
    for use in packs or ():
        output.line(f"pack     {use.pack.hex()} ({human(use.pack_size)})")
    for text in message.split("\n") if message else ():
        output.line(f"message  {one_line(text)}")
    return 0


def _packs(store: Store, version_id: bytes) -> list[PackUse] | None:
    try:
        return store.locate(version_id)
    except (NotFound, Corrupt) as error:
        warn(f"{error}; its packs are not listed")
        return None

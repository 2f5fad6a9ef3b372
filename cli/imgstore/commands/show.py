"""`imgstore show`: all about one version, or what layers are made of."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects.names import Spec, parse_layers
from imgstore.describe import version_document
from imgstore.output import Output, one_line, warn
from imgstore.readable import human, local_time, short
from imgstore.specs import layered_id, layered_image
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.objects.documents import PackUse
    from chunkstore.objects.manifest import NodeRef
    from chunkstore.storage.store import Store


def run(options: Namespace, output: Output) -> int:
    """Print what the store knows about a version, but for its entries."""
    specs = parse_layers(options.spec)
    store = open_store(options, output)
    if len(specs) == 1:
        _version(store, specs[0], output)
    else:
        _layers(store, specs, output)
    return 0


def _version(store: Store, spec: Spec, output: Output) -> None:
    ref = store.ref(spec.image)
    found = store.resolve_in(ref, spec)
    packs = _packs(store, found.id)
    document = version_document(ref, found)
    if output.as_json:
        output.document({**document, "packs": _pack_documents(packs)})
        return
    message = found.version.message.rstrip("\n")
    output.line(f"image    {ref.image}")
    output.line(f"version  {found.id.hex()}")
    output.line(f"parent   {found.version.parent.hex() or 'none: the first'}")
    output.line(f"time     {local_time(found.version.time)}")
    output.line(f"tags     {', '.join(document['tags']) or 'none'}")
    _root(found.version.root, output)
    for use in packs or ():
        output.line(f"pack     {use.pack.hex()} ({human(use.pack_size)})")
    for text in message.split("\n") if message else ():
        output.line(f"message  {one_line(text)}")


def _layers(store: Store, specs: tuple[Spec, ...], output: Output) -> None:
    from chunkstore.storage.layers import resolve_layers

    found = resolve_layers(store, specs)
    if output.as_json:
        layers = [
            {
                **version_document(store.ref(spec.image), version),
                "packs": _pack_documents(_packs(store, version.id)),
            }
            for spec, version in zip(found.specs, found.versions, strict=True)
        ]
        head = {"image": layered_image(found), "version": layered_id(found)}
        root = {
            "root": found.root.digest.hex(),
            "entries": found.root.entries,
            "size": found.root.size,
        }
        output.document({**head, **root, "layers": layers})
        return
    output.line(f"image    {layered_image(found)}")
    for spec, version in zip(found.specs, found.versions, strict=True):
        when = local_time(version.version.time)
        output.line(f"layer    {spec.image} {short(version.id)}, {when}")
    _root(found.root, output)


def _root(root: NodeRef, output: Output) -> None:
    output.line(f"entries  {root.entries:,}")
    output.line(f"size     {root.size:,} bytes ({human(root.size)})")
    output.line(f"root     {root.digest.hex()}")


def _packs(store: Store, version_id: bytes) -> list[PackUse] | None:
    try:
        return store.locate(version_id)
    except (NotFound, Corrupt) as error:
        warn(f"{error}; its packs are not listed")
        return None


def _pack_documents(packs: list[PackUse] | None) -> list[dict[str, Any]] | None:
    if packs is None:
        return None
    return [{"pack": use.pack.hex(), "size": use.pack_size} for use in packs]

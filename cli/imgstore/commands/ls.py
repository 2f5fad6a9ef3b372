"""`imgstore ls`: what a version holds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chunkstore.objects import manifest
from chunkstore.objects.children import children
from chunkstore.objects.entry import DIRECTORY
from chunkstore.objects.names import parse_layers
from chunkstore.storage.layers import resolve_layers
from imgstore.describe import entry_document, entry_line
from imgstore.output import Output
from imgstore.paths import image_path
from imgstore.specs import layered_id, layered_image
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.objects.entry import Entry


def run(options: Namespace, output: Output) -> int:
    """Print what lies in a directory of the version, or the one path that is no directory."""
    specs = parse_layers(options.spec)
    path = image_path(options.path)
    store = open_store(options, output)
    found = resolve_layers(store, specs)
    with store.chunks() as chunks:
        look = manifest.walk if options.recursive else children
        entries = _chosen(
            look(found.root, found.over(chunks.get), path), recursive=options.recursive
        )
        if output.as_json:
            head = {"image": layered_image(found), "version": layered_id(found)}
            output.long_document(head, "entries", map(entry_document, entries))
        else:
            for entry in entries:
                output.line(entry_line(entry))
    return 0


def _chosen(found: Iterator[Entry], *, recursive: bool) -> Iterator[Entry]:
    """What is to be shown: a directory itself only together with all that is below it."""
    first = next(found)
    if recursive or first.kind != DIRECTORY:
        yield first
    yield from found

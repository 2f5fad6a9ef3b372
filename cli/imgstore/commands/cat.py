"""`imgstore cat`: a file of a version to stdout."""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import tee
from typing import Final

from chunkstore.errors import Usage
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.digest import HOLE
from chunkstore.objects.entry import FILE, SYMLINK
from chunkstore.objects.names import parse_layers, printable
from chunkstore.storage.layers import resolve_layers
from imgstore.describe import kind_name
from imgstore.output import Output
from imgstore.paths import image_path
from imgstore.stores import open_store

_ZEROS: Final = memoryview(bytes(1 << 20))


def run(options: Namespace, output: Output) -> int:
    """Write the file's bytes, holes as zeros."""
    specs = parse_layers(options.spec)
    path = image_path(options.path)
    store = open_store(options, output)
    found = resolve_layers(store, specs)
    with store.chunks() as nodes, store.chunks() as chunks:
        load = found.over(nodes.get)
        entry = manifest.find(found.root, path, load)
        if entry.kind == SYMLINK:
            target = printable(entry.content)
            raise Usage(f"{printable(path)} is a symlink to {target}: name that path instead")
        if entry.kind != FILE:
            raise Usage(f"{printable(path)} is a {kind_name(entry)}: only files can be shown")
        ahead, behind = tee(chunklist.walk(entry, load))
        stream = chunks.stream(piece for piece in ahead if piece[0] != HOLE)
        for digest, length in behind:
            if digest != HOLE:
                sys.stdout.buffer.write(next(stream))
                continue
            for start in range(0, length, len(_ZEROS)):
                sys.stdout.buffer.write(_ZEROS[: length - start])
    return 0

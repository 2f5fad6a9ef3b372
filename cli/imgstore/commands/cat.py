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
from chunkstore.objects.names import parse_spec, printable
from imgstore.describe import kind_name
from imgstore.output import Output
from imgstore.paths import image_path
from imgstore.stores import open_store

_ZEROS: Final = memoryview(bytes(1 << 20))


def run(options: Namespace, output: Output) -> int:
    """Write the file's bytes, holes as zeros."""
    spec = parse_spec(options.spec)
    path = image_path(options.path)
    store = open_store(options, output)
    found = store.resolve(spec)
    with store.chunks() as nodes, store.chunks() as chunks:
        entry = manifest.find(found.version.root, path, nodes.get)
        if entry.kind == SYMLINK:
            target = printable(entry.content)
            raise Usage(f"{printable(path)} is a symlink to {target}: name that path instead")
        if entry.kind != FILE:
            raise Usage(f"{printable(path)} is a {kind_name(entry)}: only files can be shown")
        ahead, behind = tee(chunklist.walk(entry, nodes.get))
        stream = chunks.stream(piece for piece in ahead if piece[0] != HOLE)
        for digest, length in behind:
            if digest != HOLE:
                sys.stdout.buffer.write(next(stream))
                continue
            for start in range(0, length, len(_ZEROS)):
                sys.stdout.buffer.write(_ZEROS[: length - start])
    return 0

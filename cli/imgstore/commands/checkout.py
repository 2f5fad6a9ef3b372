"""`imgstore checkout`: a version into a directory."""

from __future__ import annotations

from argparse import Namespace

from chunkstore.checkout import checkout
from chunkstore.objects.names import parse_layers
from chunkstore.storage.layers import resolve_layers
from imgstore.describe import shortfall_documents, shortfall_lines
from imgstore.output import Output
from imgstore.readable import human
from imgstore.specs import layered_id, layered_image, layered_short
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Write the version, and name what could not be set."""
    specs = parse_layers(options.spec)
    store = open_store(options, output)
    found = resolve_layers(store, specs)
    image = layered_image(found)
    with output.progress(f"checkout {image}") as progress:
        report = checkout(store, found, options.directory, progress=progress)
    output.warnings(shortfall_lines(report.shortfalls))
    output.report(
        f"{options.directory} is {image} {layered_short(found)}: "
        f"{report.entries:,} entries, {human(report.size)}",
        {
            "image": image,
            "version": layered_id(found),
            "directory": options.directory,
            "entries": report.entries,
            "size": report.size,
            "shortfalls": shortfall_documents(report.shortfalls),
        },
    )
    return 0

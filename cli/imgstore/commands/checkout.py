"""`imgstore checkout`: a version into a directory."""

from __future__ import annotations

from argparse import Namespace

from chunkstore.checkout import checkout
from chunkstore.objects.names import parse_spec
from imgstore.describe import shortfall_documents, shortfall_lines
from imgstore.output import Output, human, short
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Write the version, and name what could not be set."""
    spec = parse_spec(options.spec)
    store = open_store(options, output)
    found = store.resolve(spec)
    with output.progress(f"checkout {spec.image}") as progress:
        report = checkout(store, found.version, options.directory, progress=progress)
    output.warnings(shortfall_lines(report.shortfalls))
    output.report(
        f"{options.directory} is {spec.image} {short(found.id)}: "
        f"{report.entries:,} entries, {human(report.size)}",
        {
            "image": spec.image,
            "version": found.id.hex(),
            "directory": options.directory,
            "entries": report.entries,
            "size": report.size,
            "shortfalls": shortfall_documents(report.shortfalls),
        },
    )
    return 0

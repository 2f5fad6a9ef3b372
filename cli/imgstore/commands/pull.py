"""`imgstore pull`: make a directory a version of a remote."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import closing

from chunkstore.errors import Usage
from chunkstore.objects.names import Spec, parse_spec, printable
from chunkstore.pull import PullReport, pull, remembered_source
from chunkstore.storage.backends import open_reader
from imgstore.describe import shortfall_documents, shortfall_lines
from imgstore.output import Output, counted, human, json_path, short


def run(options: Namespace, output: Output) -> int:
    """Pull, and say what was needed, what was here, and what came over the network."""
    location, spec = _source(options)
    with (
        closing(open_reader(location)) as reader,
        output.progress(f"pull {spec.image}") as progress,
    ):
        report = pull(reader, spec, options.directory, location=location, progress=progress)
    output.warnings(shortfall_lines(report.shortfalls))
    output.warnings([f"{printable(path)}: kept as {place}" for path, place in report.saved])
    output.report(_text(options.directory, report), _document(options.directory, location, report))
    return 0


def _source(options: Namespace) -> tuple[str, Spec]:
    """The remote and the SPEC, as given or as remembered by the directory."""
    if options.remote is None:
        known = remembered_source(options.directory)
        if known is None or not known[0]:
            raise Usage(
                f"{options.directory} was not pulled before: "
                f"say what it shall be, 'imgstore pull REMOTE/SPEC {options.directory}'"
            )
        return known[0], parse_spec(known[1])
    location, slash, text = options.remote.rpartition("/")
    if not slash:
        raise Usage(
            f"{options.remote!r} names no remote: write http://HOST:PORT/{options.remote}, or the "
            f"path of a store and /{options.remote}"
        )
    if "://" not in options.remote:
        # To be found again from any directory.
        location = os.path.abspath(location or "/")
    elif location.endswith(":/"):
        raise Usage(f"{options.remote!r} names no image: write {options.remote}/IMAGE")
    return location, parse_spec(text)


def _text(directory: str, report: PullReport) -> str:
    name = f"{report.image} {short(report.version)}"
    traffic = f"{human(report.received)} received in {counted(report.requests, 'request')}"
    if not report.is_changed:
        return f"{directory} is {name} already; {traffic}"
    if report.is_first:
        done = f"{report.entries:,} entries"
    else:
        done = f"{report.changed:,} changed, {report.removed:,} removed"
    return (
        f"{directory} is {name}: {done}; "
        f"needed {counted(report.needed_chunks, 'chunk')} ({human(report.needed_bytes)}), "
        f"found {report.local_chunks:,} here ({human(report.local_bytes)}), "
        f"fetched {report.fetched_chunks:,} ({human(report.fetched_bytes)}); {traffic}"
    )


def _document(directory: str, location: str, report: PullReport) -> dict[str, object]:
    def amount(chunks: int, size: int) -> dict[str, int]:
        return {"chunks": chunks, "bytes": size}

    return {
        "image": report.image,
        "version": report.version.hex(),
        "remote": location,
        "directory": directory,
        "changed": report.is_changed,
        "first": report.is_first,
        "entries": report.entries,
        "entries_changed": report.changed,
        "entries_removed": report.removed,
        "needed": amount(report.needed_chunks, report.needed_bytes),
        "found": amount(report.local_chunks, report.local_bytes),
        "fetched": amount(report.fetched_chunks, report.fetched_bytes),
        "received_bytes": report.received,
        "requests": report.requests,
        "shortfalls": shortfall_documents(report.shortfalls),
        "saved": [{"path": json_path(path), "place": place} for path, place in report.saved],
    }

"""`imgstore import`: archives as versions of an image."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from chunkstore.errors import Usage
from chunkstore.importing import ImportReport, import_archives
from chunkstore.objects.names import check_name
from imgstore.accounts import account
from imgstore.describe import LETTERS, delta_document, delta_words, in_words, written_words
from imgstore.output import Output, utc
from imgstore.readable import counted, short
from imgstore.specs import one_image, one_version
from imgstore.stores import open_or_create

if TYPE_CHECKING:
    from chunkstore.storage.store import Store


def run(options: Namespace, output: Output) -> int:
    """Import, and say of each archive what was recorded."""
    image = one_image(options.image)
    for tag in options.tag:
        check_name(tag, "a tag")
    base_spec = one_version(options.base) if options.base is not None else None
    if options.files.count("-") > 1:
        raise Usage("stdin can be read only once: '-' is given twice")
    if "-" in options.files and sys.stdin.isatty():
        raise Usage("an archive can't come from the terminal: name a file, or pipe one in")
    store = open_or_create(options, output)
    with output.progress(f"import {image}") as progress:
        reports = import_archives(
            store,
            image,
            [sys.stdin.buffer if name == "-" else name for name in options.files],
            base=store.resolve(base_spec) if base_spec is not None else None,
            ref=options.ref,
            message=options.message,
            tags=options.tag,
            now=time.time_ns(),
            lookup=account,
            progress=progress,
        )
    for report in reports:
        output.warnings(_remarks(report))
    text = "\n".join(_text(image, report) for report in reports)
    output.report(text, _document(store, image, reports))
    return 0


def _remarks(report: ImportReport) -> list[str]:
    name = report.archive.name
    lines = [
        f"{name}: left out {kind}: {counted(count, 'time')}"
        for kind, count in sorted(report.archive.remarks.items())
    ]
    if report.archive.has_more:
        lines.append(f"{name}: something follows the end of the archive, which was not looked at")
    return lines


def _text(image: str, report: ImportReport) -> str:
    archive, written = report.archive, report.written
    read = counted(archive.members, "member")
    if archive.layers:
        read += f" in {counted(archive.layers, 'layer')}"
    if archive.deletions is not None:
        read += f", {counted(archive.deletions, 'path')} to delete"
    name = short(report.version.id)
    if not report.is_new:
        return f"{archive.name}: {read}; {image}: nothing changed since {name}"
    new = written_words(written.chunks, written.raw, written.stored, len(written.packs))
    return (
        f"{archive.name}: {read}; {image} {name}: "
        f"{in_words(report.changes) or 'the same paths'}; {new}{delta_words(report.deltas)}"
    )


def _document(store: Store, image: str, reports: list[ImportReport]) -> dict[str, Any]:
    latest = reports[-1].version
    return {
        "image": image,
        "version": latest.id.hex(),
        "new": any(report.is_new for report in reports),
        "tags": [tag.name for tag in store.ref(image).tags if tag.version == latest.id],
        "archives": [_archive_document(report) for report in reports],
    }


def _archive_document(report: ImportReport) -> dict[str, Any]:
    archive, written = report.archive, report.written
    version = report.version.version
    return {
        "file": archive.name,
        "members": archive.members,
        "layers": archive.layers,
        "tar_bytes": archive.size,
        "deletions": archive.deletions,
        "left_out": dict(sorted(archive.remarks.items())),
        "version": report.version.id.hex(),
        "new": report.is_new,
        "parent": version.parent.hex() or None,
        "time": utc(version.time),
        "entries": version.root.entries,
        "size": version.root.size,
        "changes": {letter: report.changes[letter] for letter in LETTERS},
        "new_chunks": written.chunks,
        "new_bytes": written.raw,
        "stored_bytes": written.stored,
        "packs": len(written.packs),
        "deltas": delta_document(report.deltas),
    }

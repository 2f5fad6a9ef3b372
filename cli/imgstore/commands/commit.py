"""`imgstore commit`: record a directory as the next version of an image."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING

from chunkstore.commit import CommitReport, commit
from chunkstore.errors import Usage
from chunkstore.objects.names import check_name, printable
from imgstore.describe import LETTERS, delta_document, delta_words, in_words, written_words
from imgstore.output import Output, json_path, utc
from imgstore.readable import short
from imgstore.specs import one_image
from imgstore.stores import open_or_create
from imgstore.worktrees import directory_of, exclude_rules

if TYPE_CHECKING:
    from chunkstore.storage.store import Store


def run(options: Namespace, output: Output) -> int:
    """Commit, and say what was recorded."""
    image = one_image(options.image)
    for tag in options.tag:
        check_name(tag, "a tag")
    try:
        options.message.encode()
    except UnicodeEncodeError:
        raise Usage("the message is not UTF-8 text") from None
    rules = exclude_rules(options)
    directory = directory_of(options, output)
    store = open_or_create(options, output)
    with output.progress(f"commit {image}") as progress:
        report = commit(
            store,
            image,
            directory.path,
            message=options.message,
            tags=options.tag,
            excludes=[*directory.own_excludes, *rules],
            now=time.time_ns(),
            progress=progress,
        )
    output.warnings([f"{printable(path)}: {reason}" for path, reason in report.warnings])
    output.warnings(
        [f"{printable(path)}: kept changing while it was read" for path in report.unsteady]
    )
    output.report(_text(image, report), _document(store, image, directory.path, report))
    return 1 if report.unsteady else 0


def _text(image: str, report: CommitReport) -> str:
    name = short(report.version.id)
    if not report.is_new:
        return f"{image}: nothing changed since {name}"
    written = written_words(report.chunks, report.raw, report.stored, report.packs)
    return (
        f"{image} {name}: {in_words(report.changes) or 'the same paths'}; "
        f"{written}{delta_words(report.deltas)}"
    )


def _document(store: Store, image: str, directory: str, report: CommitReport) -> dict[str, object]:
    version_id, version = report.version
    return {
        "image": image,
        "version": version_id.hex(),
        "new": report.is_new,
        "parent": version.parent.hex() or None,
        "time": utc(version.time),
        "tags": [tag.name for tag in store.ref(image).tags if tag.version == version_id],
        "directory": directory,
        "entries": version.root.entries,
        "size": version.root.size,
        "changes": {letter: report.changes[letter] for letter in LETTERS},
        "new_chunks": report.chunks,
        "new_bytes": report.raw,
        "stored_bytes": report.stored,
        "packs": report.packs,
        "deltas": delta_document(report.deltas),
        "warnings": [
            {"path": json_path(path), "reason": reason} for path, reason in report.warnings
        ],
        "unsteady": [json_path(path) for path in report.unsteady],
    }

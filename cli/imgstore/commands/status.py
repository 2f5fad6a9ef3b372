"""`imgstore status`: what a commit would record."""

from __future__ import annotations

import time
from argparse import Namespace

from chunkstore.commit import status
from chunkstore.errors import NotFound
from chunkstore.objects.names import LATEST, Spec, printable
from imgstore.describe import change_counts, change_documents, changes_sorted
from imgstore.output import Output, json_path
from imgstore.specs import one_image
from imgstore.stores import open_store
from imgstore.worktrees import directory_of, exclude_rules


def run(options: Namespace, output: Output) -> int:
    """Print the differences between the image's latest version and the directory."""
    image = one_image(options.image)
    rules = exclude_rules(options)
    directory = directory_of(options, output)
    store = open_store(options, output)
    differences, remarks = status(
        store,
        image,
        directory.path,
        excludes=[*directory.own_excludes, *rules],
        now=time.time_ns(),
    )
    changes = changes_sorted(differences)
    output.warnings([f"{printable(path)}: {reason}" for path, reason in remarks])
    if output.as_json:
        try:
            latest = store.resolve(Spec(image, LATEST, 0)).id.hex()
        except NotFound:
            latest = None
        document = {
            "image": image,
            "directory": directory.path,
            "version": latest,
            "counts": change_counts(changes),
            "warnings": [{"path": json_path(path), "reason": reason} for path, reason in remarks],
        }
        output.long_document(document, "changes", change_documents(changes))
    else:
        for path, letter in changes:
            output.line(f"{letter}\t{printable(path)}")
    return 1 if changes and options.exit_code else 0

"""`imgstore rm`: remove an image, or the names of a version."""

from __future__ import annotations

import time
from argparse import Namespace

from chunkstore import tags
from imgstore.output import Output
from imgstore.readable import short
from imgstore.specs import one_version
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Remove the image when only that is named, else the tags of the version."""
    spec = one_version(options.spec)
    store = open_store(options, output)
    if not set(options.spec) & set(":~"):
        gone = tags.remove_image(store, spec.image)
        document = {"image": spec.image, "version": None, "tags": list(gone), "latest": None}
        output.report(f"{spec.image} is gone; 'imgstore gc' frees its space", document)
        return 0
    report = tags.remove(store, spec, now=time.time_ns())
    document = {
        "image": spec.image,
        "version": report.version.hex(),
        "tags": list(report.tags),
        "latest": report.latest.hex() if report.latest is not None else None,
    }
    name = short(report.version)
    text = f"{spec.image} {name} is no longer {', '.join(report.tags)}"
    if report.latest is None:
        text += f"; it had no parent, so {spec.image} is gone"
    elif "latest" in report.tags:
        text += f"; the latest is {short(report.latest)} now"
    elif not report.left:
        text += "; it stays as history of later versions"
    output.report(text, document)
    if report.left and report.latest is not None:
        output.note(f"no tag reaches {name} now: 'imgstore gc' will drop it")
    return 0

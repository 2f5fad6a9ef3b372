"""`imgstore tag`: name a version."""

from __future__ import annotations

import time
from argparse import Namespace

from chunkstore import tags
from chunkstore.objects.names import check_name
from imgstore.output import Output
from imgstore.readable import short
from imgstore.specs import one_version
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Set or move a tag, and say from where it moved."""
    spec = one_version(options.spec)
    name = check_name(options.name, "a tag")
    store = open_store(options, output)
    report = tags.tag(store, spec, name, now=time.time_ns())
    label = f"{spec.image}:{name}"
    document = {
        "image": spec.image,
        "tag": name,
        "version": report.version.hex(),
        "before": report.before.hex() if report.before is not None else None,
    }
    if report.before is None:
        output.report(f"{label} is {short(report.version)}", document)
    elif report.before == report.version:
        output.report(f"{label} is {short(report.version)} already", document)
    else:
        old, new = short(report.before), short(report.version)
        output.report(f"{label} moved from {old} to {new}", document)
    if report.left and report.before is not None:
        output.note(f"no tag reaches {short(report.before)} now: 'imgstore gc' will drop it")
    return 0

"""`imgstore untag`: take a tag away."""

from __future__ import annotations

import time
from argparse import Namespace

from chunkstore import tags
from chunkstore.objects.names import check_name
from imgstore.output import Output
from imgstore.readable import short
from imgstore.specs import one_image
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Remove a tag, and say what it named."""
    image = one_image(options.image)
    name = check_name(options.name, "a tag")
    store = open_store(options, output)
    report = tags.untag(store, image, name, now=time.time_ns())
    output.report(
        f"{image}:{name} is gone, it was {short(report.version)}",
        {"image": image, "tag": name, "version": report.version.hex()},
    )
    if report.left:
        output.note(f"no tag reaches {short(report.version)} now: 'imgstore gc' will drop it")
    return 0

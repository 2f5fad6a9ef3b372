"""`imgstore rebase`: let the tag `base` name the latest version."""

from __future__ import annotations

import time
from argparse import Namespace

from chunkstore.publish.rebase import RebaseReport, rebase
from imgstore.output import Output
from imgstore.readable import short
from imgstore.specs import one_image
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Move the base, or say why it stays."""
    image = one_image(options.image)
    store = open_store(options, output)
    report = rebase(store, image, when_over=options.when_over, now=time.time_ns())
    document = {
        "image": image,
        "before": None if report.before is None else report.before.hex(),
        "base": report.base.hex(),
        "moved": report.moved,
        "diff_percent": None if report.share is None else round(report.share.percent, 2),
    }
    output.report(f"{image}:base {_text(report, options.when_over)}", document)
    return 0


def _text(report: RebaseReport, when_over: float | None) -> str:
    new = short(report.base)
    if report.before is None or report.share is None:
        return f"is {new}"
    size = f"{report.share.percent:.1f}% of the image"
    if report.moved:
        return f"moved from {short(report.before)} to {new}; the diff was {size}"
    if when_over is None or not report.share.diff:
        return f"is {new} already"
    return f"stays {new}: the diff is {size}, not over {when_over:g}%"

"""`imgstore gc`: drop what no tag reaches, and free its space."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import asdict

from chunkstore.gc import GRACE, GcReport, collect
from imgstore.output import Output
from imgstore.readable import counted, human
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Collect, and say what went and what will."""
    store = open_store(options, output)
    grace = GRACE if options.grace is None else options.grace
    with output.progress("gc") as progress:
        report = collect(
            store,
            keep=options.keep,
            grace=grace,
            dry_run=options.dry_run,
            now=time.time_ns(),
            progress=progress,
        )
    document = {"dry_run": options.dry_run, "grace": grace, **asdict(report)}
    output.report(_text(report, grace, dry_run=options.dry_run), document)
    return 0


def _text(report: GcReport, grace: float, *, dry_run: bool) -> str:
    would = "would have " if dry_run else ""
    text = (
        f"{would}dropped {counted(report.versions_dropped, 'version')} of "
        f"{report.versions_kept + report.versions_dropped:,}, "
        f"given up {counted(report.packs_doomed, 'pack')}, "
        f"repacked {report.packs_repacked:,} into {report.packs_written:,}; "
        f"{would}freed {human(report.freed)}"
    )
    if report.pending:
        text += f", and {human(report.pending)} more {_hours(grace)} after they were given up"
    return text


def _hours(grace: float) -> str:
    return f"{grace / 3600:.3g} h" if grace >= 3600 else f"{grace:.3g} s"

"""`imgstore rollback`: make a pulled directory what it was before."""

from __future__ import annotations

from argparse import Namespace

from chunkstore.errors import NotFound
from chunkstore.pull import remembered, rollback
from chunkstore.storage.backends import open_reader
from imgstore.commands.pull import pull_options, tell
from imgstore.output import Output


def run(options: Namespace, output: Output) -> int:
    """Go back one version, and say what was done."""
    directory = options.directory
    source = remembered(directory)
    if source is None:
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    with output.progress(f"rollback {directory}") as progress:
        report = rollback(
            lambda: open_reader(source.remote),
            directory,
            options=pull_options(options),
            progress=progress,
        )
    return tell(report, options, output, source.remote)

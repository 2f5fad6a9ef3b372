"""`imgstore rollback`: make a pulled directory what it was before."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack, closing

from chunkstore.errors import NotFound
from chunkstore.pull import remembered, rollback
from chunkstore.storage.backends.late import LateReader
from imgstore.commands.pull import pull_options, tell
from imgstore.output import Output
from imgstore.remotes import remote_reader


def run(options: Namespace, output: Output) -> int:
    """Go back one version, and say what was done."""
    directory = options.directory
    source = remembered(directory)
    if source is None:
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    with ExitStack() as stack:
        # The tree of before may be here still: then it does not matter if the remote is not.
        reader = stack.enter_context(
            closing(LateReader(lambda: remote_reader(source.remote, options)))
        )
        progress = stack.enter_context(output.progress(f"rollback {directory}"))
        report = rollback(reader, directory, options=pull_options(options), progress=progress)
    return tell(report, options, output, source.remote)

"""`imgstore recover`: finish an interrupted pull without the network."""

from __future__ import annotations

from argparse import Namespace

from chunkstore.pull import recover
from imgstore.commands.pull import pull_options, tell
from imgstore.output import Output


def run(options: Namespace, output: Output) -> int:
    """Finish what was begun, and say what the directory is now."""
    with output.progress(f"recover {options.directory}") as progress:
        report = recover(options.directory, options=pull_options(options), progress=progress)
    return tell(report, options, output, "")

"""`imgstore completion`: a completion script for a shell."""

from __future__ import annotations

import argparse
from typing import Any

from chunkstore.errors import LocalError
from imgstore.output import Output
from imgstore.parser import build, verbs


def run(options: argparse.Namespace, output: Output) -> int:
    """Print the script, in which names of files and directories complete as such."""
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise LocalError("completion needs the Python package shtab: pip install shtab") from error
    hints = {"DIR": shtab.DIRECTORY, "STORE": shtab.DIRECTORY, "FILE": shtab.FILE}
    parser = build()
    for each in (parser, *verbs(parser).values()):
        _add_hints(each, hints)
    output.line(shtab.complete(parser, options.shell))
    return 0


def _add_hints(parser: argparse.ArgumentParser, hints: dict[str, Any]) -> None:
    for action in parser._actions:
        hint = hints.get(action.metavar) if isinstance(action.metavar, str) else None
        if hint is not None:
            action.complete = hint  # type: ignore[attr-defined]

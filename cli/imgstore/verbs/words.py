"""What the tables of verbs are written with: their maker, and words that several repeat."""

from __future__ import annotations

import argparse
from typing import Final, Protocol

SPEC: Final = (
    "A SPEC is IMAGE[:TAG or version id prefix][~N]: 'web' is web:latest, 'web:base' a tag,\n"
    "'web:3fa9c1' a version, 'web~1' the version before the latest."
)
LAYERS: Final = (
    f"{SPEC}\n"
    "'web+rack7+node12' is the latest of each laid over the one before: see 'Overlays' in the\n"
    "administration guide."
)


class Maker(Protocol):
    """Makes the parser of one verb; `more` goes below the one-line text, examples to the end.

    `usage` says how it is called where argparse can't tell it from the arguments.
    """

    def __call__(
        self, name: str, text: str, *examples: str, more: str = "", usage: str = ""
    ) -> argparse.ArgumentParser:
        """The parser, which has the options of every verb already."""
        ...

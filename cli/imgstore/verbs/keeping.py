"""Verbs that keep stores and trees sound, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstore.amounts import (
    parse_count,
    parse_seconds,
)
from imgstore.verbs.options import (
    add_applying,
    add_excludes,
)

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_keeping(verb: Maker) -> None:
    """Make their parsers."""
    made = verb(
        "verify",
        "check a store to the last bit, or a pulled directory",
        "verify",
        "verify /srv/node",
        "verify --repair /srv/node",
        more="Exit code 1 when something is off, after naming all of it.",
    )
    made.add_argument(
        "directory", metavar="DIR", nargs="?", help="a pulled directory, instead of the store"
    )
    made.add_argument(
        "--repair",
        action="store_true",
        help="make DIR what it should be; what was changed here goes to .imgstore/saved/",
    )
    add_excludes(made)
    add_applying(made)
    made = verb(
        "gc",
        "drop what no tag reaches, and free its space",
        "gc --dry-run",
        "gc --keep 10",
        more="Safe beside running pulls: packs are deleted only after a grace time.",
    )
    made.add_argument(
        "--keep",
        type=parse_count,
        metavar="N",
        help="of each image's history keep only the N newest versions and what is tagged; else all",
    )
    made.add_argument(
        "--grace",
        type=parse_seconds,
        metavar="SECONDS",
        help="how long packs given up are kept for pulls under way",
    )
    made.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    made = verb(
        "completion",
        "print a completion script for a shell",
        "completion bash > /etc/bash_completion.d/imgstore",
        "completion zsh > /usr/local/share/zsh/site-functions/_imgstore",
    )
    made.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="bash or zsh")

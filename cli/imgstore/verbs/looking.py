"""Verbs that look into a store, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstore.amounts import (
    parse_count,
)
from imgstore.verbs.options import (
    add_exit_code,
)
from imgstore.verbs.words import LAYERS

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_looking(verb: Maker) -> None:
    """Make their parsers."""
    verb("images", "list the images of the store", "images", "images --json")
    made = verb("log", "list the versions of an image, newest first", "log web", "log web -n 5")
    made.add_argument("spec", metavar="SPEC", help="the image, or the version to begin with")
    made.add_argument("-n", type=parse_count, metavar="N", dest="number", help="only the first N")
    made = verb("show", "tell all about one version", "show web", "show web:base", more=LAYERS)
    made.add_argument("spec", metavar="SPEC", help="the version")
    made = verb(
        "ls", "list what a version holds", "ls web etc", "ls -r web:base usr/share/doc", more=LAYERS
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("path", metavar="PATH", nargs="?", default="", help="a path in the image")
    made.add_argument("-r", "--recursive", action="store_true", help="all that lies below, too")
    made = verb(
        "cat",
        "write a file of a version to stdout",
        "cat web etc/fstab",
        "cat web~1 etc/fstab | diff - /srv/images/web/etc/fstab",
        more=LAYERS,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("path", metavar="PATH", help="a file in the image")
    made = verb(
        "diff",
        "show which paths differ between two versions",
        "diff web~1 web",
        "diff web:base web --stat",
        "diff web:base web --exit-code > /dev/null || echo changed",
        more="One path a line, sorted, after a letter and a tab: A added, D deleted, M content\n"
        "modified, m only metadata modified, T another type. Exit code 0 also when there are\n"
        "differences, unless --exit-code is given.\n\n" + LAYERS,
    )
    made.add_argument("old", metavar="OLD", help="SPEC of the older version")
    made.add_argument("new", metavar="NEW", help="SPEC of the newer version")
    made.add_argument("--stat", action="store_true", help="only numbers of paths and bytes")
    add_exit_code(made)

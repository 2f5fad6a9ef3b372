"""Verbs about names, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstore.verbs.words import SPEC

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_naming(verb: Maker) -> None:
    """Make their parsers."""
    made = verb(
        "tag",
        "name a version",
        "tag web 2026-11",
        "tag web~1 latest",
        more="A tag that names another version moves. Moving 'latest' makes nodes go there at\n"
        "their next pull.\n\n" + SPEC,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("name", metavar="NAME", help="the tag")
    made = verb("untag", "take a tag away", "untag web 2026-11")
    made.add_argument("image", metavar="IMAGE", help="the image")
    made.add_argument("name", metavar="NAME", help="the tag")
    made = verb(
        "rm",
        "remove an image, or the names of a version",
        "rm web",
        "rm web:2026-11",
        more="An image alone is removed with all its tags. A version loses all its tags; if it is\n"
        "the latest, its parent becomes that. 'imgstore gc' frees the space.",
    )
    made.add_argument("spec", metavar="SPEC", help="the image, or a version of it")

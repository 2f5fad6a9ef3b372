"""Verbs that change a tree in use, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstore.amounts import (
    parse_rate,
    parse_size,
)
from imgstore.verbs.options import (
    add_applying,
    add_excludes,
    add_giving,
    add_peers,
    add_staging,
    add_trackers,
)
from imgstore.verbs.trust import (
    add_access,
    add_insecure,
)
from imgstore.verbs.words import SPEC

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_nodes(verb: Maker) -> None:
    """Make their parsers."""
    made = verb(
        "pull",
        "make a directory a version of a remote, moving only what is missing",
        "pull --trust-first http://head:8730/web /srv/node",
        "pull http://head:8730/web:2026-11 /srv/node",
        "pull /mnt/usb/store/web /srv/node",
        "pull /srv/node",
        "pull --dry-run /srv/node",
        "pull http://head:8730/web+rack7+node12 / --mirror --exclude /var/lib",
        more="A REMOTE is the URL or the directory of a store. DIR is new, empty, or was pulled\n"
        "before; then it remembers its remote, and DIR alone is enough. What the image does not\n"
        "know stays, and what was changed here and stands in the way goes to .imgstore/saved/.\n\n"
        + SPEC,
    )
    made.add_argument("remote", metavar="REMOTE/SPEC[+OVERLAY...]", nargs="?", help="the version")
    made.add_argument("directory", metavar="DIR", help="the directory")
    made.add_argument(
        "--dry-run", action="store_true", help="only say what would change, and what would move"
    )
    made.add_argument(
        "--mirror",
        action="store_true",
        help="make DIR exactly the version: remove what the image does not know, mend the rest",
    )
    made.add_argument(
        "--atomic",
        action="store_true",
        help="update a clone beside DIR and exchange the two; 'rollback' exchanges them back",
    )
    made.add_argument(
        "--watch",
        action="store_true",
        help="stay, ask about once a minute, and pull whenever the image moves",
    )
    made.add_argument(
        "--limit-rate",
        type=parse_rate,
        metavar="RATE",
        help="receive at most RATE bytes per second: 500k, 2M, 1.5M",
    )
    made.add_argument(
        "--trust-first",
        action="store_true",
        help="if DIR trusts no store yet, trust this one from now on; see 'trust'",
    )
    add_insecure(made)
    add_access(made)
    made.add_argument(
        "--transport",
        choices=("auto", "http", "swarm"),
        default="auto",
        help="where packs come from: auto (the default) takes what is quicker, http only the "
        "server, swarm other nodes wherever a pack has a torrent",
    )
    made.add_argument(
        "--cache-size", type=parse_size, metavar="SIZE", help="most bytes kept of what swarms bring"
    )
    add_trackers(made)
    add_staging(made)
    add_giving(made, "after the pull")
    made.add_argument("--no-seed", action="store_true", help="give nothing after the pull")
    add_peers(made)
    add_excludes(made)
    add_applying(made)
    made = verb(
        "recover",
        "finish a pull that was interrupted, without the network",
        "recover /",
        more="Does what the journal in DIR/.imgstore says is left to do. Meant for boot time; the\n"
        "next pull does the same. Nothing to finish is no error.",
    )
    made.add_argument("directory", metavar="DIR", help="the directory")
    made = verb(
        "rollback",
        "make a pulled directory what it was before",
        "rollback /srv/node",
        more="After 'pull --atomic' the tree of before is exchanged back, without the network;\n"
        "else the version of before is pulled from the same remote. The next pull goes forward\n"
        "again.",
    )
    made.add_argument("directory", metavar="DIR", help="the directory")
    add_excludes(made)
    add_applying(made)

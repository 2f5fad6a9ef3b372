"""Verbs that serve a store and look at its swarms, and what they take."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imgstore.verbs.options import (
    add_giving,
    add_peers,
    add_staging,
    add_trackers,
)

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_serving(verb: Maker) -> None:
    """Make their parsers."""
    made = verb(
        "serve",
        "serve the store over HTTP",
        "serve",
        "serve --listen 0.0.0.0:8730",
        "serve --listen '[::]:8730' -v",
        more="Read-only, and only what nodes need. Runs until it is interrupted. It tracks the\n"
        "swarms of its packs, and is the first seed of each where libtorrent is installed.",
    )
    made.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        default="127.0.0.1:8730",
        help="where; without it 127.0.0.1:8730, which only this machine reaches",
    )
    made.add_argument(
        "--token-file", metavar="FILE", help="only for who has the bearer token in FILE"
    )
    made.add_argument("--tls-cert", metavar="FILE", help="over TLS, with this certificate")
    made.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    made.add_argument(
        "--client-ca", metavar="FILE", help="only for clients with a certificate by one of these"
    )
    made.add_argument(
        "--proxy",
        metavar="NETWORK",
        dest="proxies",
        action="append",
        default=[],
        help="believe proxies of this network, such as 127.0.0.1, who a client is; repeatable",
    )
    add_trackers(made)
    made.add_argument("--no-seed", action="store_true", help="track swarms, but seed none")
    add_peers(made)
    made = verb(
        "seed",
        "give packs that came from other nodes to more of them",
        "seed /srv/node --limit-upload 10M",
        "seed --stop /srv/node",
        more="A pull starts this by itself for a while; as a service it stays.",
    )
    made.add_argument("directory", metavar="DIR", help="a pulled directory")
    made.add_argument("--stop", action="store_true", help="end it, and drop what was given")
    made.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    add_giving(made, "and no longer")
    add_staging(made)
    add_peers(made)
    made = verb(
        "swarm",
        "list the packs that nodes are exchanging",
        "swarm http://head:8730",
        more="What the remote's tracker knows: who has them, who fetches them, how fast.",
    )
    made.add_argument("remote", metavar="REMOTE", help="the URL of a server")

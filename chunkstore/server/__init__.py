"""The HTTP server that `imgstore serve` runs.

It serves the public part of a store directory, read-only, and refuses all the
rest; see `public` for the exact list of paths. It is also the tracker of the
packs' swarms. Other routes (node reports, status page) can be added to the same
application and share its limits. Nodes trust none of this: they check signatures
and digests themselves.

Read on in this order: `run`, `listening`, `entry`, `proxies`, `guard`, `delivery`, `sendfile`,
`files`, `public`, `ranges`, `tracker`, `torrents`.
"""

from chunkstore.server.entry import Entry
from chunkstore.server.files import application
from chunkstore.server.guard import Access, OnRequest
from chunkstore.server.limits import Limits
from chunkstore.server.listening import Address
from chunkstore.server.proxies import Proxies
from chunkstore.server.run import base_url, running, serve_forever
from chunkstore.server.tracker import SERVICE, SwarmService

__all__ = [
    "SERVICE",
    "Access",
    "Address",
    "Entry",
    "Limits",
    "OnRequest",
    "Proxies",
    "SwarmService",
    "application",
    "base_url",
    "running",
    "serve_forever",
]

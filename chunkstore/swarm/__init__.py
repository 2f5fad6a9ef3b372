"""The swarm: nodes that exchange packs by BitTorrent.

    crowd       who is in the swarm of each pack: the tracker's state, pure
    announce    what clients and trackers say to each other; pure
    tracking    asking a tracker, over the connections of the HTTP reader
    presence    being known to trackers while a session lasts
    settings    how a session behaves: ports, networks, limits; what came of it
    tuning      how libtorrent is set
    session     libtorrent, behind one class; imported only when it is used
    choice      which packs travel by swarm, and which pieces first; pure
    fetch       one pack on its way, and when to lose patience
    help        pieces from the server while a swarm stalls
    cache       the directory with what came, and is given on
    reader      a reader that takes packs from the swarm, and goes on over HTTP by itself
    giving      what a node goes on giving after a pull
    seed        the first seed, beside a server

Nothing here is believed: chunks are checked by their own digests wherever they came from. Only
`session` knows libtorrent, so all else works where it is not installed.
"""

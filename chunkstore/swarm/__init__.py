"""The swarm: nodes that exchange packs by BitTorrent.

    crowd       who is in the swarm of each pack: the tracker's state, pure
    announce    what clients and trackers say to each other; pure
    tracking    asking a tracker, over the connections of the HTTP reader
    presence    being known to trackers while a session lasts
    settings    how a session behaves: ports, networks, limits; what came of it
    tuning      how libtorrent is set
    events      what a session tells
    session     libtorrent, behind one class; imported only when it is used
    ports       a port that is free, and holding it
    choice      which packs are worth a swarm, and which pieces come first; pure
    wishes      the packs a node wants from swarms: their torrents, and room for them
    alone       how a node reads that is alone
    fetch       one pack on its way, and when to lose patience
    help        pieces from the server while a swarm stalls
    cache       the directory with what came, and is given on
    part        a node's part in swarms: announced, watched, joined when it pays
    reader      a reader that takes packs from the swarm, and goes on over HTTP by itself
    giving      what a node goes on giving after a pull
    confine     giving up what a process that only gives has no need of
    seed        the first seed, beside a server

Nothing here is believed: chunks are checked by their own digests wherever they came from. Only
`session` knows libtorrent, so all else works where it is not installed.
"""

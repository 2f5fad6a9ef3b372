"""How libtorrent is set, by its own names; what a caller may choose is in `settings`.

Measured choices. uTP is an order of magnitude slower than TCP between machines of one network. With
the request queue as it comes, a node fetches seconds of neighbouring pieces from the seed, which
then sends them several times over. Peers come from the tracker only, so all else that finds or
tells of peers is off. Releases differ in a few names: who uses this leaves out what is not known.
"""

from __future__ import annotations

from typing import Any, Final

TUNING: Final[dict[str, Any]] = {
    "user_agent": "imgstore",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "webtorrent_stun_server": "",
    # Encryption without keys keeps nobody out. Taken from others' clients, never begun.
    "out_enc_policy": 2,
    "in_enc_policy": 1,
    "choking_algorithm": 0,
    "unchoke_slots_limit": -1,
    "whole_pieces_threshold": 1,
    "request_queue_time": 1,
    "initial_picker_threshold": 0,
    # Several nodes behind one address are several nodes.
    "allow_multiple_connections_per_ip": True,
    # What came from whom is counted per connection.
    "close_redundant_connections": False,
    "smooth_connects": False,
    "connection_speed": 200,
    "torrent_connect_boost": 60,
    "peer_connect_timeout": 4,
    "handshake_timeout": 6,
    "request_timeout": 10,
    "piece_timeout": 8,
    "min_reconnect_time": 2,
    "max_failcount": 6,
    "aio_threads": 2,
    "hashing_threads": 1,
    "alert_queue_size": 20_000,
}

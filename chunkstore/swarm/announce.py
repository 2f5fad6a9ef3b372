"""What clients and trackers say to each other: BEP 3 with the compact lists of BEP 23 and 7.

Pure. A client's words come as the query of a URL, which holds any bytes; a tracker's are bencoded.
`rank` and `first` are our own additions to a reply, which other clients pass over. Promises: what
is not an announce ends in `Corrupt`, and a reply is bounded by its bytes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from chunkstore.errors import Corrupt
from chunkstore.objects import bencode

MAX_REPLY: Final = 64 * 1024
EVENTS: Final = ("started", "completed", "stopped", "")
_HASH: Final = 20
_V4: Final = 4
_V6: Final = 16
_MAX_NUMBER: Final = 2**63 - 1
_MAX_HASHES: Final = 64
_WHERE: Final = "announce"


class Peer(NamedTuple):
    """Where somebody listens; the address in 4 or 16 bytes."""

    address: bytes
    port: int

    def __str__(self) -> str:
        host = ipaddress.ip_address(self.address)
        return f"[{host}]:{self.port}" if host.version == 6 else f"{host}:{self.port}"


class Announce(NamedTuple):
    """What a client says. `wanted` is how many peers it would like to know, None if it says not."""

    info_hash: bytes
    peer_id: bytes
    port: int
    left: int
    uploaded: int = 0
    downloaded: int = 0
    event: str = ""
    wanted: int | None = None

    @property
    def query(self) -> str:
        """As it stands in a URL."""
        fields: dict[str, bytes | int | str] = {
            "info_hash": self.info_hash,
            "peer_id": self.peer_id,
            "port": self.port,
            "uploaded": self.uploaded,
            "downloaded": self.downloaded,
            "left": self.left,
            "compact": 1,
        }
        if self.event:
            fields["event"] = self.event
        if self.wanted is not None:
            fields["numwant"] = self.wanted
        return "&".join(
            f"{name}={quote(value if isinstance(value, bytes) else str(value), safe='')}"
            for name, value in fields.items()
        )


class Reply(NamedTuple):
    """What a tracker answers.

    `rank` is the client's place among `leechers`, `first` the store's own seed; None if not told.
    """

    interval: int
    peers: tuple[Peer, ...]
    seeds: int
    leechers: int
    rank: int | None = None
    first: Peer | None = None

    def encode(self) -> bytes:
        """The body of an HTTP reply."""
        fields: dict[bytes, Any] = {
            b"interval": self.interval,
            b"complete": self.seeds,
            b"incomplete": self.leechers,
            b"peers": _compact(self.peers, _V4),
        }
        if others := _compact(self.peers, _V6):
            fields[b"peers6"] = others
        if self.rank is not None:
            fields[b"rank"] = self.rank
        if self.first is not None:
            fields[b"first"] = self.first.address + self.first.port.to_bytes(2, "big")
        return bencode.encode(fields)


def failure(reason: str) -> bytes:
    """How a tracker says no."""
    return bencode.encode({b"failure reason": reason.encode()})


def _compact(peers: Iterable[Peer], width: int) -> bytes:
    return b"".join(
        peer.address + peer.port.to_bytes(2, "big") for peer in peers if len(peer.address) == width
    )


def parse_query(query: str) -> dict[str, list[bytes]]:
    """The fields of a query by name, their values as bytes: `+` is no space here."""
    found: dict[str, list[bytes]] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        found.setdefault(name, []).append(unquote_to_bytes(value))
    return found


def parse_announce(query: str) -> Announce:
    """What a client says by the query of its request. Raises `Corrupt`.

    An `ip` it may claim is passed over: others would be sent wherever it says.
    """
    fields = parse_query(query)
    event = fields.get("event", [b""])[0].decode("latin-1")
    if event not in EVENTS:
        event = ""  # there are more of them than BEP 3 knows, such as 'paused'
    wanted = _number(fields, "numwant", missing=-1)
    said = Announce(
        info_hash=_exact(fields, "info_hash"),
        peer_id=_exact(fields, "peer_id"),
        port=_number(fields, "port"),
        left=_number(fields, "left"),
        uploaded=_number(fields, "uploaded", missing=0),
        downloaded=_number(fields, "downloaded", missing=0),
        event=event,
        wanted=None if wanted < 0 else wanted,
    )
    if not 0 < said.port < 2**16:
        raise Corrupt(f"{_WHERE}: no port {said.port}", where=_WHERE)
    return said


def parse_scrape(query: str) -> list[bytes]:
    """The info hashes somebody asks about (BEP 48), which have to be named. Raises `Corrupt`."""
    hashes = parse_query(query).get("info_hash", [])
    if not 0 < len(hashes) <= _MAX_HASHES or any(len(item) != _HASH for item in hashes):
        raise Corrupt(f"scrape: name one to {_MAX_HASHES} info hashes", where="scrape")
    return hashes


def _exact(fields: dict[str, list[bytes]], name: str) -> bytes:
    value = fields.get(name, [b""])[0]
    if len(value) != _HASH:
        raise Corrupt(f"{_WHERE}: {name} has to be {_HASH} bytes", where=_WHERE)
    return value


def _number(fields: dict[str, list[bytes]], name: str, missing: int | None = None) -> int:
    values = fields.get(name)
    if values is None and missing is not None:
        return missing
    text = values[0] if values else b""
    if name == "numwant" and text == b"-1":
        return -1
    if not text.isdigit() or len(text) > 20 or int(text) > _MAX_NUMBER:
        raise Corrupt(f"{_WHERE}: {name} is no number", where=_WHERE)
    return int(text)


def parse_reply(data: bytes, where: str) -> Reply:
    """What a tracker answers, ours or another. Raises `Corrupt`, also for a refusal."""
    fields = bencode.decode(data, where, ordered=False)
    if not isinstance(fields, dict):
        raise Corrupt(f"{where}: no answer of a tracker", where=where)
    refused = fields.get(b"failure reason")
    if isinstance(refused, bytes):
        said = "".join(c if c.isprintable() else "?" for c in refused[:200].decode("latin-1"))
        raise Corrupt(f"{where}: the tracker refuses: {said}", where=where)
    peers = [*_listed(fields.get(b"peers", b""), _V4), *_listed(fields.get(b"peers6", b""), _V6)]
    rank, first = fields.get(b"rank"), fields.get(b"first")
    width = len(first) - 2 if isinstance(first, bytes) else 0
    found = list(_listed(first, width)) if width in (_V4, _V6) else []
    return Reply(
        interval=_whole(fields.get(b"interval"), 1),
        peers=tuple(peers),
        seeds=_whole(fields.get(b"complete")),
        leechers=_whole(fields.get(b"incomplete")),
        rank=rank if isinstance(rank, int) and rank >= 0 else None,
        first=found[0] if found else None,
    )


def _listed(value: Any, width: int) -> Iterable[Peer]:
    """Peers in either of the two forms; what is no peer is left out."""
    if isinstance(value, bytes):
        step = width + 2
        for start in range(0, len(value) - step + 1, step):
            port = int.from_bytes(value[start + width : start + step], "big")
            if port:
                yield Peer(value[start : start + width], port)
    elif isinstance(value, list):
        for item in value:
            peer = _named(item)
            if peer is not None:
                yield peer


def _named(item: Any) -> Peer | None:
    if not isinstance(item, dict):
        return None
    host, port = item.get(b"ip"), item.get(b"port")
    if not isinstance(host, bytes) or not isinstance(port, int) or not 0 < port < 2**16:
        return None
    try:
        return Peer(ipaddress.ip_address(host.decode("latin-1")).packed, port)
    except ValueError:
        return None


def _whole(value: Any, least: int = 0) -> int:
    return value if isinstance(value, int) and value >= least else least

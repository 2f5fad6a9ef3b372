"""What a session tells: values, whatever library brings them."""

from __future__ import annotations

from typing import NamedTuple


class Came(NamedTuple):
    """A block of a piece, from a peer at that address and port."""

    pack: bytes
    size: int
    peer: tuple[str, int]


class Finished(NamedTuple):
    """A piece whose bytes are right, and in the file."""

    pack: bytes
    piece: int


class Banned(NamedTuple):
    """A peer that sent bad data and is not talked to any more."""

    pack: bytes
    peer: str


class Broken(NamedTuple):
    """A pack that can't be taken from its swarm any more, for a reason of this machine."""

    pack: bytes
    reason: str


Event = Came | Finished | Banned | Broken


class Status(NamedTuple):
    """How a pack is doing. Bytes without protocol; rates per second; `left` of what is wanted."""

    left: int
    downloaded: int
    uploaded: int
    upload_rate: int
    download_rate: int
    peers: int
    is_checked: bool

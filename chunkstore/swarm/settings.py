"""How a node, or a server's first seed, behaves in a swarm; and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from chunkstore.errors import Usage

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from chunkstore.storage.backends.http_access import Access

    Network = IPv4Network | IPv6Network

Transport = Literal["auto", "http", "swarm"]

EVERYWHERE: Final = ("0.0.0.0", "::")


class SessionSettings(NamedTuple):
    """Where to listen, whom to talk to, how fast.

    `addresses` are those of interfaces here; the first free port from `ports`, both ends included,
    is taken on all of them. Peers outside of `networks` are ignored, if any are given. Rates are
    bytes per second over all peers, 0 for no limit.
    """

    addresses: tuple[str, ...] = EVERYWHERE
    ports: tuple[int, int] = (6881, 6999)
    networks: tuple[Network, ...] = ()
    limit_upload: int = 0
    limit_download: int = 0

    def allows(self, address: bytes) -> bool:
        """Whether a peer at this address may be talked to."""
        import ipaddress

        found = ipaddress.ip_address(address)
        return not self.networks or any(found in network for network in self.networks)


class SwarmSettings(NamedTuple):
    """How a node takes part. `trackers` stand in for those that torrents name. `home`
    is the URL of the remote: its credentials, and `access`, are for a tracker on the same server
    as well.

    `cache_size` bounds the bytes of the cache, None leaves that to the room there is. `staging` is
    a directory for it, such as one in memory; else it is in the node's own state. `tell` takes
    remarks, `came` how many more bytes came from other nodes and from the server's seed, both from
    other threads. `give` is called once
    the tree is complete, while this node still gives, with the path of the cache, and whether
    anybody wants what is there just now: it can start somebody who goes on. Without it the cache is
    emptied.
    """

    transport: Transport = "auto"
    session: SessionSettings = SessionSettings()
    trackers: tuple[str, ...] = ()
    home: str = ""
    access: Access | None = None
    cache_size: int | None = None
    staging: str = ""
    tell: Callable[[str], None] = lambda _: None
    came: Callable[[int, int], None] = lambda _peers, _seed: None
    give: Callable[[str, bool], None] | None = None


class Figures(NamedTuple):
    """What came through swarms: bytes from other nodes and from the server's seed, and back."""

    packs: int = 0
    from_peers: int = 0
    from_seed: int = 0
    given: int = 0
    banned: tuple[str, ...] = ()


def parse_network(text: str) -> Network:
    """A network such as `10.0.0.0/8`, or one address. Raises `Usage`."""
    import ipaddress

    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise Usage(f"{text!r} is no network: write 10.0.0.0/8 or fd00::/8") from None


def parse_ports(text: str) -> tuple[int, int]:
    """A port or a range, `6881-6999`. Raises `Usage`."""
    first, dash, last = text.partition("-")
    numbers = (first, last if dash else first)
    if all(number.isascii() and number.isdigit() for number in numbers):
        low, high = int(numbers[0]), int(numbers[1])
        if 0 < low <= high < 65536:
            return low, high
    raise Usage(f"{text!r} is no range of ports: write 6881-6999 or one port")


def parse_address(text: str) -> str:
    """The address of an interface. Raises `Usage`."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise Usage(f"{text!r} is no address of an interface: write 10.0.0.5 or fd00::5") from None

"""What one client may cost the server.

Only values and the arithmetic on them; `guard` and `delivery` enforce them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on connections, request heads and slow readers.

    `max_connections` (1024): connections served at once. Further ones are left
    in the kernel's backlog, in order of arrival, and are taken as places fall
    free. They are not refused: a thousand nodes that were refused would come
    back at the same moment, while a queue costs this process nothing. A
    connection may hold three descriptors: itself twice, and the file being sent.

    `backlog` (4096): how many may queue there; the kernel cuts it to
    `net.core.somaxconn`, and beyond it clients see their SYN resent.

    `head_seconds` (10): time to deliver a complete request head, counted from
    the connection's start or from the end of its last response, so it is the
    idle timeout of kept connections too. A byte now and then buys nothing.

    `crowded_head_seconds` (1): the same while others queue for a place, for
    connections that have got all that was sent to them. Clients must be ready
    to find a kept connection closed, as ever with HTTP.

    `max_line_bytes`, `max_field_bytes` (8192 each), `max_fields` (32): of a
    request head. A head may thus pin 256 KiB, for `head_seconds` at most.

    `min_rate` (8192 bytes/s) and `grace_seconds` (10): each piece of a response,
    1 MiB at most, must be taken within `grace_seconds` plus its size over
    `min_rate`, or the connection is cut. The rate is low on purpose: all
    places reading at 8 KiB/s fill a 100 Mbit/s link between them, and an
    honest crowd there must not be cut.

    `stop_seconds` (5): how long running responses may go on after a stop.
    aiohttp waits for a stuck one twice, so a stop takes twice this at most.
    """

    max_connections: int = 1024
    backlog: int = 4096
    head_seconds: float = 10.0
    crowded_head_seconds: float = 1.0
    max_line_bytes: int = 8192
    max_field_bytes: int = 8192
    max_fields: int = 32
    min_rate: int = 8192
    grace_seconds: float = 10.0
    stop_seconds: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive")

    def patience(self, size: int) -> float:
        """Seconds a client may take to read `size` bytes."""
        return self.grace_seconds + size / self.min_rate

"""A line between two interfaces: packets leave at its speed, and arrive after its delay.

    relay.py NAME NAME MBIT MILLISECONDS

Stands in for `tc netem`, which not every kernel has. Makes two tun interfaces and carries what
enters one out of the other, one process for each direction, until its standard input ends; whoever
started it puts them where they belong. A packet waits until those before it have left, as long as
that is not more than 50 milliseconds away: more than that the line does not hold, and the packet
is lost, as in a switch. Packets are those of the kernel, before they are cut into frames, so that
few enough of them come by; the time they take is that of the frames.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUN, _NO_PI, _VNET_HDR = 0x0001, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6 = 1, 2, 4
_HEADER = 10
"""Bytes of virtio_net_hdr in front of each packet: where the kernel left off."""
_LARGEST = 1 << 17
_FRAME, _HEADERS, _ETHERNET = 1500, 52, 38
"""Bytes of a frame; of TCP/IP headers in it; and around it, preamble and gap included."""
_HOLDS = 0.05
_AT_ONCE = 64


def main(arguments: list[str]) -> int:
    """Make the interfaces, say so, and carry."""
    one, other, mbit, delay = arguments
    ends = _open(one), _open(other)
    rate = float(mbit) * 1e6 / 8
    print("ready", flush=True)
    is_child = os.fork() == 0
    source, sink = ends if is_child else ends[::-1]
    _carry(source, sink, rate, float(delay) / 1000)
    return 0


def _open(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _TUN | _NO_PI | _VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _CSUM | _TSO4 | _TSO6)
    return descriptor


def _carry(source: int, sink: int, rate: float, delay: float) -> None:
    """One direction. `rate` in bytes per second, `delay` in seconds."""
    on_the_way: deque[tuple[float, bytes]] = deque()
    is_free_at = 0.0
    end = sys.stdin.fileno()
    while True:
        now = time.monotonic()
        while on_the_way and on_the_way[0][0] <= now:
            _write(sink, on_the_way.popleft()[1])
        wait = on_the_way[0][0] - now if on_the_way else None
        ready, _, _ = select.select([source, end], [], [], wait)
        if end in ready:
            return
        if source not in ready:
            continue
        now = time.monotonic()
        for packet in _read(source):
            starts = max(now, is_free_at)
            if starts - now <= _HOLDS:
                is_free_at = starts + _size(packet) / rate
                on_the_way.append((is_free_at + delay, packet))


def _read(source: int) -> list[bytes]:
    """What has come, a bounded number of packets of it."""
    found: list[bytes] = []
    with suppress(OSError):  # nothing more; or the interface is on its way into a namespace
        while len(found) < _AT_ONCE:
            found.append(os.read(source, _LARGEST))
    return found


def _write(sink: int, packet: bytes) -> None:
    with suppress(OSError):  # the interface is down: the other end has gone
        os.write(sink, packet)


def _size(packet: bytes) -> int:
    """Bytes on the wire, of all the frames that it will be cut into."""
    frames = max(1, -(-(len(packet) - _HEADER) // _FRAME))
    return len(packet) - _HEADER + frames * _ETHERNET + (frames - 1) * _HEADERS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

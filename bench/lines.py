"""A head and nodes in network namespaces, each node at a line of its own speed and delay.

Needs root, iproute2, and a kernel with tun. All of it goes at the end of the `with` block, with
every process in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from servers import Where

_RELAY = Path(__file__).with_name("relay.py")


class Line(NamedTuple):
    """Megabits per second, and milliseconds in each direction."""

    mbit: int
    delay: int

    def __str__(self) -> str:
        speed = f"{self.mbit // 1000} Gbit/s" if self.mbit >= 1000 else f"{self.mbit} Mbit/s"
        return f"{speed}, {self.delay} ms"


class Node(NamedTuple):
    """A namespace at the end of a line; `head` is the address of the other end."""

    line: Line
    inside: tuple[str, ...]
    head: str


def missing() -> str:
    """Why there can be no lines here; empty when there can."""
    if os.geteuid():
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "this kernel has no tun"
    probe = f"imgstore-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except FileNotFoundError:
        return "needs Debian's iproute2"
    except subprocess.CalledProcessError as error:
        return f"this kernel has no namespaces: {str(error.stderr).strip()}"
    return ""


@contextmanager
def lines(wanted: Sequence[Line]) -> Iterator[tuple[Where, list[Node]]]:
    """Where servers run, and a node for each line."""
    prefix = f"imgstore-{os.getpid()}"
    head = f"{prefix}-head"
    spaces = [head]
    relays: list[subprocess.Popen[bytes]] = []
    nodes = []
    try:
        _ip("netns", "add", head)
        _ip("-n", head, "link", "set", "lo", "up")
        for number, line in enumerate(wanted, 1):
            space = f"{prefix}-node{number}"
            _ip("netns", "add", space)
            spaces.append(space)
            # Names of interfaces are short.
            here, there = f"h{os.getpid()}.{number}", f"n{os.getpid()}.{number}"
            relays.append(_relay(here, there, line))
            address = f"10.78.{number}.1"
            _join(head, here, address)
            _join(space, there, f"10.78.{number}.2")
            _ip("-n", space, "link", "set", "lo", "up")
            nodes.append(Node(line, ("ip", "netns", "exec", space), address))
        yield Where(("ip", "netns", "exec", head), "0.0.0.0"), nodes
    finally:
        for relay in relays:
            assert relay.stdin is not None
            relay.stdin.close()
            relay.wait()
        for space in spaces:
            _remove(space)


def _relay(here: str, there: str, line: Line) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(_RELAY), here, there, str(line.mbit), str(line.delay)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    with started.stdout:
        if started.stdout.readline().strip() != b"ready":
            raise SystemExit("a line did not come up: see above")
    return started


def _join(space: str, device: str, address: str) -> None:
    _ip("link", "set", "dev", device, "netns", space)
    _ip("-n", space, "addr", "add", f"{address}/24", "dev", device)
    _ip("-n", space, "link", "set", device, "up")


def _ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout


def _remove(space: str) -> None:
    with suppress(subprocess.CalledProcessError):
        for pid in map(int, _ip("netns", "pids", space).split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for _ in range(50):
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", space)
            return
        time.sleep(0.1)

"""Machines on one switch, as network namespaces: each with a link of its own speed both ways.

Needs root, iproute2, and a kernel with bridges, veth and tbf. What is made here has a name that
begins with a prefix of the process, and all of it goes at the end, with every process in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BURST = "16kb"
_LATENCY = "200ms"


def _ip(*arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout


def missing() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if os.geteuid():
        return "needs root"
    probe = f"imgstore-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        try:
            _ip("-n", probe, "link", "add", "name", "eth0", "type", "veth", "peer", "name", "eth1")
            _ip("-n", probe, "link", "add", "name", "br0", "type", "bridge")
            shape = ("tbf", "rate", "1mbit", "burst", _BURST, "latency", _LATENCY)
            _ip("netns", "exec", probe, "tc", "qdisc", "add", "dev", "eth0", "root", *shape)
        finally:
            _ip("netns", "del", probe)
    except FileNotFoundError:
        return "needs Debian's iproute2"
    except subprocess.CalledProcessError as error:
        return f"this kernel has no namespaces for it: {str(error.stderr).strip()}"
    return ""


@dataclass(frozen=True)
class Machine:
    """A namespace with one interface, `eth0`."""

    name: str
    address: str

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program there."""
        inside = ["ip", "netns", "exec", self.name, *command]
        return subprocess.Popen(inside, stdin=subprocess.DEVNULL, **options)

    def run(self, *command: str) -> None:
        """Run a program there to its end."""
        inside = ["ip", "netns", "exec", self.name, *command]
        subprocess.run(inside, check=True, capture_output=True, stdin=subprocess.DEVNULL)

    def sent(self) -> int:
        """Bytes that have left it, headers included."""
        found = subprocess.run(
            ["ip", "netns", "exec", self.name, "cat", "/sys/class/net/eth0/statistics/tx_bytes"],
            check=True,
            capture_output=True,
            text=True,
        )
        return int(found.stdout)

    def lose(self, share: float) -> None:
        """Lose so much of what comes in, by chance."""
        rule = ("-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP")
        self.run("iptables", "-A", "INPUT", "-i", "eth0", *rule)


class Network:
    """A switch, and machines at it."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._switch = f"{prefix}-switch"
        self._names = [self._switch]
        self.machines: list[Machine] = []

    def open(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "name", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")

    def machine(self, *, up: float, down: float) -> Machine:
        """One more, with a link of so many megabits per second."""
        number = len(self.machines) + 1
        name = f"{self._prefix}-{number}"
        address = f"10.77.{number // 250}.{number % 250 + 1}"
        _ip("netns", "add", name)
        self._names.append(name)
        there, here = f"v{number}", "eth0"
        link = ("type", "veth", "peer", "name", there, "netns", self._switch)
        _ip("-n", name, "link", "add", "name", here, *link)
        _ip("-n", self._switch, "link", "set", there, "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{address}/16", "dev", here)
        for space, device, rate in ((name, here, up), (self._switch, there, down)):
            # Whole packets, or a shaper lets through what it should not, or nothing.
            _ip("-n", space, "link", "set", device, "gso_max_segs", "1")
            shape = ("tbf", "rate", f"{rate}mbit", "burst", _BURST, "latency", _LATENCY)
            _ip("netns", "exec", space, "tc", "qdisc", "add", "dev", device, "root", *shape)
        for device in ("lo", here):
            _ip("-n", name, "link", "set", device, "up")
        made = Machine(name, address)
        self.machines.append(made)
        return made

    def close(self) -> None:
        """End what runs in it, and take it away."""
        for name in self._names:
            with suppress(subprocess.CalledProcessError):
                for pid in map(int, _ip("netns", "pids", name).split()):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        for name in self._names:
            for _ in range(50):
                with suppress(subprocess.CalledProcessError):
                    _ip("netns", "del", name)
                    break
                time.sleep(0.1)


@contextmanager
def network(prefix: str = "") -> Iterator[Network]:
    """A network for the length of the block."""
    made = Network(prefix or f"imgstore-{os.getpid()}")
    try:
        made.open()
        yield made
    finally:
        made.close()


def busy_seconds() -> float:
    """Processor seconds this machine has spent since it started, on whatever."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, soft, *_ = map(int, fields)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")

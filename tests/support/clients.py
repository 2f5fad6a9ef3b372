"""Clients of others, as Debian has them, and whole programs of ours beside them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import stores
from support.crowd import Rig
from support.trees import assert_same

sys.path.insert(0, str(stores.PROJECT / "bench/swarm"))
from links import Machine

SOON = 60.0
IMGSTORE = (sys.executable, "-m", "imgstore")
ARIA2 = (
    *("aria2c", "--no-conf", "--quiet", "--seed-time=0", "--enable-dht=false", "--check-integrity"),
    *("--bt-enable-lpd=false", "--enable-peer-exchange=false", "--follow-torrent=mem"),
)


def needs(program: str, package: str) -> Any:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"needs {program}: Debian's {package}"
    )


@contextmanager
def ended(
    process: subprocess.Popen[bytes], number: int = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what: Callable[[], bool], name: str) -> None:
    until = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < until, f"{name} took too long"
        time.sleep(0.1)


@contextmanager
def served(rig: Rig, machine: Machine, *options: str, host: str = "") -> Iterator[str]:
    """`imgstore serve` on a machine, at `host` if it has several addresses; gives the URL."""
    place = f"{host or machine.address}:8730"
    command = [*IMGSTORE, "--store", str(rig.root), "serve", *options, "--listen", place]
    with ended(machine.start(command, stdout=subprocess.PIPE)) as server:
        assert server.stdout is not None
        assert b"serving" in server.stdout.readline()
        yield f"http://{place}"
        server.stdout.close()


def only_ipv6(machine: Machine, address: str) -> None:
    """Take a machine's IPv4 away, and give it this address."""
    machine.run("ip", "addr", "del", f"{machine.address}/16", "dev", "eth0")
    machine.run("ip", "-6", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")


@contextmanager
def transmission(machine: Machine, url: str, pack: str, place: Path) -> Iterator[None]:
    """Debian's transmission fetches a pack, and seeds it once it has all of it.

    Without uTP: as long as it tries that it never gets to TCP.
    """
    watched, config = place / "watched", place / "config"
    for folder in (watched, config):
        folder.mkdir(parents=True)
    (watched / "one.torrent").write_bytes(fetched(machine, f"{url}/packs/{pack}.torrent"))
    own = {"download-dir": str(place), "watch-dir": str(watched), "watch-dir-enabled": True}
    switches = ("utp", "dht", "lpd", "pex", "rpc", "port-forwarding")
    own |= {f"{name}-enabled": False for name in switches}
    (config / "settings.json").write_text(json.dumps(own))
    command = ["transmission-daemon", "-f", "-g", str(config)]
    with (place / "log").open("wb") as log:
        process = machine.start(command, stdout=log, stderr=log)
        with ended(process, signal.SIGKILL):  # it takes its time over anything else
            yield


def fetched(machine: Machine, url: str) -> bytes:
    code = "import sys,urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1]).read())"
    with machine.start([sys.executable, "-c", code, url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        return process.stdout.read()


def is_whole(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def pull_together(rig: Rig, machines: list[Machine], url: str, place: Path) -> None:
    """Pull on each machine at once: each has the tree, and they have helped each other."""
    command = [*IMGSTORE, "--json", "pull", "--trust-first", f"{url}/web", "--no-seed"]
    nodes = [place / f"node{number}" for number in range(len(machines))]
    processes = [
        machine.start([*command, "--transport", "swarm", str(node)], stdout=subprocess.PIPE)
        for machine, node in zip(machines, nodes, strict=True)
    ]
    found = []
    for process, node in zip(processes, nodes, strict=True):
        found.append(json.loads(process.communicate(timeout=SOON)[0])["swarm"])
        assert process.returncode == 0
        assert_same(rig.tree, node)
    # One may have been so far ahead that the others had nothing for it.
    for source in ("from_peers", "from_seed"):
        assert sum(swarm[source] for swarm in found) > 0, source

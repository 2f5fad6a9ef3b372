"""Clients and trackers of others: aria2, transmission and opentracker, as Debian has them."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import stores
from support.crowd import Rig
from support.servers import free_port
from support.trees import assert_same

sys.path.insert(0, str(stores.PROJECT / "bench/swarm"))
from links import Machine, missing, network

SOON = 60.0
IMGSTORE = (sys.executable, "-m", "imgstore")


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


ARIA2 = (
    *("aria2c", "--no-conf", "--quiet", "--seed-time=0", "--enable-dht=false", "--check-integrity"),
    *("--bt-enable-lpd=false", "--enable-peer-exchange=false", "--follow-torrent=mem"),
)


@needs("aria2c", "aria2")
@pytest.mark.parametrize("seeds", [True, False], ids=["from our seed", "by web seed"])
def test_aria2_downloads_a_pack(rig: Rig, tmp_path: Path, seeds: bool):
    found = rig.largest()
    with rig.server(seeds=seeds) as url:
        subprocess.run(
            [
                *(*ARIA2, f"--dir={tmp_path}", f"--listen-port={free_port()}"),
                f"{url}/packs/{found.pack.hex()}.torrent",
            ],
            check=True,
            timeout=SOON,
        )
    assert (tmp_path / found.name).read_bytes() == rig.data(found)


@contextmanager
def served(rig: Rig, machine: Machine, *options: str) -> Iterator[str]:
    command = [*IMGSTORE, "--store", str(rig.root), "serve", *options]
    command += ["--listen", f"{machine.address}:8730"]
    with ended(machine.start(command, stdout=subprocess.PIPE)) as server:
        assert server.stdout is not None
        assert b"serving" in server.stdout.readline()
        yield f"http://{machine.address}:8730"
        server.stdout.close()


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


@needs("transmission-daemon", "transmission-daemon")
def test_transmission_takes_and_gives(rig: Rig, tmp_path: Path):
    """From our seed and tracker, by web seed, and as the only seed of a node: all at once, since it
    takes ten seconds to make up its mind. It has nothing to do with peers on the loopback."""
    if reason := missing():
        pytest.skip(reason)
    found = rig.largest()
    pack, data = found.pack.hex(), rig.data(found)
    places = [tmp_path / name for name in ("seeded", "web", "seed")]
    places[2].mkdir(parents=True)
    shutil.copy(rig.root / "packs" / found.name, places[2])
    with network() as net, ExitStack() as stack:
        fast = {"up": 400.0, "down": 400.0}
        seeding, plain, alone, other = (net.machine(**fast) for _ in range(4))
        urls = [
            stack.enter_context(served(rig, machine, *options))
            for machine, options in (
                (seeding, ()),
                (plain, ("--no-seed",)),
                (alone, ("--no-seed",)),
            )
        ]
        others = [other, net.machine(**fast), net.machine(**fast)]
        for machine, url, place in zip(others, urls, places, strict=True):
            stack.enter_context(transmission(machine, url, pack, place))
        wait_for(lambda: b'"seeds": 1' in fetched(alone, f"{urls[2]}/swarm"), "seeding")
        node = tmp_path / "node"
        command = [
            *IMGSTORE,
            "-v",
            "--json",
            "pull",
            "--trust-first",
            f"{urls[2]}/web",
            str(node),
            "--no-seed",
        ]
        # Else the server, which helps until it has made up its mind, is done before.
        command += ["--limit-rate", "500k"]
        with alone.start([*command, "--transport", "swarm"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            report = json.load(process.stdout)
        for place in places:
            wait_for(lambda place=place: is_whole(place / found.name, data), place.name)
    assert_same(rig.tree, node)
    assert report["swarm"]["from_peers"] > 0.1 * found.size
    assert report["received_bytes"] < 0.95 * found.size


@needs("opentracker", "opentracker")
def test_a_tracker_of_others(rig: Rig, place: Path):
    """Debian's opentracker serves only what is in its white list, which it reads as nobody."""
    found = rig.largest()
    place.chmod(0o755)
    (place / "allowed").write_text(f"{found.info_hash.hex()}\n")
    port = free_port()
    tracker = f"http://127.0.0.1:{port}/announce"
    command = ["opentracker", "-i", "127.0.0.1", "-p", str(port)]
    command += ["-w", "/allowed", "-d", str(place)]  # its root from then on
    with ended(subprocess.Popen(command, stderr=subprocess.DEVNULL)):
        wait_for(lambda: _answers(port), "opentracker")
        with rig.server(trackers=(tracker,)) as url:
            node = rig.node("node")
            report = node.pull(url)
        assert_same(rig.tree, node.directory)
        assert report.swarm.from_peers + report.swarm.from_seed > 0.9 * found.size, node.remarks


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

"""Clients and trackers of others: aria2, transmission and opentracker, as Debian has them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from links import missing, network
from support.clients import (
    ARIA2,
    IMGSTORE,
    SOON,
    ended,
    fetched,
    is_whole,
    needs,
    only_ipv6,
    served,
    transmission,
    wait_for,
)
from support.crowd import Rig
from support.servers import free_port
from support.trees import assert_same


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


@needs("transmission-daemon", "transmission-daemon")
def test_transmission_takes_and_gives(rig: Rig, tmp_path: Path):
    """From our seed and tracker over IPv4 and IPv6, by web seed, and as the only seed of a node:
    all at once, since it takes ten seconds to make up its mind. It has nothing to do with peers on
    the loopback."""
    if reason := missing():
        pytest.skip(reason)
    found = rig.largest()
    pack, data = found.pack.hex(), rig.data(found)
    places = [tmp_path / name for name in ("seeded", "web", "seed", "six")]
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
        others = [other, *(net.machine(**fast) for _ in range(3))]
        newer = net.machine(**fast)
        for number, machine in enumerate((newer, others[3]), 1):
            only_ipv6(machine, f"2001:db8::{number}")
        urls.append(stack.enter_context(served(rig, newer, host="[2001:db8::1]")))
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

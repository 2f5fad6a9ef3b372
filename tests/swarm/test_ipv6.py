"""Swarms over IPv6: on the loopback, and on machines that have nothing else."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from links import missing, network
from support.clients import (
    ARIA2,
    SOON,
    needs,
    only_ipv6,
    pull_together,
    served,
)
from support.crowd import LOOPBACK_6, Rig, together
from support.trees import assert_same

from chunkstore.objects import torrent as torrents
from chunkstore.swarm.announce import Announce, Peer, parse_reply
from chunkstore.swarm.settings import parse_network


@pytest.fixture(autouse=True)
def _has_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"needs IPv6 on the loopback: {error.strerror}")


@pytest.mark.usefixtures("patient")
def test_nodes_exchange_a_pack(rig: Rig):
    """The seed's line is narrow, so that the nodes have to help each other."""
    with rig.server(limit=2_000_000, session=LOOPBACK_6) as url:
        assert url.startswith("http://[::1]:")
        nodes = [rig.node(f"n{number}", session=LOOPBACK_6) for number in range(2)]
        reports = together([lambda node=node: node.pull(url) for node in nodes])
        size = rig.largest().size
        for node, report in zip(nodes, reports, strict=True):
            assert_same(rig.tree, node.directory)
            assert report.swarm.from_peers + report.swarm.from_seed >= 0.95 * size, node.remarks
            assert report.received < 0.05 * size
        # One of them may have been so far ahead that the other had nothing for it.
        assert sum(report.swarm.from_peers for report in reports) > 0
        assert sum(report.swarm.from_seed for report in reports) > 0


def test_the_tracker_tells_of_peers_by_their_own_field(rig: Rig):
    found = rig.largest()
    with rig.server(session=LOOPBACK_6) as url:
        torrent = torrents.parse(
            urlopen(f"{url}/packs/{found.pack.hex()}.torrent").read(), found.pack, "here"
        )
        assert torrent.trackers == (f"{url}/announce",)
        for port in (7001, 7002):
            said = Announce(found.info_hash, b"x" * 20, port, 1)
            body = urlopen(f"{url}/announce?{said.query}").read()
        reply = parse_reply(body, "here")
    assert b"5:peers0:" in body
    here = socket.inet_pton(socket.AF_INET6, "::1")
    assert reply.first is not None
    assert set(reply.peers) == {reply.first, Peer(here, 7001)}
    assert reply.first.address == here


def test_peers_of_other_networks_do_not_count(rig: Rig):
    session = LOOPBACK_6._replace(networks=(parse_network("fd00::/8"),))
    node = rig.node("node", session=session)
    with rig.server(session=LOOPBACK_6) as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.from_peers == report.swarm.from_seed == 0


@needs("aria2c", "aria2")
def test_aria2_downloads_a_pack(rig: Rig, tmp_path: Path):
    found = rig.largest()
    with rig.server(session=LOOPBACK_6) as url:
        subprocess.run(
            [*ARIA2, f"--dir={tmp_path}", f"{url}/packs/{found.pack.hex()}.torrent"],
            check=True,
            timeout=SOON,
        )
    assert (tmp_path / found.name).read_bytes() == rig.data(found)


def test_machines_that_have_nothing_else(rig: Rig, tmp_path: Path):
    """Whole programs, listening wherever they do by themselves."""
    if reason := missing():
        pytest.skip(reason)
    with network() as net, ExitStack() as stack:
        head, *others = (net.machine(up=100.0, down=100.0) for _ in range(3))
        for number, machine in enumerate((head, *others), 1):
            only_ipv6(machine, f"2001:db8::{number}")
        options = ("--limit-upload", "3M")
        url = stack.enter_context(served(rig, head, *options, host="[2001:db8::1]"))
        pull_together(rig, others, url, tmp_path)

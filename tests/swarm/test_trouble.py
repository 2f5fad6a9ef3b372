"""No swarm, for whatever reason: a pull goes on over HTTP, by itself."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.crowd import LOOPBACK, Rig, whole
from support.peers import Peer
from support.trees import assert_same

from chunkstore.errors import TransferError
from chunkstore.storage import layout
from chunkstore.storage.backends import http
from chunkstore.swarm.settings import parse_network

pytestmark = pytest.mark.usefixtures("impatient")
NOWHERE = ("http://127.0.0.1:9/announce",)


def test_a_dead_tracker_is_no_trouble(rig: Rig):
    node = rig.node("node", trackers=NOWHERE)
    with rig.server() as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.from_peers == report.swarm.from_seed == 0
    assert any("127.0.0.1:9" in remark for remark in node.remarks)


def test_nobody_there_is_no_trouble(rig: Rig):
    node = rig.node("node")
    with rig.server(seeds=False) as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert any("nobody has it" in remark for remark in node.remarks)
    size = rig.largest().size
    assert size <= report.received < size + 200_000


def test_peers_of_other_networks_do_not_count(rig: Rig):
    session = LOOPBACK._replace(networks=(parse_network("10.0.0.0/8"),))
    node = rig.node("node", session=session)
    with rig.server() as url:
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.from_peers == report.swarm.from_seed == 0


def test_a_cache_that_is_full_or_no_directory_is_no_trouble(rig: Rig, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "open").mkdir()
    os.mkdir(tmp_path / "open/imgstore-swarm")
    os.chmod(tmp_path / "open/imgstore-swarm", 0o777)
    with rig.server() as url:
        for number, settings in enumerate(
            [
                {"cache_size": 1_000_000},
                {"staging": str(tmp_path / "file")},
                {"staging": str(tmp_path / "open")},
            ]
        ):
            node = rig.node(f"n{number}", **settings)
            report = node.pull(url)
            assert_same(rig.tree, node.directory)
            assert report.swarm.packs == 0
            assert node.remarks


def test_a_port_that_is_taken_is_no_trouble(rig: Rig):
    with rig.server() as url, closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        session = LOOPBACK._replace(ports=(port, port))
        node = rig.node("node", session=session)
        report = node.pull(url)
    assert_same(rig.tree, node.directory)
    assert report.swarm.packs == 0
    assert any(f"no port from {port}" in remark for remark in node.remarks)


def test_no_server_and_no_swarm_is_an_error_at_last(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)
    found = rig.largest()
    node = rig.node("node")
    with rig.server(seeds=False) as url:
        server, reader = node.reads(url)
        reader.foresee(whole(found))
    with closing(server), closing(reader), pytest.raises(TransferError):
        reader.get(layout.pack(found.pack), 0, 1000)


def test_who_waits_can_be_let_go(rig: Rig):
    found = rig.largest()
    name = layout.pack(found.pack)
    node = rig.node("node")
    with rig.server(seeds=False) as url, Peer(found, b"", lambda *_: None) as peer:
        peer.announce(f"{url}/announce")
        server, reader = node.reads(url)
        with closing(server), closing(reader):
            reader.foresee(whole(found))
            ended: list[BaseException] = []

            def wait() -> None:
                try:
                    reader.get(name, 0, found.size)
                except TransferError as error:
                    ended.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            reader.abandon()
            thread.join(20)
            assert not thread.is_alive()

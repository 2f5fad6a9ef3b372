"""Peers come from the tracker alone: nothing is called into the network, nor told to strangers."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from links import Machine, missing, network
from support.crowd import LOOPBACK, Rig
from support.program import environment

from chunkstore.swarm.session import Session

LISTENS = """
import socket, sys, time
from pathlib import Path

import libtorrent
from chunkstore.objects import bencode, torrent
from chunkstore.swarm import session
from chunkstore.swarm.settings import SessionSettings

address, path, place = sys.argv[1:]
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.settimeout(30)
pack = bytes.fromhex(Path(path).stem)
found = torrent.parse(Path(path).read_bytes(), pack, path)
settings = SessionSettings((address,), (20_000, 29_999))
ours = session.Session(settings)
ours.fetch(found, place, [1] * found.pieces)
# The same with everything switched on that a client has to find peers by itself.
session.TUNING.update(enable_dht=True, enable_lsd=True)
other = session.Session(settings)
other.fetch(found, place + "/other", [1] * found.pieces)
for each in (ours, other):
    handle = each._handles[pack]
    handle.force_dht_announce()
    getattr(handle, "force_lsd_announce", lambda: None)()


def public(name):
    # Something like our torrent, but not private, and so of another name.
    fields = bencode.decode(found.encode(), path)
    del fields[b"info"][b"private"]
    fields[b"info"][b"name"] = name
    made = libtorrent.load_torrent_buffer(bencode.encode(fields))
    made.save_path = place
    made.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    return made

quiet = str(ours._session.add_torrent(public(b"quiet")).info_hash())
loud = str(other._session.add_torrent(public(b"loud")).info_hash())
said = b""
# What is called out last. Once that is heard, nothing else is to come.
while loud.encode() not in said.lower():
    frame = heard.recv(4096)
    if frame[12:14] == b"\\x08\\0" and frame[23] == 17:
        said += frame[42:]
for name in (quiet, found.info_hash.hex()):
    assert name.encode() not in said.lower(), said
print("nothing was said")
"""


def lonely(machine: Machine, *command: str) -> subprocess.CompletedProcess[str]:
    # Where multicast goes without a router.
    machine.run("ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
    inside = ["ip", "netns", "exec", machine.name, *command]
    return subprocess.run(
        inside, env=environment(), capture_output=True, text=True, check=False, timeout=60
    )


def test_no_torrent_of_ours_is_called_into_the_network(rig: Rig, tmp_path: Path):
    """Not by our settings, which nothing is called out with; and not by our torrents, which forbid
    it to whoever would."""
    if reason := missing():
        pytest.skip(reason)
    found = rig.largest()
    path = rig.root / "packs" / f"{found.pack.hex()}.torrent"
    (tmp_path / "other").mkdir()
    with network() as net:
        machine = net.machine(up=100.0, down=100.0)
        ended = lonely(
            *(machine, sys.executable, "-c", LISTENS),
            *(machine.address, str(path), str(tmp_path)),
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "nothing was said\n"


def test_peers_are_not_told_of_each_other(rig: Rig, tmp_path: Path):
    """A client that speaks extensions is offered some, the exchange of peers not among them."""
    found = rig.largest()
    with closing(Session(LOOPBACK)) as session:
        session.fetch(found, str(tmp_path), [1] * found.pieces)
        with closing(socket.create_connection(("127.0.0.1", session.port), 20)) as peer:
            peer.sendall(b"\x13BitTorrent protocol" + b"\0\0\0\0\0\x10\0\0")
            peer.sendall(found.info_hash + b"-XX0000-" + bytes(12))
            said = b""
            while b"1:md" not in said or b"1:v" not in said:
                said += peer.recv(4096)
    assert b"imgstore" in said
    assert b"ut_pex" not in said

"""The line that links are measured on: what it carries, how fast at most, how late at least."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import stores

sys.path.insert(0, str(stores.PROJECT / "bench"))
from lines import Line, lines, missing

_SEND = """
import hashlib, random, socket
content = random.Random(1).randbytes({size})
print(hashlib.sha256(content).hexdigest(), flush=True)
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as connection:
        connection.sendall(content)
"""
_RECEIVE = """
import hashlib, socket, time
begun = time.monotonic()
with socket.create_connection(("{head}", 7000)) as connection:
    connected = time.monotonic()
    content = b"".join(iter(lambda: connection.recv(65536), b""))
print(hashlib.sha256(content).hexdigest(), connected - begun, time.monotonic() - connected)
"""
SIZE = 1_000_000


@pytest.mark.parametrize("line", [Line(20, 25), Line(1000, 1)])
def test_what_it_carries_is_whole_and_neither_early_nor_too_fast(line: Line):
    """A connection takes a round trip, and bytes no less than their time at the line's speed.
    There is no upper limit here: machines are busy."""
    if reason := missing():
        pytest.skip(reason)
    with lines([line]) as (where, (node,)):
        send = [*where.inside, sys.executable, "-c", _SEND.format(size=SIZE)]
        with subprocess.Popen(send, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            sent = server.stdout.readline().strip()
            assert server.stdout.readline() == "ready\n"
            receive = [*node.inside, sys.executable, "-c", _RECEIVE.format(head=node.head)]
            said = subprocess.run(receive, check=True, capture_output=True, text=True).stdout
    digest, connecting, receiving = said.split()
    assert digest == sent
    assert float(connecting) >= 2 * line.delay / 1000
    assert float(receiving) >= SIZE * 8 / (line.mbit * 1e6)


def test_nothing_is_left_of_it():
    if reason := missing():
        pytest.skip(reason)
    with lines([Line(100, 1)]) as (where, _):
        space = where.inside[-1]
        assert space in _spaces()
    assert space not in _spaces()


def _spaces() -> str:
    return subprocess.run(
        ["ip", "netns", "list"], check=True, capture_output=True, text=True
    ).stdout

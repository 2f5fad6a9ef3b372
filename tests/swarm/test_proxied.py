"""Nodes that reach the server through nginx find each other, and the first seed, all the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from links import missing, network
from support.clients import IMGSTORE, SOON, served
from support.crowd import Rig
from support.servers import proxied
from support.trees import assert_same


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx: Debian's nginx-light")
def test_a_crowd_behind_a_proxy(rig: Rig, place: Path, tmp_path: Path):
    if reason := missing():
        pytest.skip(reason)
    with network() as net, ExitStack() as stack:
        head, *others = (net.machine(up=100.0, down=100.0) for _ in range(3))
        options = ("--proxy", "127.0.0.0/8", "--limit-upload", "2M")
        inner = stack.enter_context(served(rig, head, *options, host="127.0.0.1"))
        url = stack.enter_context(
            proxied(inner, place, head.address, partial(head.start, stderr=subprocess.DEVNULL))
        )
        nodes = [tmp_path / name for name in ("one", "two")]
        command = [*IMGSTORE, "--json", "pull", "--trust-first", f"{url}/web", "--no-seed"]
        command += ["--transport", "swarm"]
        processes = [
            machine.start([*command, str(node)], stdout=subprocess.PIPE)
            for machine, node in zip(others, nodes, strict=True)
        ]
        for process, node in zip(processes, nodes, strict=True):
            swarm = json.loads(process.communicate(timeout=SOON)[0])["swarm"]
            assert process.returncode == 0
            assert_same(rig.tree, node)
            assert swarm["from_peers"] > 0
            assert swarm["from_seed"] > 0

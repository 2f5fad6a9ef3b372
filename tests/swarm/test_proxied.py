"""Nodes that reach the server through nginx find each other, and the first seed, all the same."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from links import missing, network
from support.clients import pull_together, served
from support.crowd import Rig
from support.servers import proxied


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
        pull_together(rig, others, url, tmp_path)

"""A small crowd, each on a machine of its own, whole programs from start to end: the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import stores

sys.path.insert(0, str(stores.PROJECT / "bench/swarm"))
from links import missing


def crowd(tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    """Run it; what came of each contender."""
    pytest.importorskip("libtorrent", reason="needs libtorrent: pip install imgstore[swarm]")
    if reason := missing():
        pytest.skip(reason)
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(stores.PROJECT / "bench/swarm/run.py"), *options]
    command += ["--work", str(tmp_path), "--json", str(figures)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: list[dict[str, Any]] = json.loads(figures.read_text())
    for row in found:
        assert (row["unfinished"], row["wrong"]) == (0, 0), ended.stdout
    return found


def test_the_server_sends_few_copies_and_its_death_is_survived(tmp_path: Path):
    """Four nodes. Over HTTP the server sends four copies, in the swarm fewer; and it may die, or a
    peer send rubbish, and the nodes come to the same end."""
    found = crowd(
        *(tmp_path, "--nodes", "4", "--mbit", "16", "--size", "6", "--only", "swarm"),
        *("--trouble", "server", "--trouble", "corrupt"),
    )
    died, corrupted = found
    assert any("server killed" in remark for remark in died["remarks"])
    assert died["copies"] < 3.5
    assert corrupted["copies"] < 3.5


def test_what_was_killed_goes_on(tmp_path: Path):
    found = crowd(
        *(tmp_path, "--nodes", "4", "--mbit", "16", "--size", "6"),
        *("--only", "swarm", "--trouble", "killed"),
    )
    assert any("killed at" in remark for remark in found[0]["remarks"])

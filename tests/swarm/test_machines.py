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
import results
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


def test_what_would_last_too_long_is_computed_and_says_so(tmp_path: Path):
    (found,) = crowd(
        *(tmp_path, "--nodes", "9", "--mbit", "8", "--size", "0.5"),
        *("--only", "http", "--longest", "0.1"),
    )
    assert found["computed"]
    assert found["last"] == pytest.approx(9 * found["size"] / 1e6, abs=0.01)
    page = results.markdown([{**found, "load": 0.5}])
    assert "| 9 | HTTP (computed) | 8 | 0.4 |  |  | 3.6 |" in page


def test_results_of_several_runs_stand_together():
    def row(nodes: int, contender: str, **other: Any) -> dict[str, Any]:
        usual = {"mbit": 4.0, "trouble": "", "size": 10**7, "last": 9.0}
        return {"nodes": nodes, "contender": contender, **usual, **other}

    old = [row(4, "swarm"), row(1, "http"), row(4, "swarm", trouble="late")]
    new = [row(4, "swarm", last=7.0), row(4, "http"), row(4, "swarm", size=25 * 10**6)]
    found = results.merged(old, new)
    assert found == [old[1], new[1], new[0], old[2], new[2]]

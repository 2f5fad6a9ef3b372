"""The benchmark in small, from its command line to the page: so that it still runs when needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import stores

sys.path.insert(0, str(stores.PROJECT / "bench"))
import report

FILES = 200


def bench(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run it on a tree of its own; the file of results, and what it printed."""
    if os.geteuid():
        pytest.skip("needs root: the benchmark keeps owners and devices")
    results = tmp_path / "results.json"
    command = [sys.executable, str(stores.PROJECT / "bench" / "run.py"), "--small", "--no-real"]
    command += ["--files", str(FILES), "--work", str(tmp_path / "work")]
    command += ["--sparse", "64000000", "--results", str(results), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not (tmp_path / "work").exists()
    return json.loads(results.read_text()), ended.stdout


def keys(document: dict[str, Any]) -> list[str]:
    return [table["scenario"] for table in document["tables"]]


def test_tables_come_out_and_pieces_are_put_together(tmp_path: Path):
    """Two runs of one scenario each make a file with the tables of both, in the order of the
    page; the aims are told of what has been measured, and only of that."""
    found, printed = bench(tmp_path, "--peers", "", "--only", "update")
    assert keys(found) == ["update", "update-edit"]
    for table in found["tables"]:
        ours = next(row for row in table["contenders"] if row["name"] == "imgstore")
        assert ours["median"]["wall"] > 0
        assert ours["median"]["requests"] > 0
    upgrade = found["tables"][0]["contenders"]
    assert {row["differences"] for row in upgrade if row["name"].startswith("imgstore")} == {0}
    assert "### Update pull of an upgrade" in printed
    assert "| first commit with lz4 within 1.2 times `tar`, `lz4` | not measured |  |" in printed

    found, printed = bench(tmp_path, "--peers", "", "--only", "first")
    assert keys(found) == ["first", "update", "update-edit"]
    assert "| first commit with lz4 within 1.2 times `tar`, `lz4` | not measured |" not in printed
    stored = {row["name"]: row["median"] for row in found["tables"][0]["contenders"]}
    assert stored["imgstore"]["bytes"] < stored["imgstore, lz4"]["bytes"]


def test_results_of_other_trees_are_not_mixed():
    earlier = report.read(report.MAIN)
    trees = {**earlier["trees"], "BEFORE": {"entries": 1, "files": 1, "bytes": 1}}
    with pytest.raises(report.OtherTrees, match="is of other trees: remove it"):
        report.merge({**earlier, "trees": trees}, earlier, report.MAIN)
    assert report.merge(earlier, earlier, report.MAIN) == earlier


def test_the_page_is_made_of_the_results(tmp_path: Path):
    """What is committed of both belongs together: no table was edited by hand."""
    page = stores.PROJECT / "docs" / "performance.md"
    kept = page.read_bytes()
    for name in ("bench", "docs"):
        shutil.copytree(stores.PROJECT / name, tmp_path / name)
    subprocess.run([sys.executable, str(tmp_path / "bench" / "report.py")], check=True)
    assert (tmp_path / "docs" / "performance.md").read_bytes() == kept


@pytest.mark.campaign
def test_every_scenario_comes_to_its_end(tmp_path: Path):
    found, _ = bench(tmp_path)
    assert all(row["median"] for table in found["tables"] for row in table["contenders"])

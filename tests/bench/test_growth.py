"""Growth in small: every verb is measured, and what is on the page is told of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import stores

sys.path.insert(0, str(stores.PROJECT / "bench"))
from growth_report import JOBS, growth_text


def test_tables_and_a_picture_come_out(tmp_path: Path):
    if os.geteuid():
        pytest.skip("needs root: the benchmark keeps owners")
    results = tmp_path / "results.json"
    command = [sys.executable, str(stores.PROJECT / "bench" / "growth.py")]
    command += ["--files", "200", "--versions", "", "--runs", "1", "--results", str(results)]
    command += ["--work", str(tmp_path / "work")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not (tmp_path / "work").exists()
    document = json.loads(results.read_text())
    measured = {
        (table["scenario"], row["name"])
        for table in document["files"]["200"]["tables"]
        for row in table["contenders"]
        if row["median"]
    }
    ours = {(job.key, job.contender) for job in JOBS if job.contender == "imgstore"}
    assert ours <= measured
    # The same figures for ten times the files are a tenth of the cost of each.
    document["files"]["2000"] = document["files"]["200"]
    picture = tmp_path / "growth.svg"
    text = growth_text(document, picture)
    row, *_ = [line for line in text.split("per file")[1].splitlines() if "first commit" in line]
    few, many = map(float, row.split("|")[2:4])
    assert few == pytest.approx(10 * many, rel=0.05)
    assert picture.read_text().count("<polyline") == len(
        [job for job in JOBS if job.color and (job.key, job.contender) in measured]
    )

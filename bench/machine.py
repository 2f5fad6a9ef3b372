"""What the figures depend on: the machine, its programs, the trees."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import MB

PROGRAMS = [
    ["tar", "--version"],
    ["gzip", "--version"],
    ["pigz", "--version"],
    ["zstd", "--version"],
    ["lz4", "--version"],
    ["rsync", "--version"],
    ["casync", "--version"],
    ["restic", "version"],
    ["borg", "--version"],
    ["ostree", "--version"],
    ["zck", "--version"],
    ["nginx", "-v"],
    ["curl", "--version"],
]
"""Commands that print a version."""


def machine(work: Path, programs: Sequence[Sequence[str]] = PROGRAMS) -> dict[str, Any]:
    """The machine that `work` is on. `programs` are commands that print a version."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    kind = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE", "-T", work], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": int(memory[1]) // 1000 if memory else None,
        "kernel": platform.release(),
        "file_system": next(iter(kind.stdout.split()), ""),
        "python": platform.python_version(),
        "python_build": sys.version.partition("[")[2].rstrip("]"),
        "load": [round(load, 2) for load in os.getloadavg()],
        "programs": {program[0]: _version(program) for program in programs},
    }


def _version(program: Sequence[str]) -> str:
    try:
        done = subprocess.run(program, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "missing"
    said = done.stdout or done.stderr
    match = re.search(r"\d+(\.\d+)+", said) or re.search(r"\d+", said)
    return match[0] if match else "unknown"


def machine_text(
    described: dict[str, Any], trees: dict[str, dict[str, int]], runs: int | None = None
) -> str:
    """The machine and the trees in a paragraph each; with `runs` also what holds for all tables."""
    versions = described["programs"].items()
    programs = ", ".join(f"{name} {found}" for name, found in versions if found != "missing")
    when = ""
    if runs is not None:
        times = f"medians of {runs} {'run' if runs == 1 else 'runs'}"
        when = f"Load when it began {described['load'][0]}, {times}. "
    text = (
        f"{described['cpu']}, {described['cores']} cores, {described['memory_mb'] / 1000:.0f} GB; "
        f"Linux {described['kernel']}, {described['file_system']}; Python {described['python']}. "
        f"{when}{programs}.\n"
    )
    if not trees:
        return text
    text += "\n| tree | entries | files | MB |\n| --- | ---: | ---: | ---: |\n"
    return text + "".join(
        f"| {name} | {count['entries']:,} | {count['files']:,} | {count['bytes'] / MB:,.0f} |\n"
        for name, count in trees.items()
    )

"""The directory that a long measurement fills, and takes away again however it ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import Command, run


def add_work(parser: argparse.ArgumentParser, name: str) -> None:
    """The option that says where it is; by default `name` where large things may lie."""
    parser.add_argument("--work", type=Path, default=Path("/var/tmp") / name)


def check_work(parser: argparse.ArgumentParser, work: Path) -> None:
    """Refuse whoever can't make the trees, and a directory that is somebody's."""
    if os.geteuid() != 0:
        parser.error("needs root: owners and devices are part of a tree")
    if work.exists() and any(work.iterdir()):
        parser.error(f"{work} is not empty: name a directory that may be filled and removed")


@contextmanager
def working_in(work: Path) -> Iterator[Path]:
    """The directory, made; removed at the end, also when somebody ends this by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place = work.resolve()
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        run(Command(["rm", "-rf", "--one-file-system", str(place)]))

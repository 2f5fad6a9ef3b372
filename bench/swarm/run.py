"""How long a crowd takes to update: plain HTTP, the swarm, and an rsync daemon.

    sudo .venv/bin/python bench/swarm/run.py [--trees BEFORE AFTER] [--nodes 1,4,16,48] ...

One server and N nodes are network namespaces on one bridge, every link shaped both ways. All nodes
update in the same moment. Beside the seconds stands the fluid lower bound: with F bytes, a server
that sends u_s and nodes that send u_i and receive d, nothing is quicker than
max(F/u_s, F/d, N*F/(u_s + sum u_i)).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from crowd import Crowd
from links import missing
from outcome import Outcome, Setting, computed, one_by_one, show
from picture import write_plot
from results import markdown, merged
from tables import write_between_markers
from update import PROJECT, Update, make

RESULTS = PROJECT / "bench/results/swarm.json"
PAGE = PROJECT / "docs/performance.md"
PICTURE = PROJECT / "docs/swarm.svg"

CONTENDERS = ("http", "swarm", "rsync")
TROUBLES = ("killed", "corrupt", "server", "late", "loss")
WIDE = 32
"""Nodes beyond which links are narrower: the processors have to keep up with all of them."""


def main() -> int:
    options = _options()
    if reason := missing():
        print(f"no namespaces here: {reason}", file=sys.stderr)
        return 7
    # Whoever ends this leaves no namespaces behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    place = Path(tempfile.mkdtemp(prefix="imgstore-swarm-", dir=options.work))
    try:
        outcomes = _run(options, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    documents = [outcome.document() for outcome in outcomes]
    if options.write_docs:
        _write_docs(documents, adds=options.add)
    if options.json:
        Path(options.json).write_text(json.dumps(documents, indent=1) + "\n")
    if options.plot:
        write_plot(Path(options.plot), documents)
    bad = [o for o in outcomes if o.unfinished or o.wrong]
    return 1 if bad else 0


def _write_docs(documents: list[dict[str, Any]], *, adds: bool) -> None:
    """Put them into the project, beside what earlier runs have measured if it `adds`."""
    before = json.loads(RESULTS.read_text()) if adds else []
    rows = merged(before, documents)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_between_markers(PAGE, markdown(rows), "swarm")
    write_plot(PICTURE, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", default="1,4,16,48", help="how many, separated by commas")
    parser.add_argument("--mbit", type=float, default=10.0, help="of every link, both ways")
    parser.add_argument("--wide-mbit", type=float, default=4.0, help=f"with more than {WIDE} nodes")
    parser.add_argument("--size", type=float, default=25.0, help="megabytes of the update")
    parser.add_argument("--wide-size", type=float, default=10.0, help=f"with more than {WIDE}")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="repeatable")
    parser.add_argument("--trouble", action="append", choices=TROUBLES, default=[])
    parser.add_argument("--trees", nargs=2, type=Path, help="an image before and after an upgrade")
    parser.add_argument("--work", default="/dev/shm", help="where to keep all of it")
    parser.add_argument("--json", help="write the figures there")
    parser.add_argument(
        "--longest",
        type=float,
        default=400.0,
        help="seconds; what the server's line makes last longer over HTTP or rsync is computed",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put results, table and picture into the project"
    )
    parser.add_argument("--add", action="store_true", help="to what --write-docs wrote before")
    parser.add_argument("--plot", help="write a picture of the last node's time against N there")
    return parser.parse_args()


def _run(options: argparse.Namespace, place: Path) -> list[Outcome]:
    updates: dict[float, Update] = {}
    outcomes = []
    for count in map(int, options.nodes.split(",")):
        is_wide = count > WIDE
        size = options.wide_size if is_wide else options.size
        mbit = options.wide_mbit if is_wide else options.mbit
        if size not in updates:
            updates[size] = make(place / f"update-{size:g}", int(size * 1e6), options.trees)
        for contender in options.only or CONTENDERS:
            troubles = options.trouble if contender == "swarm" and options.trouble else [""]
            for trouble in troubles:
                setting = Setting(count, mbit, mbit, mbit, trouble)
                outcomes.append(_of_one(options, place / "run", updates[size], contender, setting))
                print(show(outcomes[-1]), flush=True)
                for remark in outcomes[-1].remarks:
                    print(f"    {remark}", flush=True)
    return outcomes


def _of_one(
    options: argparse.Namespace, place: Path, update: Update, contender: str, setting: Setting
) -> Outcome:
    if contender != "swarm" and one_by_one(setting, update.size) > options.longest:
        return computed(contender, setting, update.size)
    return Crowd(place, update, contender, setting).run()


if __name__ == "__main__":
    sys.exit(main())

"""`imgstore swarm`: what a remote's tracker sees."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import closing
from typing import Any

from chunkstore.errors import Corrupt, NotFound, Usage
from chunkstore.objects.digest import parse_hex
from imgstore.output import Output
from imgstore.readable import human, table
from imgstore.remotes import remote_reader

_MAX_STATUS = 16 * 1024 * 1024
_FIGURES = ("seeds", "leechers", "finished", "peers_rate", "server_rate", "server_sent")


def run(options: Namespace, output: Output) -> int:
    """List the packs somebody is fetching or giving."""
    if "://" not in options.remote:
        raise Usage(f"{options.remote}: only a server has swarms; write http://HOST:PORT")
    with closing(remote_reader(options.remote, options)) as reader:
        try:
            data = reader.get("swarm", 0, _MAX_STATUS)
        except NotFound as error:
            raise NotFound(
                f"{options.remote} is no tracker: 'imgstore serve' is one", name="swarm"
            ) from error
    rows = _rows(data, options.remote)
    if output.as_json:
        output.document({"remote": options.remote, "packs": rows})
    elif rows:
        shown = [
            (
                row["pack"][:12],
                str(row["seeds"]),
                str(row["leechers"]),
                str(row["finished"]),
                f"{human(row['peers_rate'])}/s",
                f"{human(row['server_rate'])}/s",
                human(row["server_sent"]),
            )
            for row in rows
        ]
        head = ("PACK", "SEEDS", "LEECHERS", "DONE", "FROM PEERS", "FROM SERVER", "SENT")
        for line in table([head, *shown], right=range(1, 7)):
            output.line(line)
    else:
        output.note(f"nobody is in a swarm of {options.remote}")
    return 0


def _rows(data: bytes, remote: str) -> list[dict[str, Any]]:
    """What the server said, as far as it makes sense. Raises `Corrupt`."""
    try:
        return [
            {
                "pack": parse_hex(str(row["pack"])).hex(),
                **{name: int(row[name]) for name in _FIGURES},
            }
            for row in json.loads(data)["packs"]
        ]
    except (ValueError, TypeError, LookupError, RecursionError, Corrupt) as error:
        raise Corrupt(f"{remote}: its answer makes no sense", where=remote) from error

"""A peer that has every pack of a store, it says, and sends zeros: STORE ADDRESS TRACKER."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.peers import Peer, corrupt

from chunkstore.objects import torrent


def main(store: Path, address: str, tracker: str) -> None:
    """Be in all swarms until somebody ends it."""
    with ExitStack() as stack:
        peers = []
        for path in sorted(store.glob("packs/*.torrent")):
            found = torrent.parse(path.read_bytes(), bytes.fromhex(path.stem), path.name)
            data = path.with_suffix(".pack").read_bytes()
            peers.append(stack.enter_context(Peer(found, data, corrupt, address)))
        while True:
            for peer in peers:
                peer.announce(tracker)
            time.sleep(15)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])

"""Scans of one tree, again and again, and what is in it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from chunkstore.fsio import Directory
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.scan import Found, Scan, ScanReport

IDENTITY: list[bytes | int] = [b"the same worktree"]


class Scanner:
    """Scans one tree again and again with its cache."""

    def __init__(self, tree: Path, cache: Path) -> None:
        self.tree = tree
        self.cache = cache
        self.report = ScanReport()

    def __call__(self, *excludes: bytes, now: int | None = None) -> dict[bytes, str]:
        """Path to `found`, `gone` or the first path of its group."""
        cache = WorktreeCache(str(self.cache), spool=str(self.cache.parent))
        cache.load(IDENTITY)
        with Directory(str(self.tree)) as directory:
            now = time.time_ns() if now is None else now
            scan = Scan(directory, cache, Patterns(excludes), now=now)
            items = [
                (item.path, item.link if isinstance(item, Found) else b"gone") for item in scan
            ]
        cache.save(IDENTITY, scan.links, identity_changed=False)
        self.report = scan.report
        keys = [path.replace(b"/", b"\0") for path, _ in items]
        assert keys == sorted(set(keys)), "paths come once, in entry order"
        return {path: link.decode() or "found" for path, link in items}


def everything(tree: Path) -> set[bytes]:
    top = os.fsencode(tree)
    found = {b""}
    for above, folders, names in os.walk(top):
        found |= {os.path.relpath(os.path.join(above, name), top) for name in folders + names}
    return found

"""The nodes of manifests and chunk lists that a pulled tree keeps in its state.

Promises: what is handed out has its digest. `read_only`, what is added is there until the end of
the process, and nothing of it is written. Errors are those of `facts`, in whose file they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from chunkstore.database import transaction
from chunkstore.objects.digest import chunk_digest

SCHEMA: Final = "CREATE TABLE IF NOT EXISTS node (digest BLOB PRIMARY KEY, data BLOB NOT NULL);"
FRESH: Final = "CREATE TEMP TABLE fresh (digest BLOB PRIMARY KEY, data BLOB NOT NULL);"
"""Nodes that were only looked at: those of a dry run."""


class Nodes:
    """The nodes in an open database, whose errors `declared` turns into ours."""

    def __init__(
        self,
        database: sqlite3.Connection,
        declared: Callable[[], AbstractContextManager[None]],
        *,
        read_only: bool,
    ) -> None:
        self._database = database
        self._declared = declared
        self._read_only = read_only

    def get(self, digest: bytes) -> bytes | None:
        """A node, if it is here, and whole."""
        for table in ("node", "fresh") if self._read_only else ("node",):
            with self._declared():
                row = self._database.execute(
                    f"SELECT data FROM {table} WHERE digest = ?", (digest,)
                ).fetchone()
            if row is not None:
                data = row[0]
                return data if type(data) is bytes and chunk_digest(data) == digest else None
        return None

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Which of these nodes are not here."""
        query = (
            "SELECT 1 FROM node WHERE digest = ?1 UNION ALL SELECT 1 FROM fresh WHERE digest = ?1"
        )
        run = self._database.execute
        with self._declared():
            return [digest for digest in digests if run(query, (digest,)).fetchone() is None]

    def add(self, nodes: Mapping[bytes, bytes]) -> None:
        """Keep nodes whose digests were checked, all of them or none."""
        table = "fresh" if self._read_only else "node"
        with self._declared(), transaction(self._database):
            self._database.executemany(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", nodes.items()
            )

    def count(self) -> int:
        """How many are kept."""
        with self._declared():
            count: int = self._database.execute("SELECT count(*) FROM node").fetchone()[0]
        return count

    def keep(self, digests: Iterable[bytes]) -> None:
        """Drop all but these."""
        run = self._database.execute
        with self._declared():
            run("CREATE TEMP TABLE kept (digest BLOB PRIMARY KEY) WITHOUT ROWID")
            self._database.executemany(
                "INSERT OR IGNORE INTO kept VALUES (?)", ((digest,) for digest in digests)
            )
            run("DELETE FROM node WHERE digest NOT IN (SELECT digest FROM kept)")
            run("DROP TABLE kept")

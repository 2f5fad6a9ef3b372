"""The nodes of manifests and chunk lists that a pulled tree keeps in its state.

Promises: what is handed out has its digest. `read_only`, what is added is there until the end of
the process, and nothing of it is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from chunkstore.errors import LocalError
from chunkstore.objects.digest import chunk_digest

SCHEMA: Final = "CREATE TABLE IF NOT EXISTS node (digest BLOB PRIMARY KEY, data BLOB NOT NULL);"
FRESH: Final = "CREATE TEMP TABLE fresh (digest BLOB PRIMARY KEY, data BLOB NOT NULL);"
"""Nodes that were only looked at: those of a dry run."""


class Nodes:
    """The nodes in an open database."""

    def __init__(self, database: sqlite3.Connection, *, read_only: bool) -> None:
        self._database = database
        self._read_only = read_only

    def get(self, digest: bytes) -> bytes | None:
        """A node, if it is here, and whole."""
        row = None
        for table in ("node", "fresh") if self._read_only else ("node",):
            row = (
                row
                or self._database.execute(
                    f"SELECT data FROM {table} WHERE digest = ?", (digest,)
                ).fetchone()
            )
        return row[0] if row is not None and chunk_digest(row[0]) == digest else None

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Which of these nodes are not here."""
        return [
            digest
            for digest in digests
            if self._database.execute(
                "SELECT 1 FROM node WHERE digest = ?1 "
                "UNION ALL SELECT 1 FROM fresh WHERE digest = ?1",
                (digest,),
            ).fetchone()
            is None
        ]

    def add(self, nodes: Mapping[bytes, bytes]) -> None:
        """Keep nodes whose digests were checked. Raises `LocalError`."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            table = "fresh" if self._read_only else "node"
            self._database.executemany(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", nodes.items()
            )
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise LocalError(f"can't write the node's state: {error}") from error

    def count(self) -> int:
        """How many are kept."""
        count: int = self._database.execute("SELECT count(*) FROM node").fetchone()[0]
        return count

    def keep(self, digests: Iterable[bytes]) -> None:
        """Drop all but these."""
        run = self._database.execute
        run("CREATE TEMP TABLE kept (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.executemany(
            "INSERT OR IGNORE INTO kept VALUES (?)", ((digest,) for digest in digests)
        )
        run("DELETE FROM node WHERE digest NOT IN (SELECT digest FROM kept)")
        run("DROP TABLE kept")

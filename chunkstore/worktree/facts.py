"""The database of a node's state: facts by name, each a record, written durably and together.

Promises: what `put` returned from is there after a power cut, all of it. Every error is declared:
damage is `DamagedState`, anything else that SQLite meets `LocalError` with the system's reason.
What the facts mean is left to `node`; the nodes of manifests, in the same file, to `nodes`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from chunkstore.database import Trouble, is_damage, local_error, transaction
from chunkstore.errors import Corrupt, DamagedState, Unsupported
from chunkstore.objects import record
from chunkstore.worktree import nodes

_SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


def damaged_state(path: str) -> DamagedState:
    """What to say of a state that is not what this program wrote."""
    return DamagedState(f"{path} is damaged: pull into an empty directory instead", where=path)


@contextmanager
def state_errors(path: str) -> Iterator[None]:
    """Turn what SQLite raises inside into `DamagedState` or `LocalError`."""
    try:
        yield
    except Trouble as error:
        if is_damage(error):
            raise damaged_state(path) from error
        raise local_error(error, "can't use the node's state", path) from error


class Facts:
    """The facts in the database at `path`; None is for a node without a state, kept in memory."""

    def __init__(self, path: str | None) -> None:
        self.path = path or ":memory:"
        with self.errors():
            self.database = sqlite3.connect(self.path, isolation_level=None)
        try:
            with self.errors():
                self._prepare()
        except BaseException:
            self.database.close()
            raise

    def errors(self) -> AbstractContextManager[None]:
        """See `state_errors`."""
        return state_errors(self.path)

    def _prepare(self) -> None:
        run = self.database.execute
        run("PRAGMA temp_store=MEMORY")
        self.database.executescript(nodes.FRESH)
        # What is installed must be true after a power cut: every commit waits for the disk,
        # and for the directory, too. Else the rollback journal could be there again.
        run("PRAGMA synchronous=EXTRA")
        found = run("PRAGMA user_version").fetchone()[0]
        if found not in (0, _SCHEMA_VERSION):
            raise Unsupported(
                f"{self.path}: state of version {found}, this program knows {_SCHEMA_VERSION}: "
                "pull into an empty directory instead",
                where=self.path,
            )
        if not found:
            self.database.executescript(_SCHEMA + nodes.SCHEMA)
            run(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def get(self, name: str) -> Any:
        """A fact; None when nothing of that name is known."""
        with self.errors():
            row = self.database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        try:
            return record.decode(row[0], name)
        except (Corrupt, TypeError) as error:
            raise damaged_state(self.path) from error

    def put(self, facts: Mapping[str, object]) -> None:
        """Set facts, all of them or none, durably."""
        rows = [(name, record.encode(value)) for name, value in facts.items()]
        with self.errors(), transaction(self.database):
            self.database.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", rows)

    def forget(self, name: str, *, below: str) -> None:
        """Drop a fact, and all whose name begins with `below`."""
        with self.errors():
            self.database.execute(
                "DELETE FROM fact WHERE name = ? OR substr(name, 1, ?) = ?",
                (name, len(below), below),
            )

    def close(self) -> None:
        """Close the database."""
        self.database.close()

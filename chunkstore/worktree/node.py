"""Node state: what a pulled tree knows about itself, in its own `.imgstore/` directory.

    state.sqlite      what is installed, from where; the manifest's nodes
    catalog.sqlite    where chunks lie in the remote's packs: a cache
    stage/            frames fetched and not yet used
    new/              files made and not yet renamed into place
    lock              held while a pull works

Promises: `installed` names a version only when the whole tree has been made so; while it is being
changed `pending` says into what, so a mixed tree is never taken for either. Both survive a power
cut. Losing the directory costs a new installation, never a wrong one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from chunkstore.errors import Conflict, Corrupt, LocalError, local_errors
from chunkstore.objects import record
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import STATE_DIR
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.stage import Stage

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS node (digest BLOB PRIMARY KEY, data BLOB NOT NULL);
"""


class Installed(NamedTuple):
    """A version of an image of a store, and the root of its manifest."""

    store_id: bytes
    image: str
    version: bytes
    root: NodeRef


class NodeState:
    """The state of the tree at `directory`; a context manager that holds its lock."""

    def __init__(self, directory: str) -> None:
        self._root = os.path.join(directory, os.fsdecode(STATE_DIR))
        with local_errors("can't use the node's state"):
            if not os.path.lexists(self._root):
                os.mkdir(self._root, 0o700)
            status = os.lstat(self._root)
            # Root is about to write here: a directory or link somebody else planted is no place.
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise LocalError(f"{self._root} is not a directory of ours: look who made it")
            os.chmod(self._root, 0o700)
            self._lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire()
            self._database = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another pull is at work on {os.path.dirname(self._root)}") from None

    def _open(self) -> sqlite3.Connection:
        path = self._path("state.sqlite")
        try:
            database = sqlite3.connect(path, isolation_level=None)
            # What is installed must be true after a power cut: every commit waits for the disk.
            database.execute("PRAGMA synchronous=FULL")
            found = database.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _SCHEMA_VERSION):
                raise Corrupt(f"{path}: state of version {found}, this program knows 1", where=path)
            if not found:
                database.executescript(_SCHEMA)
                database.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        except sqlite3.OperationalError as error:
            raise LocalError(f"can't open the node's state {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._damage(error) from error
        return database

    def __enter__(self) -> NodeState:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._database.close()
        os.close(self._lock)
        if isinstance(error, sqlite3.DatabaseError):
            raise self._damage(error) from error

    def _damage(self, error: Exception) -> Corrupt:
        path = self._path("state.sqlite")
        return Corrupt(
            f"{path} is damaged ({error}): pull into an empty directory instead", where=path
        )

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever pulled here."""
        return self.installed is None and self.pending is None

    @property
    def installed(self) -> Installed | None:
        """What the tree is, or was before `pending` began."""
        return self._installed("installed")

    @property
    def pending(self) -> Installed | None:
        """What the tree is being changed into; None when it is not in between."""
        return self._installed("pending")

    @property
    def halves(self) -> list[Installed]:
        """All versions the tree may hold parts of besides `installed`, `pending` among them.

        More than one, when a pull was interrupted and the next went for another version and was
        interrupted as well.
        """
        pending = self.pending
        given_up = [self._as_installed(value) for value in self._fact("given up") or ()]
        return given_up if pending is None else [*given_up, pending]

    def _installed(self, name: str) -> Installed | None:
        value = self._fact(name)
        return self._as_installed(value) if value else None

    def _as_installed(self, value: Any) -> Installed:
        try:
            store_id, image, version, root = value
            return Installed(store_id, image, version, NodeRef(*root))
        except (TypeError, ValueError) as error:
            raise self._damage(error) from error

    @property
    def source(self) -> tuple[str, str] | None:
        """Remote and SPEC of the last pull."""
        value = self._fact("source")
        return (value[0], value[1]) if value else None

    def _fact(self, name: str) -> Any:
        row = self._database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else record.decode(row[0], f"the node's state, {name}")

    def _state(self, facts: Mapping[str, object]) -> None:
        with local_errors("can't write the node's state"):
            try:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany(
                    "INSERT OR REPLACE INTO fact VALUES (?, ?)",
                    [(name, record.encode(value)) for name, value in facts.items()],
                )
                self._database.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise LocalError(f"can't write the node's state: {error}") from error

    def begin(self, target: Installed) -> None:
        """The tree is about to be changed into `target`."""
        given_up = tuple(half for half in self.halves if half != target)
        self._state({"pending": target, "given up": given_up})

    def complete(self, target: Installed, source: tuple[str, str]) -> None:
        """The tree is `target`, durably."""
        self._state({"installed": target, "pending": None, "given up": (), "source": source})

    def node(self, digest: bytes) -> bytes | None:
        """A node of a manifest or chunk list, if it is here, and whole."""
        row = self._database.execute("SELECT data FROM node WHERE digest = ?", (digest,)).fetchone()
        return row[0] if row is not None and chunk_digest(row[0]) == digest else None

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Which of these nodes are not here."""
        return [
            digest
            for digest in digests
            if self._database.execute("SELECT 1 FROM node WHERE digest = ?", (digest,)).fetchone()
            is None
        ]

    def add_nodes(self, nodes: Mapping[bytes, bytes]) -> None:
        """Keep nodes whose digests were checked."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO node VALUES (?, ?)", nodes.items())
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise LocalError(f"can't write the node's state: {error}") from error

    @property
    def nodes_kept(self) -> int:
        """How many nodes there were when the others were last dropped."""
        return self._fact("nodes kept") or 0

    def node_count(self) -> int:
        """How many nodes are kept."""
        count: int = self._database.execute("SELECT count(*) FROM node").fetchone()[0]
        return count

    def keep_nodes(self, digests: Iterable[bytes]) -> None:
        """Drop all nodes but these."""
        run = self._database.execute
        run("CREATE TEMP TABLE kept (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.executemany(
            "INSERT OR IGNORE INTO kept VALUES (?)", ((digest,) for digest in digests)
        )
        run("DELETE FROM node WHERE digest NOT IN (SELECT digest FROM kept)")
        run("DROP TABLE kept")
        self.note_nodes()

    def note_nodes(self) -> None:
        """Remember how many nodes there are now, as what the installed version needs."""
        self._state({"nodes kept": self.node_count()})

    def clear(self) -> None:
        """Remove what only a change under way needs."""
        self.fresh_directory()
        self.stage().clear()

    def catalog(self) -> Catalog:
        """Where chunks lie in the remote's packs."""
        return Catalog(self._path("catalog.sqlite"))

    def stage(self) -> Stage:
        """Where fetched frames wait."""
        return Stage(self._path("stage"))

    def fresh_directory(self) -> str:
        """An empty directory for files that are made before they are put into place."""
        path = self._path("new")
        with local_errors("can't use the node's state"):
            shutil.rmtree(path, ignore_errors=True)
            os.mkdir(path, 0o700)
        return path

    def saved_directory(self, label: str) -> str:
        """Where things of the node's own go that stand in the way of an update."""
        return os.path.join(self._root, "saved", label)

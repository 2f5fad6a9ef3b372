"""Node state: what a pulled tree knows about itself, in its own `.imgstore/` directory.

    state.sqlite      what is installed, from where; the manifest's nodes; whom to trust
    baseline.sqlite   how the system described each file when it was put there: a cache
    catalog.sqlite    where chunks lie in the remote's packs: a cache
    stage/            frames fetched and not yet used
    swarm/            packs that came from other nodes, and are given on to others
    new/              files made and not yet renamed into place
    journal           what an update still has to do to the tree
    changes           the paths an update changes, for hooks
    saved/            what was changed here and stood in an update's way
    exclude, hooks/   the administrator's
    lock              held while a pull works

Promises: `installed` names a version only when the whole tree has been made so; while it is being
changed `pending` says into what, so a mixed tree is never taken for either. Both survive a power
cut. Losing the directory costs a new installation, never a wrong one. What only a change needs is
imported with it: most pulls find nothing to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from chunkstore.errors import Conflict, Corrupt, LocalError, local_errors
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import STATE_DIR
from chunkstore.trust.memory import Memory, parse_memory
from chunkstore.worktree import journal
from chunkstore.worktree.facts import Facts, damaged_state
from chunkstore.worktree.installed import After, Installed, Layer, Source
from chunkstore.worktree.nodes import Nodes

if TYPE_CHECKING:
    from chunkstore.storage.catalog import Catalog
    from chunkstore.storage.stage import Stage
    from chunkstore.worktree.baseline import Baseline


class NodeState:
    """The state of the tree at `directory`; a context manager that holds its lock.

    `read_only` leaves all of it as it is: what is added is kept in memory, and a tree without
    state is one where nothing was ever pulled. Without `locks` facts can be read beside a pull that
    is at work, each as it is at that moment.
    """

    def __init__(self, directory: str, *, read_only: bool = False, locks: bool = True) -> None:
        self._root = os.path.join(directory, os.fsdecode(STATE_DIR))
        self._read_only = read_only
        self._lock = -1
        self._looked_up: Memory | None = None
        if read_only and not self._is_there():
            self._facts = Facts(None)
            self.nodes = Nodes(self._facts.database, self._facts.errors, read_only=True)
            return
        with local_errors("can't use the node's state"):
            if not os.path.lexists(self._root):
                os.mkdir(self._root, 0o700)
            status = os.lstat(self._root)
            # Root is about to write here: a directory or link somebody else planted is no place.
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise LocalError(f"{self._root} is not a directory of ours: look who made it")
            if stat.S_IMODE(status.st_mode) != 0o700:
                os.chmod(self._root, 0o700)
            if locks:
                self._lock = self._open_lock()
        try:
            if locks:
                self._acquire()
            self._facts = Facts(self._path("state.sqlite"))
            self.nodes = Nodes(self._facts.database, self._facts.errors, read_only=read_only)
        except BaseException:
            if locks:
                os.close(self._lock)
            raise

    def _open_lock(self) -> int:
        path = self._path("lock")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # Who only looks can do so on a file system that is mounted read-only.
            if not self._read_only or error.errno != errno.EROFS:
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _is_there(self) -> bool:
        """Whether there is a state. Raises `LocalError` when that is not for us to know."""
        with local_errors("can't use the node's state"):
            try:
                os.stat(self._path("state.sqlite"))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another pull is at work on {os.path.dirname(self._root)}") from None

    def __enter__(self) -> NodeState:
        return self

    def __exit__(self, *_: object) -> None:
        self._facts.close()
        if self._lock >= 0:
            os.close(self._lock)

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
    def previous(self) -> Installed | None:
        """What the tree was before it became `installed`."""
        return self._installed("previous")

    @property
    def token(self) -> bytes:
        """Which journal says what is left to do; empty when that of none does."""
        return self._facts.get("token") or b""

    @property
    def excludes(self) -> tuple[bytes, ...]:
        """The patterns of paths that were left out of what is installed."""
        return self._facts.get("excludes") or ()

    @property
    def after(self) -> After | None:
        """Hooks that have to run now that the tree is `installed`."""
        value = self._facts.get("after")
        return self._as_after(value) if value else None

    def _as_after(self, value: Any) -> After:
        image, old, new, commands = value
        return After(image, old, new, tuple(commands))

    @property
    def owed(self) -> After | None:
        """Hooks that have to run after a change that is made, or that was begun and not finished.

        None of them has seen the change yet, so what comes on top of it is one with it for them.
        """
        value = self._facts.get("after") or self._facts.get("pending after")
        return self._as_after(value) if value else None

    @property
    def halves(self) -> list[Installed]:
        """All versions the tree may hold parts of besides `installed`, `pending` among them.

        More than one, when a pull was interrupted and the next went for another version and was
        interrupted as well.
        """
        pending = self.pending
        given_up = [self._as_installed(value) for value in self._facts.get("given up") or ()]
        return given_up if pending is None else [*given_up, pending]

    def _installed(self, name: str) -> Installed | None:
        value = self._facts.get(name)
        return self._as_installed(value) if value else None

    def _as_installed(self, value: Any) -> Installed:
        try:
            store_id, layers, root = value
            return Installed(store_id, tuple(Layer(*layer) for layer in layers), NodeRef(*root))
        except (TypeError, ValueError) as error:
            raise damaged_state(self._facts.path) from error

    @property
    def source(self) -> Source | None:
        """Remote and SPEC of the last pull."""
        value = self._facts.get("source")
        return Source(*value) if value else None

    @property
    def memory(self) -> Memory | None:
        """What is known of the store that is trusted; None when none is."""
        if self._looked_up is not None:
            return self._looked_up
        store_id = self._facts.get("trusted")
        if store_id is not None and type(store_id) is not bytes:
            raise damaged_state(self._facts.path)
        return self.memory_of(store_id) if store_id else None

    def memory_of(self, store_id: bytes) -> Memory | None:
        """What is known of a store, trusted now or before."""
        data = self._facts.get(f"trust {store_id.hex()}")
        if not data:
            return None
        try:
            return parse_memory(data, "trust")
        except Corrupt as error:
            raise damaged_state(self._facts.path) from error

    def note_memory(self, memory: Memory) -> None:
        """From now on trust this store, and remember that of it. Durable, but in a dry run."""
        if self._read_only:
            self._looked_up = memory
            return
        store_id = memory.root.store_id
        self._facts.put({"trusted": store_id, f"trust {store_id.hex()}": memory.encode()})

    def forget_trust(self) -> None:
        """Trust no store, and forget what was known of all."""
        self._facts.forget("trusted", below="trust ")

    def begin(
        self,
        target: Installed,
        source: Source,
        token: bytes = b"",
        *,
        after: After | None = None,
    ) -> None:
        """The tree is about to be changed into `target`, as the journal of that token says.

        `after` is what has to run once it is.
        """
        given_up = tuple(half for half in self.halves if half != target)
        self._facts.put(
            {
                "pending": target,
                "token": token,
                "given up": given_up,
                "pending source": source,
                "pending after": after,
            }
        )

    @property
    def pending_source(self) -> Source | None:
        """Where what the tree is being changed into comes from."""
        value = self._facts.get("pending source")
        return Source(*value) if value else None

    def complete(
        self,
        target: Installed,
        source: Source,
        *,
        excludes: tuple[bytes, ...] = (),
    ) -> None:
        """The tree is `target`, durably, but for what `excludes` says."""
        facts: dict[str, object] = {
            "installed": target,
            "pending": None,
            "token": b"",
            "given up": (),
            "source": source,
            "excludes": excludes,
            "after": self._facts.get("pending after") or None,
            "pending after": None,
        }
        before = self.installed
        if before is not None and before != target:
            facts["previous"] = before
        self._facts.put(facts)

    def note_source(self, source: Source, *, excludes: tuple[bytes, ...] | None = None) -> None:
        """Remember another remote or SPEC for what is installed, and other patterns, if given."""
        facts: dict[str, object] = {"source": source}
        self._facts.put(facts if excludes is None else {**facts, "excludes": excludes})

    def owe(self, after: After | None, *, previous: Installed) -> None:
        """The tree is about to be put into the place of one that is `previous`."""
        self._facts.put({"after": after, "previous": previous})

    def hooks_done(self) -> None:
        """What had to run after the change has run."""
        self._facts.put({"after": None})

    @property
    def journal(self) -> str:
        """Path of the journal."""
        return self._path("journal")

    @property
    def changes(self) -> str:
        """Path of the list of changed paths."""
        return self._path("changes")

    @property
    def has_new(self) -> bool:
        """Whether there are files, or a place for them, that were not yet renamed into place."""
        return os.path.lexists(self._path("new"))

    @property
    def swarm(self) -> str:
        """Path of the cache for packs of swarms."""
        return self._path("swarm")

    def baseline(self) -> Baseline:
        """How the files of the image looked when they were put there."""
        from chunkstore.worktree.baseline import Baseline

        path = self._path("baseline.sqlite")
        if self._read_only and not os.path.exists(path):
            return Baseline(None)
        return Baseline(path, read_only=self._read_only)

    @property
    def nodes_kept(self) -> int:
        """How many nodes there were when the others were last dropped."""
        return self._facts.get("nodes kept") or 0

    def keep_nodes(self, digests: Iterable[bytes]) -> None:
        """Drop all nodes but these."""
        self.nodes.keep(digests)
        self.note_nodes()

    def note_nodes(self) -> None:
        """Remember how many nodes there are now, as what the installed version needs."""
        self._facts.put({"nodes kept": self.nodes.count()})

    def clear(self) -> None:
        """Remove what only a change under way needs."""
        self.stage().clear()
        journal.remove(self.journal)

    def catalog(self) -> Catalog:
        """Where chunks lie in the remote's packs."""
        from chunkstore.storage.catalog import Catalog

        return Catalog(None if self._read_only else self._path("catalog.sqlite"), alone=True)

    def stage(self) -> Stage:
        """Where fetched frames wait."""
        from chunkstore.storage.stage import Stage

        return Stage(self._path("stage"))

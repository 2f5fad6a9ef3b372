"""What a pull is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from chunkstore.swarm.settings import Figures, SwarmSettings
from chunkstore.trust.root import Root
from chunkstore.worktree.hooks import Listener
from chunkstore.worktree.installed import Layer
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.twin import CloneReport


class Trust(Enum):
    """Whom to believe."""

    PINNED = "pinned"
    """The store the node was told to trust, and no other."""
    FIRST = "first"
    """Likewise; but a node that trusts none yet trusts the first it sees."""
    UNSIGNED = "unsigned"
    """A store without keys, whoever has changed it; a node that trusts a store stays with that."""


@dataclass(frozen=True)
class PullOptions:
    """How to pull. Patterns and commands are those of this run; the node has more of its own.

    `stamp` names the directory for what has to be saved, `clock` is the time in nanoseconds, and
    `environment` is what hooks run with: the library reads neither the clock nor the environment.
    """

    trust: Trust = Trust.PINNED
    clock: int = 0

    mirror: bool = False
    """Make the tree exactly the version: remove what the image does not know, mend the rest."""
    dry_run: bool = False
    """Find out everything and change nothing."""
    atomic: bool = False
    """Update a clone beside the tree, and exchange the two."""
    strict: bool = False
    """What can't be set is an error, not a remark."""
    devices: bool = True
    """Whether the image may make devices."""
    excludes: tuple[bytes, ...] = ()
    pre_apply: tuple[str, ...] = ()
    post_apply: tuple[str, ...] = ()
    stamp: str = "pull"
    environment: Mapping[str, str] = field(default_factory=dict)
    listener: Listener = lambda _hook, _line: None
    """Takes what hooks print."""
    swarm: SwarmSettings | None = None
    """How to take packs from other nodes; None for the server alone."""


@dataclass
class PullReport:
    """What a pull did, or would do. Chunks are counted once, however often they occur.

    `fetched` is raw bytes, `moving` the stored ones that hold them; of the chunks
    `delta_chunks` came as differences from what was here. `received` are the bytes that
    came from the remote, everything included, in `requests`. `saved` are (old, new) paths, `kept`
    what was changed here and left alone, `left_alone` mounts that are not the image's.
    """

    layers: tuple[Layer, ...] = ()
    before: tuple[Layer, ...] = ()
    trusted: Root | None = None
    """The root that was believed on first use."""
    is_unsigned: bool = False
    """Nobody vouches for what was pulled."""
    is_changed: bool = False
    is_first: bool = False
    is_recovered: bool = False
    is_exchanged: bool = False
    """The tree of before was put back whole."""
    entries: int = 0
    changed: int = 0
    removed: int = 0
    needed_chunks: int = 0
    needed_bytes: int = 0
    local_chunks: int = 0
    local_bytes: int = 0
    fetched_chunks: int = 0
    fetched_bytes: int = 0
    delta_chunks: int = 0
    moving: int = 0
    received: int = 0
    requests: int = 0
    changes: list[tuple[str, bytes]] = field(default_factory=list)
    shortfalls: Shortfalls = field(default_factory=Shortfalls)
    saved: list[tuple[bytes, bytes]] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)
    left_alone: list[tuple[bytes, str]] = field(default_factory=list)
    shared: CloneReport | None = None
    """How the unchanged files came into a tree made beside the old one."""
    hook_error: str = ""
    """What a hook that ran after the change said, when it failed."""
    swarm: Figures = field(default_factory=Figures)
    """What came through swarms; `received` is without it."""

    @property
    def image(self) -> str:
        """The images, joined as in a SPEC."""
        return "+".join(layer.image for layer in self.layers)

    @property
    def version(self) -> bytes:
        """The version of the first layer; empty before it is known."""
        return self.layers[0].version if self.layers else b""

"""What a pull is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from chunkstore.swarm.settings import Figures, SwarmSettings
from chunkstore.trust.root import Root
from chunkstore.worktree.installed import Layer
from chunkstore.worktree.restore import Shortfalls

if TYPE_CHECKING:
    from chunkstore.worktree.hooks import Listener
    from chunkstore.worktree.twin import CloneReport

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Trust(Enum):
    """Whom to believe."""

    PINNED = "pinned"
    """The store the node was told to trust, and no other."""
    FIRST = "first"
    """Likewise; but a node that trusts none yet trusts the first it sees."""
    UNSIGNED = "unsigned"
    """A store without keys, whoever has changed it; a node that trusts a store stays with that."""


class PullOptions(NamedTuple):
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
    environment: Mapping[str, str] = _NOTHING
    listener: Listener = lambda _hook, _line: None
    """Takes what hooks print."""
    swarm: SwarmSettings | None = None
    """How to take packs from other nodes; None for the server alone."""


class PullReport:
    """What a pull did, or would do. Chunks are counted once, however often they occur.

    `fetched` is raw bytes, `moving` the stored ones that hold them; of the chunks
    `delta_chunks` came as differences from what was here. `received` are the bytes that
    came from the remote, everything included, in `requests`. `saved` are (old, new) paths, `kept`
    what was changed here and left alone, `left_alone` mounts that are not the image's.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...] = (),
        *,
        is_changed: bool = False,
        is_exchanged: bool = False,
        entries: int = 0,
    ) -> None:
        self.layers = layers
        self.before: tuple[Layer, ...] = ()
        self.trusted: Root | None = None
        """The root that was believed on first use."""
        self.is_unsigned = False
        """Nobody vouches for what was pulled."""
        self.is_changed = is_changed
        self.is_first = False
        self.is_recovered = False
        self.is_exchanged = is_exchanged
        """The tree of before was put back whole."""
        self.entries = entries
        self.changed = 0
        self.removed = 0
        self.needed_chunks = 0
        self.needed_bytes = 0
        self.local_chunks = 0
        self.local_bytes = 0
        self.fetched_chunks = 0
        self.fetched_bytes = 0
        self.delta_chunks = 0
        self.moving = 0
        self.received = 0
        self.requests = 0
        self.changes: list[tuple[str, bytes]] = []
        self.shortfalls = Shortfalls()
        self.saved: list[tuple[bytes, bytes]] = []
        self.kept: list[bytes] = []
        self.left_alone: list[tuple[bytes, str]] = []
        self.shared: CloneReport | None = None
        """How the unchanged files came into a tree made beside the old one."""
        self.hook_error = ""
        """What a hook that ran after the change said, when it failed."""
        self.swarm = Figures()
        """What came through swarms; `received` is without it."""

    @property
    def image(self) -> str:
        """The images, joined as in a SPEC."""
        return "+".join(layer.image for layer in self.layers)

    @property
    def version(self) -> bytes:
        """The version of the first layer; empty before it is known."""
        return self.layers[0].version if self.layers else b""

"""The remote's side of a pull: from a SPEC to a version, its manifest, and the way to its chunks.

Promises: what is resolved is what the store says that the node trusts, not older than what was
seen of it before, or what an unsigned store says that somebody wanted; manifest nodes come level by
level, only those the node lacks, and are kept in its state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chunkstore.errors import NotFound, Untrusted
from chunkstore.objects import manifest
from chunkstore.objects.documents import Ref, Tag
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import Spec
from chunkstore.pull.report import PullOptions, PullReport, Trust
from chunkstore.storage import believe
from chunkstore.storage.backend import Reader
from chunkstore.storage.repository import RemoteLocator, Repository, Resolved
from chunkstore.worktree.installed import Installed, Layer
from chunkstore.worktree.node import NodeState

if TYPE_CHECKING:
    from chunkstore.storage.catalog import Catalog
    from chunkstore.storage.chunks import ChunkReader

CONNECTIONS = 6
_NODES_AT_ONCE = 128


class Remote:
    """One SPEC of a remote, looked at for the node with `state`; a context manager."""

    def __init__(self, reader: Reader, specs: Sequence[Spec], state: NodeState) -> None:
        self.reader = reader
        self.specs = tuple(specs)
        self._state = state
        self.repository = Repository(reader)
        self._catalog: Catalog | None = None
        self.locator: RemoteLocator | None = None
        self._chunks: ChunkReader | None = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *failure: Any) -> None:
        # It waits for what is under way unless this was interrupted.
        if self._chunks is not None:
            self._chunks.__exit__(*failure)
        if self._catalog is not None:
            self._catalog.close()

    def refs(self, options: PullOptions, report: PullReport) -> list[Ref]:
        """The ref of each layer, if it can be believed. Raises `NotFound`, `Untrusted`.

        What was seen is remembered before anything is done with it, so that a node which fails
        later goes back behind it all the same no more.
        """
        known = self._known_before()
        if known is not None:
            return known
        with self._of_a_store():
            return self._believed(options, report)

    @contextmanager
    def _of_a_store(self) -> Iterator[None]:
        """Say so when there is no store at all, rather than that it has no such thing."""
        try:
            yield
        except NotFound:
            _ = self.repository.settings
            raise

    def _known_before(self) -> list[Ref] | None:
        """Refs that name what this tree is or was by whole ids, since that was believed then.

        So a node can go back whatever the remote's refs say by now, or when they have expired.
        """
        found = []
        states = [held for held in (self._state.installed, self._state.previous) if held]
        for spec in self.specs:
            store_id = next(
                (
                    held.store_id
                    for held in states
                    for layer in held.layers
                    if layer.image == spec.image and layer.version.hex() == spec.tag
                ),
                None,
            )
            if store_id is None:
                return None
            tag = Tag(spec.tag, bytes.fromhex(spec.tag), 0)
            found.append(Ref(store_id, spec.image, 0, 0, 0, 0, (tag,)))
        return found

    def _believed(self, options: PullOptions, report: PullReport) -> list[Ref]:
        state, images = self._state, [spec.image for spec in self.specs]
        memory = state.memory
        if memory is None and options.trust is Trust.UNSIGNED:
            refs = believe.unsigned(self.repository, images, self._store_before())
            report.is_unsigned = True
            return refs
        if memory is None and options.trust is Trust.FIRST:
            chain = believe.first_use(self.repository)
            memory = believe.settle(chain, None, clock=options.clock)
            report.trusted = memory.root
        if memory is None:
            for image in images:
                self.repository.signed_ref(image)
            raise Untrusted(
                "this directory trusts no store yet: 'imgstore trust REMOTE --key FINGERPRINT DIR' "
                "tells it which, and --trust-first takes the one that is there"
            )
        return believe.believed(
            *(self.repository, memory, images), clock=options.clock, keep=state.note_memory
        )

    def _store_before(self) -> bytes | None:
        """The store that what is here came from, if it is the same image."""
        known = self._state.installed or self._state.pending
        is_same_image = known is not None and known.layers[0].image == self.specs[0].image
        return known.store_id if known is not None and is_same_image else None

    def is_installed(self, refs: Sequence[Ref], installed: Installed) -> bool:
        """Whether the refs themselves say that what is installed is what they name."""
        if len(installed.layers) != len(self.specs):
            return False
        for layer, spec, ref in zip(installed.layers, self.specs, refs, strict=True):
            tag = ref.find(spec.tag)
            if layer.image != spec.image or spec.back or tag is None:
                return False
            if tag.version != layer.version:
                return False
        return True

    def resolve(self, refs: Sequence[Ref]) -> Installed:
        """What the tree is to become; afterwards `load` and `chunks` can be used."""
        with self._of_a_store():
            found = [
                self.repository.resolve_in(ref, spec)
                for ref, spec in zip(refs, self.specs, strict=True)
            ]
        self._open([resolved.id for resolved in found])
        root = self._manifest(found)
        layers = tuple(
            Layer(spec.image, resolved.id) for spec, resolved in zip(self.specs, found, strict=True)
        )
        return Installed(refs[0].store_id, layers, root)

    def reopen(self, target: Installed) -> None:
        """Get ready to fetch chunks of what is installed."""
        self._open([layer.version for layer in target.layers])

    def _open(self, versions: list[bytes]) -> None:
        from chunkstore.storage.chunks import ChunkReader

        self._catalog = self._state.catalog()
        self.locator = RemoteLocator(self.repository, self._catalog, *versions)
        self._chunks = ChunkReader(self.reader, self.locator, threads=CONNECTIONS)

    @property
    def chunks(self) -> ChunkReader:
        """Reads chunks of what was resolved."""
        assert self._chunks is not None
        return self._chunks

    def load(self, digest: bytes) -> bytes:
        """A node from the state, else from the remote; list nodes come only when needed."""
        data = self._state.nodes.get(digest)
        if data is None:
            data = self.chunks.get(digest)
            self._state.nodes.add({digest: data})
        return data

    def _manifest(self, versions: Sequence[Resolved]) -> NodeRef:
        from chunkstore.storage.layers import lay

        for version in versions:
            self._fetch_nodes(version.version.root)
        composed = lay(self.specs, versions, self.load)
        if composed.nodes:
            self._state.nodes.add(composed.nodes)
        return composed.root

    def _fetch_nodes(self, root: NodeRef) -> None:
        """Bring the manifest's nodes that are not here, level by level."""
        refs = [root]
        level: int | None = None
        while True:
            missing = self._state.nodes.missing(ref.digest for ref in refs)
            for start in range(0, len(missing), _NODES_AT_ONCE):
                batch = missing[start : start + _NODES_AT_ONCE]
                self._state.nodes.add(self.chunks.get_many(batch))
            level = self._node(refs[0], level).level
            if level == 0:
                return
            refs = [child for ref in refs for child in self._node(ref, level).records]
            level -= 1

    def _node(self, ref: NodeRef, level: int | None = None) -> manifest.Node:
        return manifest.read_node(ref, self.load(ref.digest), level=level)

"""Checking manifests: that every node, list node and chunk a version names is in a good pack.

Reads nodes, and of content only the catalog, since the packs were read before. Whatever is missing
is counted against the pack that should have it, by version and path. Subtrees found whole are not
opened again for another version; damaged ones are, because there they affect other paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.codec import MAX_FRAME
from chunkstore.objects.digest import HOLE
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.manifest import Node, NodeRef
from chunkstore.objects.names import printable, sort_key
from chunkstore.storage import layout
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.repository import Resolved
from chunkstore.verify.findings import Findings
from chunkstore.verify.ledger import Ledger, WholeList, WholeTree

_Held = dict[bytes, tuple[int, set[bytes]]]
"""Chunks that can be read: length, and the packs that have them."""


class Homes:
    """Sets of packs that hold some chunk, numbered, so that a set of such sets is an integer."""

    def __init__(self) -> None:
        self._numbers: dict[frozenset[bytes], int] = {}

    def bit(self, packs: Iterable[bytes]) -> int:
        """The bit of this set of packs."""
        return 1 << self._numbers.setdefault(frozenset(packs), len(self._numbers))

    def uncovered(self, homes: int, named: set[bytes]) -> int:
        """How many of these sets have no pack among the named."""
        return sum(
            homes >> number & 1 and named.isdisjoint(packs)
            for packs, number in self._numbers.items()
        )


class Trees:
    """Walks the manifests of one store. `catalog` knows where good chunks lie and no others."""

    def __init__(
        self,
        load: Callable[[bytes], bytes],
        catalog: Catalog,
        ledger: Ledger,
        homes: Homes,
        findings: Findings,
    ) -> None:
        self._load = load
        self._catalog = catalog
        self._ledger = ledger
        self._homes = homes
        self._findings = findings
        self._version = ""
        self._labels: Sequence[str] = ()

    def check(self, resolved: Resolved, labels: Sequence[str]) -> int | None:
        """The homes of all chunks of a version, or None when something is missing or malformed.

        `labels` are what to call the version.
        """
        self._version = layout.version(resolved.id)
        self._labels = labels
        whole = self._tree(resolved.version.root, None, None)
        return None if whole is None else whole.homes

    # Findings

    def _affect(self, name: str, place: str, count: int = 1) -> None:
        self._findings.affect(name, self._labels, place, count=count)

    def _lost(self, digest: bytes, place: str, count: int = 1) -> None:
        packs = self._ledger.spoilt_in(digest)
        for pack_id in packs:
            self._affect(layout.pack(pack_id), place, count)
        if not packs:
            self._findings.problem(self._version, "needs chunks that are in no pack")
            self._affect(self._version, place, count)

    def _malformed(self, place: str, error: Exception) -> None:
        self._findings.problem(self._version, "its manifest is malformed")
        self._affect(self._version, f"{place}: {error}")

    # Manifest nodes

    def _tree(self, ref: NodeRef, level: int | None, upper: bytes | None) -> WholeTree | None:
        whole = self._ledger.node(ref.digest)
        if whole is not None and _agrees(whole, ref, level, upper):
            return whole
        rest = ref.entries - 1
        place = printable(ref.first) + (f" and {rest} more from there on" if rest else "")
        held = self._catalog.holders([ref.digest])
        if ref.digest not in held:
            self._lost(ref.digest, place, ref.entries)
            return None
        try:
            node = manifest.read_node(ref, self._load(ref.digest), level=level, upper=upper)
        except (Corrupt, NotFound) as error:
            self._malformed(place, error)
            return None
        below = self._inner(node, upper) if node.level else self._leaf(node)
        if below is None:
            return None
        last, homes = below
        homes |= self._homes.bit(held[ref.digest][1])
        size = (ref.length, ref.entries, ref.size)
        whole = WholeTree(node.level, *size, ref.first, last, homes)
        self._ledger.add_node(ref.digest, whole)
        return whole

    def _inner(self, node: Node, upper: bytes | None) -> tuple[bytes, int] | None:
        bounds = [*(sort_key(child.first) for child in node.records[1:]), upper]
        pairs = zip(node.records, bounds, strict=True)
        # All of them, whatever the first ones lack: each may affect other paths.
        below = [self._tree(child, node.level - 1, bound) for child, bound in pairs]
        whole = [found for found in below if found is not None]
        if len(whole) < len(below):
            return None
        homes = 0
        for found in whole:
            homes |= found.homes
        return whole[-1].last, homes

    def _leaf(self, node: Node) -> tuple[bytes, int] | None:
        files: list[Entry] = [entry for entry in node.records if entry.kind == FILE]
        named = {digest for entry in files for digest in chunklist.inline_digests(entry.content)}
        held = self._catalog.holders(named)
        homes: int | None = 0
        for entry in files:
            found = self._file(entry, held)
            homes = None if homes is None or found is None else homes | found
        return None if homes is None else (sort_key(node.records[-1].path), homes)

    # Files

    def _file(self, entry: Entry, held: _Held) -> int | None:
        place = printable(entry.path)
        try:
            size, homes = self._records(entry.content, entry.depth, place, held)
            if size != entry.size:
                raise Corrupt(f"chunks add up to {size} bytes, not {entry.size}")
        except (Corrupt, NotFound) as error:
            self._malformed(place, error)
            return None
        return homes

    def _records(
        self, records: bytes, depth: int, place: str, held: _Held
    ) -> tuple[int, int | None]:
        """The bytes a run of records covers, and the homes of what it names. Raises `Corrupt`."""
        total = 0
        homes: int | None = 0
        for digest, length in RECORD.iter_unpack(records):
            total += length
            if not length or (digest == HOLE and depth):
                raise Corrupt("chunk list names a chunk that can't be")
            if digest == HOLE:
                continue
            known = held.get(digest)
            found: int | None = None
            if known is None:
                self._lost(digest, place)
            elif depth:
                found = self._list(digest, length, depth - 1, place)
            elif length != known[0] or length > MAX_FRAME:
                raise Corrupt(f"chunk {digest.hex()} has {known[0]} bytes, not {length}")
            else:
                found = 0
            if known is not None and found is not None:
                found |= self._homes.bit(known[1])
            homes = None if homes is None or found is None else homes | found
        return total, homes

    def _list(self, digest: bytes, size: int, level: int, place: str) -> int | None:
        whole = self._ledger.list_node(digest)
        if whole is None:
            records = chunklist.read_node(self._load(digest), level, digest)
            held = self._catalog.holders(set(chunklist.inline_digests(records)))
            total, homes = self._records(records, level, place, held)
            whole = WholeList(level, total, homes or 0)
            if homes is not None:
                self._ledger.add_list_node(digest, whole)
        else:
            homes = whole.homes
        if (whole.level, whole.size) != (level, size):
            raise Corrupt(f"list node covers {whole.size} bytes, not {size}")
        return homes


def _agrees(whole: WholeTree, ref: NodeRef, level: int | None, upper: bytes | None) -> bool:
    """Whether a subtree is what this reference, in its place, says of it."""
    return (
        (whole.first, whole.length, whole.entries, whole.size)
        == (ref.first, ref.length, ref.entries, ref.size)
        and level in (None, whole.level)
        and (upper is None or whole.last < upper)
    )

"""Overlays: manifests laid over each other, so that one image serves nodes that differ a little.

What a layer has counts, layer by layer, the later one:

- An entry stands in for whatever the layers below have at its path. A directory over a directory
  keeps what is in it and gives it its own metadata; only the top directory always stays as the base
  has it. Anything else over a directory takes away all that is in it.
- Deletions are entries as OCI layers have them: `.wh.NAME`, of any kind but directory, deletes
  NAME beside it, and `.wh..wh..opq` all that the layers below have in its directory.
- They may also be what overlayfs writes into an upper directory: a character device 0:0 deletes
  its path, and an xattr `trusted.overlay.opaque` of `y` is as good as `.wh..wh..opq`. Its other
  xattrs are left out. What it writes when it is told to save itself a copy (`redirect_dir`,
  `metacopy`, `index`) needs the layer below it to make sense, and is refused.
- A deletion of what is not there is none. It concerns the layers below and nothing of its own.
- Deletions never show. In the first layer, the base, they are entries like any others.
- Where a layer takes the first path of a hardlink group away, the next of its paths that is left
  becomes the first.

Promises: the result is the manifest that `manifest.build` makes of the composed entries. Nodes the
overlays do not touch are passed through unread, but for the search of hardlink groups: when an
overlay takes a file away, leaves of the layers below are loaded to see whether any path is linked
to it. Memory grows with the overlays and with what they take away, not with the base.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from typing import Final

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects import manifest
from chunkstore.objects.entry import CHARACTER, DEVICE, DIRECTORY, Entry
from chunkstore.objects.manifest import Change, Load, NodeRef, Save
from chunkstore.objects.names import printable, sort_key
from chunkstore.objects.record import decode

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
NO_DEVICE: Final = DEVICE.pack(0, 0)

_FIELDS: Final = len(Entry._fields)
_XATTRS: Final = b"trusted.overlay."
_OPAQUE_XATTR: Final = (_XATTRS + b"opaque", b"y")
_LEANING: Final = {
    _XATTRS + b"redirect": "redirect_dir",
    _XATTRS + b"metacopy": "metacopy",
    _XATTRS + b"nlink": "index",
}
"""Xattrs of what is not all there: a directory moved by name, a file without its data, a file whose
other names the merged tree shows changed too; by the option of overlayfs that writes them."""


def compose(roots: Sequence[NodeRef], load: Load, save: Save) -> NodeRef:
    """The manifest of the layers laid over each other, the base first; one layer is itself.

    `load` must know what `save` was given. Raises `Corrupt`, or `Unsupported` for an upper
    directory that only overlayfs can read.
    """
    composed, *overlays = roots
    for overlay in overlays:
        composed = _lay(composed, overlay, load, save)
    return composed


def _lay(lower: NodeRef, upper: NodeRef, load: Load, save: Save) -> NodeRef:
    """One layer over what lies below it."""
    layer = _Layer(upper, load)
    if b"" in layer.deleted:
        top = manifest.find(lower, b"", load)
        return manifest.build(chain([top], layer.entries()), save)
    taken = _Taken()
    draft = manifest.edit(lower, layer.changes(), load, save, taken=taken.note)
    return manifest.edit(draft, taken.regrouped(lower, load), load, save)


class _Layer:
    """An overlay. `deleted` are the paths it takes from the layers below with all they hold.

    That a layer deletes a path and has it is nothing odd: an opaque directory does.
    """

    def __init__(self, root: NodeRef, load: Load) -> None:
        self._root = root
        self._load = load
        self._linked: set[bytes] = set()
        self.deleted: set[bytes] = set()
        # Beforehand, since a deletion may come after what it concerns: `.wh.-x` follows `-x`.
        for item in manifest.walk(root, load):
            if item.link:
                self._linked.add(item.link)
            self.deleted.update(_deletions(item))
            if item.kind == DIRECTORY and _OPAQUE_XATTR in item.xattrs:
                self.deleted.add(item.path)

    def entries(self) -> Iterator[Entry]:
        """What shows of the layer, in path order, without its top directory."""
        links: dict[bytes, bytes] = {}  # from what a link names to what it shall name
        for item in manifest.walk(self._root, self._load):
            is_shown = not _deletions(item)
            if item.path in self._linked and item.kind != DIRECTORY:
                links[item.path] = item.path if is_shown else b""
            if not is_shown or not item.path:
                continue
            shown = _without_overlayfs(item)
            if item.link:
                if item.link not in links:
                    where = printable(item.path)
                    raise Corrupt(f"{where}: is linked to nothing in its own layer", where=where)
                shown = shown._replace(link=links[item.link])
                # A deletion may have been the first path of the group.
                links[item.link] = links[item.link] or item.path
            yield shown

    def changes(self) -> Iterator[Change]:
        """What the layer does to those below: of one path, the deletion first."""
        deletions = ((path, None) for path in sorted(self.deleted, key=sort_key))
        entries = ((item.path, item) for item in self.entries())
        return heapq.merge(deletions, entries, key=lambda change: sort_key(change[0]))


def _deletions(item: Entry) -> tuple[bytes, ...]:
    """The paths that an entry of an overlay deletes below it; none for an ordinary entry."""
    if item.kind == DIRECTORY:
        return ()
    own = (item.path,) if item.kind == CHARACTER and item.content == NO_DEVICE else ()
    folder, slash, name = item.path.rpartition(b"/")
    if name == OPAQUE:
        return (*own, folder)
    deleted = name.removeprefix(WHITEOUT)
    # The rest may be no name at all; of `.wh.` at the top, taken for one, nothing would remain.
    if deleted == name or deleted in (b"", b".", b".."):
        return own
    return (*own, folder + slash + deleted)


def _without_overlayfs(item: Entry) -> Entry:
    """An entry without the notes overlayfs made on it. Raises `Unsupported`."""
    kept = tuple(pair for pair in item.xattrs if not pair[0].startswith(_XATTRS))
    if len(kept) == len(item.xattrs):
        return item
    for name, _ in item.xattrs:
        if name in _LEANING:
            where = printable(item.path)
            option = _LEANING[name]
            raise Unsupported(
                f"{where}: overlayfs recorded it by reference to the layer below; "
                f"mount with {option}=off and make the overlay again",
                where=where,
            )
    return item._replace(xattrs=kept)


class _Taken:
    """The files that a layer takes from those below, and the hardlink groups they leave behind."""

    def __init__(self) -> None:
        self._firsts: set[bytes] = set()
        self._others: set[bytes] = set()

    def note(self, item: Entry) -> None:
        """One entry more."""
        if item.link:
            self._others.add(item.path)
        elif item.kind != DIRECTORY:
            self._firsts.add(item.path)

    def regrouped(self, lower: NodeRef, load: Load) -> Iterator[Change]:
        """The paths that were linked to a file that is gone, linked to the first of them."""
        if not self._firsts:
            return
        firsts: dict[bytes, bytes] = {}
        for item in _linked(lower, load, self._firsts, None, None):
            if item.path not in self._others:
                yield item.path, item._replace(link=firsts.get(item.link, b""))
                firsts.setdefault(item.link, item.path)


def _linked(
    ref: NodeRef, load: Load, firsts: Set[bytes], level: int | None, upper: bytes | None
) -> Iterator[Entry]:
    """Entries that are linked to one of `firsts`, in path order."""
    data = load(ref.digest)
    # Hardly any leaf has one, and to check all entries of a leaf takes most of the time.
    if level == 0 and not _may_link(ref, data, firsts):
        return
    node = manifest.read_node(ref, data, level=level, upper=upper)
    if node.level == 0:
        yield from (item for item in node.records if item.link in firsts)
        return
    bounds = [sort_key(child.first) for child in node.records[1:]]
    for child, bound in zip(node.records, [*bounds, upper], strict=True):
        yield from _linked(child, load, firsts, node.level - 1, bound)


def _may_link(ref: NodeRef, data: bytes, firsts: Set[bytes]) -> bool:
    """Whether a leaf has to be read; what is no leaf has, so that it is refused."""
    match decode(data, f"manifest node {ref.digest.hex()}"):
        case (_, _, tuple(records)):
            return any(
                type(record) is not tuple or len(record) != _FIELDS or record[-1] in firsts
                for record in records
            )
    return True

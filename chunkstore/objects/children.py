"""What lies right in one directory of a manifest, without reading what lies deeper.

All that is below a path follows it in one run, so the search tree is asked for what comes after
the run: the cost is a node or two per child, not the size of what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects.entry import DIRECTORY, Entry
from chunkstore.objects.manifest import Load, NodeRef, read_node
from chunkstore.objects.names import is_below, printable, sort_key


def children(root: NodeRef, load: Load, path: bytes = b"") -> Iterator[Entry]:
    """The entry of `path`, and if that is a directory the ones right in it, in path order.

    Raises `NotFound` when there is no such path, `Corrupt`.
    """
    wanted = sort_key(path)
    is_found = False
    ahead: list[tuple[NodeRef, int | None, bytes | None]] = [(root, None, None)]
    while ahead:
        ref, level, upper = ahead.pop()
        if upper is not None and upper <= wanted:
            continue
        node = read_node(ref, load(ref.digest), level=level, upper=upper)
        if node.level:
            bounds = [*(sort_key(child.first) for child in node.records[1:]), upper]
            found = zip(node.records, bounds, strict=True)
            ahead += reversed([(child, node.level - 1, bound) for child, bound in found])
            continue
        for item in node.records:
            key = sort_key(item.path)
            if key < wanted:
                continue
            if not is_found:
                if key != wanted:
                    break
                is_found = True
                if item.kind != DIRECTORY:
                    yield item
                    return
            elif not is_below(item.path, path):
                return
            elif item.path.rpartition(b"/")[0] != path:
                raise Corrupt(f"{printable(item.path)}: what holds it is not in the image")
            else:
                # What is below it begins with its key and a NUL.
                wanted = key + b"\x01"
            yield item
    if not is_found:
        raise NotFound(f"no such path in the image: {printable(path)}", name=printable(path))

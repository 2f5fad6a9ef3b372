"""Names of members as paths of an image. Pure.

`./a//b/` and `/a/b` are `a/b`, as they are to tar; what would leave the tree is refused, and so is
a name that no file system could hold. Nothing is ever looked up: what symbolic links there are in
an archive, or on this machine, makes no difference.
"""

from __future__ import annotations

from chunkstore.errors import Corrupt
from chunkstore.objects.names import STATE_DIR, check_path, printable


def path_of(name: bytes, where: str) -> bytes | None:
    """The path that a member's name or hardlink target means; None inside a node's own directory.

    Raises `Corrupt` naming `where`.
    """
    path = name[2:] if name.startswith(b"./") else name
    if path.startswith(b"/") or path.endswith(b"/") or b"//" in path or b"." in path:
        path = b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
    if path == STATE_DIR or path.startswith(STATE_DIR + b"/"):
        return None
    try:
        check_path(path)
    except Corrupt:
        shown = printable(name[:200])
        raise Corrupt(
            f"{where}: a member named {shown} can't be in an image", where=where
        ) from None
    return path

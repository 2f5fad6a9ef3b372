"""What members do to a tree: the rules of tar, without the ways out of the tree that it has.

- A later member takes the place of an earlier one of the same path. A directory over a directory
  keeps what is in it; anything else over a directory takes all in it away.
- Directories that no member speaks of are made, mode 0755, owned by root, with the time of the
  member that needs them.
- A member below something that is not a directory is `Corrupt`, also below a symbolic link to one:
  nothing is looked up through links.
- A hardlink is a further name of what its target is at that moment, which has to be there. If one
  of the names is replaced later, the others keep the old content. Its own metadata don't count.
- Listings of an incremental archive (`dumpdir`) move and remove what they say.
- Whiteouts (`.wh.NAME`, `.wh..wh..opq`) remove what earlier layers have, where asked for; else they
  are files.

Promises: content goes to the sink as it comes; memory is that of `content` and `tree`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from chunkstore.archive.reading import content, dumpdir
from chunkstore.archive.reading.members import LINK, Member, Run
from chunkstore.archive.reading.tree import Tree
from chunkstore.errors import Corrupt
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.cutting import Sink
from chunkstore.objects.entry import DIRECTORY, FILE, SYMLINK, Entry
from chunkstore.objects.names import printable, split
from chunkstore.objects.overlay import OPAQUE, WHITEOUT
from chunkstore.progress import Progress, Unwatched

_AUFS: Final = b".wh..wh."
"""What aufs keeps for itself, and layers of its time are full of."""


class Members(Protocol):
    """What is unpacked: a `TarReader`, or something that stands for one."""

    def __iter__(self) -> Iterator[Member]:
        """The members in order."""
        ...

    def runs(self) -> Iterator[Run]:
        """The content of the last member."""
        ...


def unpack(
    reader: Members,
    tree: Tree,
    parameters: Parameters,
    sink: Sink,
    *,
    whiteouts: bool = False,
    progress: Progress | None = None,
) -> int:
    """Lay an archive's members into a tree as its next layer; returns how many there were.

    Raises `Corrupt`, `Unsupported`, `LocalError`; the tree is then of no use.
    """
    progress = progress or Unwatched()
    tree.layer += 1
    members = 0
    for member in reader:
        members += 1
        if not (whiteouts and _wipe(member, tree)):
            _lay(member, reader, tree, parameters, sink)
        progress.advance(files=1, size=member.size)
    return members


def _wipe(member: Member, tree: Tree) -> bool:
    """Do what a whiteout says; False for other members."""
    folder, name = split(member.path)
    if not name.startswith(WHITEOUT):
        return member.path.startswith(_AUFS)
    if name == OPAQUE:
        tree.remove(folder, below=True, before=tree.layer)
        return True
    if member.path.startswith(_AUFS):
        return True
    removed = name[len(WHITEOUT) :]
    if member.kind == DIRECTORY or removed in (b"", b".", b".."):
        return False
    tree.remove(folder + b"/" + removed if folder else removed, before=tree.layer)
    return True


def _lay(member: Member, reader: Members, tree: Tree, parameters: Parameters, sink: Sink) -> None:
    path, kind = member.path, member.kind
    if kind == LINK:
        tree.link(path, member.target, member.mtime)
        return
    if not path and kind != DIRECTORY:
        raise Corrupt("the root of the archive is not a directory")
    listing = None
    if member.dumpdir is not None and tree.kind(path) == DIRECTORY:
        listing = dumpdir.parse(member.dumpdir, printable(path))
        for old, new in listing.renamed:
            tree.rename(old, new)
        if tree.kind(dumpdir.ASIDE) is not None:
            raise Corrupt(f"{printable(path)}: its listing renames a directory to nothing")
    held, depth = b"", 0
    if kind == FILE:
        held, depth = content.store(reader.runs(), member.size, parameters, sink)
    elif kind == SYMLINK:
        held = member.target
    elif kind != DIRECTORY:
        held = member.device
    tree.put(
        Entry(
            path,
            kind,
            member.mode,
            member.uid,
            member.gid,
            member.mtime,
            member.size,
            held,
            depth,
            member.xattrs,
            member.flags,
        )
    )
    if listing is not None:
        for name, there in list(tree.names(path)):
            if listing.names.get(name) != (there == DIRECTORY):
                tree.remove(path + b"/" + name if path else name)

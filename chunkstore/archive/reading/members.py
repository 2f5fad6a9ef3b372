"""Reading tar archives: a stream of members, each with the content that belongs to it.

Whatever a member is made of (long names of GNU tar, PAX headers, maps of holes) is put together
here, for archives of GNU tar, bsdtar, star, busybox, Python, Go and their forebears. What a member
does to a tree is for others to decide.

    reader = TarReader(Source(blocks, "image.tar"))
    for member in reader:
        if member.kind == FILE:
            for offset, length, parts in reader.runs():
                ...

Promises:

- `path`, and the `target` of a hardlink, are paths of an image (`paths`), whatever the archive
  says; all other fields are what an entry may hold.
- `runs()` gives the content of the member that came last: where it lies in the file, and its bytes
  in pieces. What is not asked for is passed over. The runs are as `archive.sparse` would write
  them: in order, apart, beginning and ending at blocks of 512 bytes.
- An archive that is damaged, cut short, without an end, or holds what this reader does not know is
  `Corrupt` (or `Unsupported`), naming the archive and the path or position. Nothing is guessed.
- Memory is one header with what describes it, and one block of the source; never the content.

Owners are the numbers in the archive; names of users are not looked at. What is left out (a node's
own `.imgstore`, labels of volumes, flags that Linux does not know) is counted in `remarks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from chunkstore.archive import sparse
from chunkstore.archive.acl import Lookup, nobody
from chunkstore.archive.header import BLOCK_SIZE
from chunkstore.archive.reading import attributes, fields, holes, pax
from chunkstore.archive.reading.extensions import MAX_EXTENSION, Extensions
from chunkstore.archive.reading.fields import Header
from chunkstore.archive.reading.paths import path_of
from chunkstore.archive.reading.pax import Records
from chunkstore.archive.reading.source import Source
from chunkstore.archive.sparse import Extent
from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    MAX_ID,
    MAX_TIME,
    MIN_TIME,
    SYMLINK,
)
from chunkstore.objects.names import MAX_PATH, printable

LINK: Final = 0
"""The kind of a member that is a further name of an earlier one, `target`."""

Run = tuple[int, int, Iterator[bytes]]
"""Where a run of data lies in a file, (offset, length), and its bytes in pieces."""

_BILLION: Final = 10**9
_MAX_DEVICE: Final = 2**32 - 1
_SYMLINK_MODE: Final = 0o777
"""What Linux says of every symlink, and the only one it can be given."""

_SHOWN: Final = 255
"""So much of a name is enough in a message."""

_SPARSE: Final = b"S"
_DUMPDIR: Final = b"D"
_LABEL: Final = b"V"
_REGULAR: Final = (b"0", b"\0", b"7")
_KINDS: Final = {
    **dict.fromkeys((*_REGULAR, _SPARSE, _LABEL), FILE),
    b"1": LINK,
    b"2": SYMLINK,
    b"3": CHARACTER,
    b"4": BLOCK,
    b"5": DIRECTORY,
    _DUMPDIR: DIRECTORY,
    b"6": FIFO,
}
_REFUSED: Final = {
    b"M": "goes on from another volume: put the volumes together first",
    b"A": "is an ACL as Solaris writes it",
    b"E": "is an attribute as Solaris writes it",
}


class Member(NamedTuple):
    """One member. `size` is a file's length with its holes; `target` a symlink's text, or the path
    that a `LINK` is a further name of; `device` a device's numbers as an entry has them.

    Of a `LINK` only path and target mean something: all else is that of the other name. `dumpdir`
    is the directory's listing in an incremental archive, else None.
    """

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: bytes
    device: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    flags: int
    dumpdir: bytes | None


class TarReader:
    """The members of one archive; iterate it once. `lookup` gives the ids of names in ACLs.

    `remarks` counts by kind what was left out; `has_more` says, afterwards, whether something other
    than zeros follows the end of the archive.
    """

    def __init__(self, source: Source, *, lookup: Lookup = nobody) -> None:
        self._source = source
        self._lookup = lookup
        self._end = 0
        self._runs: list[Extent] | None = None
        self._size = 0
        self.remarks: Counter[str] = Counter()
        self.has_more = False

    def __iter__(self) -> Iterator[Member]:
        source = self._source
        extensions = Extensions(source)
        while True:
            where = f"{source.name}, at {source.position}"
            block = source.header()
            if block is None:
                raise Corrupt(
                    f"{source.name}: has no end (blocks of zeros): it may have been cut short",
                    where=source.name,
                )
            if not block.strip(b"\0"):
                break
            header = fields.parse(block, where)
            if extensions.take(header, where):
                continue
            member = self._member(header, block, extensions)
            extensions.clear()
            if member is not None:
                yield member
            source.skip(self._end - source.position)
        if extensions.headers:
            raise Corrupt(f"{where}: ends between a header and its member", where=where)
        self.has_more = source.drain()

    def runs(self) -> Iterator[Run]:
        """The content of the last member, in order; each run's pieces have to be taken first."""
        source = self._source
        if self._runs is None:
            if self._size:
                yield 0, self._size, source.parts(self._size)
            return
        runs = iter(self._runs)
        run = next(runs, None)
        for start, length in sparse.widen(self._runs, self._size):
            inside = []
            while run is not None and run[0] < start + length:
                inside.append(run)
                run = next(runs, None)
            yield start, length, _padded(source, start, start + length, inside)

    def _member(self, header: Header, block: bytes, extensions: Extensions) -> Member | None:
        records = extensions.records
        name = (
            records.get(b"GNU.sparse.name")
            or records.get(b"path")
            or extensions.name
            or header.name
        )
        where = f"{self._source.name}, {printable(name[:_SHOWN]) if name else 'without a name'}"
        flavour = header.flavour
        kind = _kind(flavour, name, where)
        # Others have no data, whatever size they state: old programs gave links that of the file.
        stored = 0
        if kind == FILE or flavour == _DUMPDIR:
            stored = _number(records, b"size", header.size, where)
        if stored < 0 or not name:
            raise Corrupt(f"{where}: a member of {stored} bytes can't be", where=where)
        dumpdir = records.get(b"GNU.dumpdir") if kind == DIRECTORY else None
        if flavour == _DUMPDIR:
            if stored > MAX_EXTENSION:
                raise Unsupported(f"{where}: a listing of {stored} bytes", where=where)
            dumpdir = self._source.take(stored)
            self._runs, self._size = None, 0
            self._end = self._source.position + -stored % BLOCK_SIZE
        else:
            self._lay_out(flavour, stored, block, records, where)
        path = path_of(name, where)
        if path is None or flavour == _LABEL:
            self.remarks["members that are no part of an image"] += 1
            return None
        return self._described(path, kind, header, extensions, dumpdir, where)

    def _lay_out(
        self, flavour: bytes, stored: int, block: bytes, records: Records, where: str
    ) -> None:
        """Find out where the data lies in the file, and where it ends in the archive."""
        source = self._source
        runs = None
        size = stored
        self._end = source.position + stored + -stored % BLOCK_SIZE
        if flavour == _SPARSE:
            runs, size = holes.from_header(block, source, where)
            self._end = source.position + stored + -stored % BLOCK_SIZE
        elif flavour in _REGULAR and any(key.startswith(b"GNU.sparse.") for key in records):
            major = _number(records, b"GNU.sparse.major", 0, where)
            minor = _number(records, b"GNU.sparse.minor", 0, where)
            size = _number(records, b"GNU.sparse.size", size, where)
            size = _number(records, b"GNU.sparse.realsize", size, where)
            if (major, minor) == (1, 0):
                before = source.position
                runs = holes.from_data(source, stored, where)
                stored -= source.position - before
            elif major == 0:
                runs = holes.from_record(records.get(pax.SPARSE_MAP, b""), where)
            else:
                raise Unsupported(f"{where}: sparse format {major}.{minor}", where=where)
        if runs is not None:
            runs = holes.check(runs, size, stored, where)
            if runs == [(0, size)]:
                runs = None
        self._runs, self._size = runs, size

    def _described(
        self,
        path: bytes,
        kind: int,
        header: Header,
        extensions: Extensions,
        dumpdir: bytes | None,
        where: str,
    ) -> Member:
        records = extensions.records
        mode, uid, gid = header.mode, header.uid, header.gid
        mtime = header.mtime * _BILLION
        target = records.get(b"linkpath") or extensions.target or header.target
        found = attributes.NONE
        if records:
            uid = _number(records, b"uid", uid, where)
            gid = _number(records, b"gid", gid, where)
            if value := records.get(b"mtime"):
                mtime = pax.time(value, where)
            found = attributes.read(records, self._lookup, self._remark, where)
            if found.permissions is not None:
                mode = mode & 0o7000 | found.permissions
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID and MIN_TIME <= mtime <= MAX_TIME):
            raise Corrupt(f"{where}: an owner or a time that can't be", where=where)
        if kind == LINK:
            other = path_of(target, where)
            if not other:
                raise Corrupt(f"{where}: a hardlink to {target[:80]!r}", where=where)
            target = other
        elif kind != SYMLINK:
            target = b""
        else:
            mode = _SYMLINK_MODE
            if not 0 < len(target) <= MAX_PATH or b"\0" in target:
                raise Corrupt(f"{where}: a symlink to {target[:80]!r}", where=where)
        device = b""
        if kind in (CHARACTER, BLOCK):
            device = _device(header, records, where)
        return Member(
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            self._size if kind == FILE else 0,
            target,
            device,
            found.xattrs,
            found.flags,
            dumpdir,
        )

    def _remark(self, kind: str) -> None:
        self.remarks[kind] += 1


def _kind(flavour: bytes, name: bytes, where: str) -> int:
    kind = _KINDS.get(flavour)
    if kind is None:
        reason = _REFUSED.get(flavour, f"is of a kind this program does not know: {flavour!r}")
        raise Unsupported(f"{where}: {reason}", where=where)
    if kind == FILE and flavour in _REGULAR and name.endswith(b"/"):
        return DIRECTORY  # as Unix v7 wrote them
    return kind


def _number(records: Records, keyword: bytes, otherwise: int, where: str) -> int:
    value = records.get(keyword)
    return pax.number(value, where) if value else otherwise


def _device(header: Header, records: Records, where: str) -> bytes:
    numbers = (
        _number(records, b"SCHILY.devmajor", fields.number(header.major, where), where),
        _number(records, b"SCHILY.devminor", fields.number(header.minor, where), where),
    )
    if not all(0 <= part <= _MAX_DEVICE for part in numbers):
        raise Corrupt(f"{where}: a device with the numbers {numbers}", where=where)
    return DEVICE.pack(*numbers)


def _padded(source: Source, position: int, stop: int, runs: list[Extent]) -> Iterator[bytes]:
    """The data of `runs` from `position` to `stop`, with zeros where there is none."""
    for offset, length in runs:
        if offset > position:
            yield bytes(offset - position)
        yield from source.parts(length)
        position = offset + length
    if stop > position:
        yield bytes(stop - position)

"""The worktree cache: what a scan saw of each directory, so that the next sees only changes.

One record per directory, in the order of the walk, read and written as a stream: memory does not
grow with the tree. Nothing is written while a scan sees only what the last one saw. The file is
a cache: when it is missing, damaged or about something else, everything is read again.

    record    [path, [name...], [mode, inode, size, mtime, ctime, ... per name],
               [position of each directory and hardlinked name...]]
    trailer   [identity, {hardlinked path: first path of its group}]
    end       u64 offset of the trailer, BLAKE3 of all that comes before it
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final

import msgpack
from blake3 import blake3

from chunkstore import fsio
from chunkstore.errors import local_errors
from chunkstore.objects.names import sort_key
from chunkstore.worktree.listing import Listing

_MAGIC: Final = b"IMGSWRK3"
_END: Final = struct.Struct("<Q32s")

_Record = tuple[bytes, Listing, int]
"""A directory's path, what was seen of it, and where in the file its record ends."""


class WorktreeCache:
    """The cache of one worktree. New ones are written in `spool`; without it, none are."""

    def __init__(self, path: str, *, spool: str | None) -> None:
        self._path = path
        self._new_path = os.path.join(spool, fsio.fresh_name("cache")) if spool else None
        self._old: BinaryIO | None = None
        self._new: BinaryIO | None = None
        self._hasher = blake3()
        self._records: Iterator[_Record] = iter(())
        self._head: _Record | None = None
        # The old file up to the head of its records, and how much of that the new one has or skips.
        self._taken = self._settled = len(_MAGIC)
        self._end = len(_MAGIC)
        self.links: dict[bytes, bytes] = {}
        self.is_valid = False

    def load(self, identity: list[bytes | int]) -> bool:
        """Open the cache if it was saved for `identity`: whatever must be the same to be of use."""
        try:
            self._old = open(self._path, "rb")  # noqa: SIM115  kept open while the scan streams
            links = self._check(self._old, identity)
        except (OSError, ValueError, TypeError, struct.error, msgpack.UnpackException):
            links = None
        if self._old is None or links is None:
            self.abandon()
            return False
        self.links = links
        self._records = self._read_records(self._old)
        self._advance()
        self.is_valid = True
        return True

    def _check(self, file: BinaryIO, identity: list[bytes | int]) -> dict[bytes, bytes] | None:
        """The hardlinks in the trailer if the file is whole and about `identity`."""
        size = file.seek(0, os.SEEK_END) - _END.size
        file.seek(max(size, 0))
        self._end, digest = _END.unpack(file.read())
        hasher = blake3()
        for part in _parts(file.fileno(), 0, size):
            hasher.update(part)
        file.seek(0)
        if hasher.digest() != digest or file.read(len(_MAGIC)) != _MAGIC:
            return None
        file.seek(self._end)
        found, links = msgpack.unpackb(file.read(size - self._end), raw=True)
        return links if found == identity else None

    def _read_records(self, file: BinaryIO) -> Iterator[_Record]:
        file.seek(len(_MAGIC))
        unpacker = msgpack.Unpacker(file, raw=True, read_size=1 << 20)
        while len(_MAGIC) + unpacker.tell() < self._end:
            path, names, numbers, special = unpacker.unpack()
            yield path, Listing(names, numbers, special), len(_MAGIC) + unpacker.tell()

    def _advance(self) -> None:
        if self._head is not None:
            self._taken = self._head[2]
        self._head = next(self._records, None)

    def take(self, path: bytes) -> Listing | None:
        """The old listing of the directory, None when it is not known. Paths come in walk order."""
        if self._head is None:
            return None
        while self._head[0] != path:
            if sort_key(self._head[0]) > sort_key(path):
                return None
            # A directory that is gone.
            self._diverge()
            self._skip()
            if self._head is None:
                return None
        return self._head[1]

    def keep(self, path: bytes) -> None:
        """The directory is as `take` said."""
        assert self._head is not None
        assert self._head[0] == path
        self._advance()

    def replace(self, path: bytes, listing: Listing) -> None:
        """The directory is now like this."""
        self._diverge()
        self._write([path, *listing])
        if self._head is not None and self._head[0] == path:
            self._skip()

    def _skip(self) -> None:
        """Leave the head out of the new file, which has all before it."""
        self._advance()
        self._settled = self._taken

    def _diverge(self) -> None:
        """Begin a new file unless that is done, and copy the records kept since."""
        if self._new_path is None:
            return
        with local_errors("can't write the worktree cache"):
            if self._new is None:
                self._new = open(self._new_path, "wb")  # noqa: SIM115  closed by save or abandon
                self._put(_MAGIC)
            if self._old is not None:
                # Not by `read`: the records still to come are being read from there.
                for part in _parts(self._old.fileno(), self._settled, self._taken):
                    self._put(part)
                self._settled = self._taken

    def _put(self, data: bytes) -> None:
        assert self._new is not None
        self._hasher.update(data)
        self._new.write(data)

    def _write(self, record: list[Any]) -> None:
        if self._new is not None:
            with local_errors("can't write the worktree cache"):
                self._put(msgpack.packb(record))

    def save(
        self, identity: list[bytes | int], links: dict[bytes, bytes], *, identity_changed: bool
    ) -> None:
        """Make what the scan saw the cache for `identity`, if it differs from what was there."""
        if self._new is None and links == self.links and not identity_changed and self.is_valid:
            self.abandon()
            return
        self._diverge()
        assert self._new is not None
        assert self._new_path is not None
        with local_errors("can't write the worktree cache"):
            offset = self._new.tell()
            self._put(msgpack.packb([identity, links]))
            self._new.write(_END.pack(offset, self._hasher.digest()))
            self._new.close()
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            os.rename(self._new_path, self._path)
        self._new = None
        self.abandon()

    def abandon(self) -> None:
        """Leave the old cache as it is."""
        if self._old is not None:
            self._old.close()
            self._old = None
        if self._new is not None:
            assert self._new_path is not None
            # Closing writes out what is left, and the disk may be full.
            with suppress(OSError):
                self._new.close()
            with suppress(OSError):
                os.unlink(self._new_path)
            self._new = None


def _parts(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    """A part of a file in pieces. Raises `OSError` when the file ends before."""
    while start < stop:
        part = os.pread(descriptor, min(1 << 20, stop - start), start)
        if not part:
            raise OSError("the worktree cache was cut short while it was read")
        yield part
        start += len(part)

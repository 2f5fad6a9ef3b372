"""What stands in front of a member to describe it: GNU long names, PAX headers.

Promises: what is collected is bounded, in bytes and in headers; a header that can't be read is
`Corrupt`.
"""

from __future__ import annotations

from typing import Final

from chunkstore.archive.header import BLOCK_SIZE
from chunkstore.archive.reading import pax
from chunkstore.archive.reading.fields import Header
from chunkstore.archive.reading.pax import Records
from chunkstore.archive.reading.source import Source
from chunkstore.errors import Corrupt

MAX_EXTENSION: Final = 32 * 1024 * 1024
_MAX_NAME: Final = 64 * 1024
_MAX_IN_A_ROW: Final = 256
"""Nobody honest needs more than a few."""

_LONG_NAME: Final = b"L"
_LONG_TARGET: Final = b"K"
_PAX: Final = (b"x", b"X")
_GLOBAL: Final = b"g"
_ALL: Final = (_LONG_NAME, _LONG_TARGET, *_PAX, _GLOBAL)


class Extensions:
    """Collects the headers in front of one member after the other."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._global: Records = {}
        self.clear()

    def clear(self) -> None:
        """Begin with the next member, for which only the global headers still hold."""
        self._local: Records = {}
        self.name = b""
        self.target = b""
        self.headers = 0

    def take(self, header: Header, where: str) -> bool:
        """Take in a header and its data if it describes the next member; False if it is one."""
        flavour = header.flavour
        if flavour not in _ALL:
            return False
        self.headers += 1
        if self.headers > _MAX_IN_A_ROW:
            raise Corrupt(f"{where}: headers without end before a member", where=where)
        if flavour in (_LONG_NAME, _LONG_TARGET):
            name = self._data(header.size, _MAX_NAME, where).partition(b"\0")[0]
            if flavour == _LONG_NAME:
                self.name = name
            else:
                self.target = name
            return True
        data = self._data(header.size, MAX_EXTENSION, where)
        if flavour == _GLOBAL:
            self._global = pax.merge_global(self._global, data, where)
        else:
            self._local = {**self._local, **pax.local(data, where)}
        return True

    @property
    def records(self) -> Records:
        """What PAX headers say of the next member."""
        return {**self._global, **self._local} if self._global else self._local

    def _data(self, size: int, most: int, where: str) -> bytes:
        if not 0 <= size <= most:
            raise Corrupt(f"{where}: {size} bytes that only describe a member", where=where)
        data = self._source.take(size)
        self._source.skip(-size % BLOCK_SIZE)
        return data

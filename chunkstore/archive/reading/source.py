"""The bytes of a tar archive, in order: so many at a time, from blocks of any size.

Promises: what is asked for comes whole, or `Corrupt` names the archive and where it ends; memory
is one block of whoever delivers them, plus what one `take` asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chunkstore.archive.header import BLOCK_SIZE
from chunkstore.errors import Corrupt

_PART: Final = 4 * 1024 * 1024


class Source:
    """Reads blocks forward. `name` is the archive for messages; `position` the bytes taken."""

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        self._blocks = blocks
        self._held = b""
        self._at = 0
        self._before = 0
        self.name = name

    @property
    def position(self) -> int:
        """Bytes taken so far."""
        return self._before + self._at

    def _refill(self) -> bool:
        """Hold the next block in place of a used-up one; False at the end."""
        self._before += len(self._held)
        self._at = 0
        for block in self._blocks:
            if block:
                self._held = block
                return True
        self._held = b""
        return False

    def _short(self, missing: int) -> Corrupt:
        return Corrupt(
            f"{self.name}: ends {missing} bytes early, at {self.position}: it was cut short",
            where=self.name,
        )

    def header(self) -> bytes | None:
        """The next 512 bytes; None at the end."""
        start = self._at
        stop = start + BLOCK_SIZE
        if stop <= len(self._held):
            self._at = stop
            return self._held[start:stop]
        if start == len(self._held) and not self._refill():
            return None
        return self.take(BLOCK_SIZE)

    def take(self, size: int) -> bytes:
        """So many bytes. Raises `Corrupt`."""
        start = self._at
        stop = start + size
        if stop <= len(self._held):
            self._at = stop
            return self._held[start:stop]
        return b"".join(self.parts(size))

    def parts(self, size: int) -> Iterator[bytes]:
        """So many bytes in pieces as they come, of up to 4 MiB. Raises `Corrupt`."""
        while size:
            if self._at == len(self._held) and not self._refill():
                raise self._short(size)
            part = self._held[self._at : self._at + min(size, _PART)]
            self._at += len(part)
            size -= len(part)
            yield part

    def skip(self, size: int) -> None:
        """Pass over so many bytes. Raises `Corrupt`."""
        while size:
            if self._at == len(self._held) and not self._refill():
                raise self._short(size)
            step = min(size, len(self._held) - self._at)
            self._at += step
            size -= step

    def drain(self) -> bool:
        """Read on to the end; whether anything but zeros was there."""
        is_empty = not self._held[self._at :].strip(b"\0")
        while self._refill():
            is_empty = is_empty and not self._held.strip(b"\0")
        return not is_empty

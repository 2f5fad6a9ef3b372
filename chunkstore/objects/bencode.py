"""Bencoding, the encoding of torrents and trackers (BEP 3): one value, one encoding.

Values are integers, bytes, lists, and dictionaries with bytes as keys. Promises: memory and depth
are bounded by the input; what `decode` refuses is `Corrupt`. Leaves the size of the input to the
caller, and the meaning of fields to whoever reads them.
"""

from __future__ import annotations

from typing import Any, Final

from chunkstore.errors import Corrupt

MAX_DEPTH: Final = 8
"""Nesting that torrents and trackers never need; beyond it somebody plays."""
_MAX_DIGITS: Final = 20


def encode(value: object) -> bytes:
    """Encode integers, bytes, lists and tuples, and dictionaries of these."""
    parts: list[bytes] = []
    _append(parts, value)
    return b"".join(parts)


def _append(parts: list[bytes], value: object) -> None:
    match value:
        case int() if not isinstance(value, bool):
            parts.append(b"i%de" % value)
        case bytes():
            parts += (b"%d:" % len(value), value)
        case list() | tuple():
            parts.append(b"l")
            for item in value:
                _append(parts, item)
            parts.append(b"e")
        case dict():
            parts.append(b"d")
            for key in sorted(value):
                _append(parts, key)
                _append(parts, value[key])
            parts.append(b"e")
        case _:
            raise TypeError(f"{type(value).__name__} has no bencoding")


def decode(data: bytes, where: str, *, ordered: bool = True) -> Any:
    """Decode one value that fills `data`. Raises `Corrupt` naming `where`.

    `ordered` insists on sorted keys; trackers of others are known to get that wrong. No key may
    occur twice in either case.
    """
    reader = _Reader(data, where, ordered=ordered)
    value = reader.value(0)
    if reader.position != len(data):
        raise reader.refused("something follows the value")
    return value


class _Reader:
    def __init__(self, data: bytes, where: str, *, ordered: bool) -> None:
        self._data = data
        self._where = where
        self._ordered = ordered
        self.position = 0

    def refused(self, why: str) -> Corrupt:
        return Corrupt(f"{self._where}: not bencoded: {why}", where=self._where)

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.refused("nested too deeply")
        match self._data[self.position : self.position + 1]:
            case b"i":
                self.position += 1
                return self._number(b"e")
            case b"l":
                return self._list(depth)
            case b"d":
                return self._dictionary(depth)
            case _:
                return self._string()

    def _number(self, end: bytes) -> int:
        stop = self._data.find(end, self.position, self.position + _MAX_DIGITS + 2)
        text = self._data[self.position : stop] if stop >= 0 else b""
        digits = text.removeprefix(b"-")
        if not digits.isdigit() or (digits[:1] == b"0" and text != b"0"):
            raise self.refused("a number that is none")
        self.position = stop + 1
        return int(text)

    def _string(self) -> bytes:
        length = self._number(b":")
        stop = self.position + length
        if length < 0 or stop > len(self._data):
            raise self.refused("a string is cut short")
        start, self.position = self.position, stop
        return self._data[start:stop]

    def _is_over(self) -> bool:
        if self._data[self.position : self.position + 1] != b"e":
            return False
        self.position += 1
        return True

    def _list(self, depth: int) -> list[Any]:
        self.position += 1
        items = []
        while not self._is_over():
            items.append(self.value(depth + 1))
        return items

    def _dictionary(self, depth: int) -> dict[bytes, Any]:
        self.position += 1
        found: dict[bytes, Any] = {}
        last: bytes | None = None
        while not self._is_over():
            key = self._string()
            if key in found or (self._ordered and last is not None and key <= last):
                raise self.refused("keys are not in order, or one occurs twice")
            found[key] = self.value(depth + 1)
            last = key
        return found

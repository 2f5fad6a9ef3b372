"""Asking again and again whether a small object, such as a ref, has changed.

Promises: any reader can be asked, and a change is seen at the next poll, however quickly it
followed the one before. Readers that can ask for less than the whole object are `Watchable`.

A validator begins with the digest of the bytes it stands for, so equal bytes never count as a
change. After a space it may hold what the reader wants to remember.
"""

from __future__ import annotations

from blake3 import blake3

from chunkstore.storage.backend import Polled, Reader, Watchable


def poll(reader: Reader, name: str, seen: str | None, *, limit: int) -> Polled:
    """The object's first `limit` bytes, unless `seen` stands for them. Raises as `Reader.get`."""
    if isinstance(reader, Watchable):
        return reader.poll(name, seen, limit=limit)
    return compared(reader.get(name, 0, limit), seen)


def compared(data: bytes, seen: str | None, remember: str = "") -> Polled:
    """What a poll that brought `data` comes to; `remember` goes into the validator."""
    digest = blake3(data).hexdigest()
    is_known = seen is not None and seen.partition(" ")[0] == digest
    return Polled(None if is_known else data, f"{digest} {remember}".rstrip())


def remembered(seen: str | None) -> str:
    """What a reader had put into a validator, or ""."""
    return "" if seen is None else seen.partition(" ")[2]

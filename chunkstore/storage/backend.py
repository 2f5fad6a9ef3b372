"""The protocol every place that keeps objects fulfils.

An object has a name such as `packs/<id>.pack` and bytes. The contracts are stated here once and
checked for every implementation by `chunkstore.storage.conformance`. Reads are safe from any
number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Reader(Protocol):
    """A place objects can be read from: a remote, a read-only store."""

    def get(self, name: str, start: int, stop: int) -> bytes:
        """The object's bytes from `start` up to `stop`, fewer when it ends before.

        The range bounds the memory a reply can take, so there is no call without one. Raises
        `NotFound`; `TransferError` when the place can't be reached or breaks its protocol;
        `LocalError` when this machine refuses.
        """
        ...

    def size(self, name: str) -> int:
        """The object's length in bytes. Raises as `get`."""
        ...

    def close(self) -> None:
        """Give back connections and descriptors; using the reader afterwards is an error."""
        ...


class Polled(NamedTuple):
    """What a poll brought."""

    data: bytes | None
    """The object's bytes; None when they are those that were seen before."""
    validator: str
    """Stands for these bytes at the next poll."""


@runtime_checkable
class Watchable(Protocol):
    """What a reader can have besides: a cheaper way to ask whether an object has changed.

    Call `chunkstore.storage.polling.poll`, which does without where it has to.
    """

    def poll(self, name: str, seen: str | None, *, limit: int) -> Polled:
        """The object's first `limit` bytes, unless they still are what `seen` stands for.

        `seen` is the validator of an earlier poll of the same name, by any reader of the same
        place. Raises as `Reader.get`.
        """
        ...


@runtime_checkable
class Abandonable(Protocol):
    """What a reader can have besides: calls that need not be waited for.

    Call `abandon` below, which takes any reader.
    """

    def abandon(self) -> None:
        """Close, and let the calls of other threads end soon, in whatever error."""
        ...


@runtime_checkable
class Doubtable(Protocol):
    """What a reader can have besides: another place to read the same from.

    Call `doubt` below, which takes any reader.
    """

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """What the last `get` of exactly this range brought was wrong.

        Whether the same call may bring something else now.
        """
        ...


def doubt(reader: Reader, name: str, start: int, stop: int) -> bool:
    """Say that a range was wrong; whether it may be had from elsewhere."""
    return isinstance(reader, Doubtable) and reader.doubt(name, start, stop)


def abandon(reader: Reader) -> None:
    """Nobody wants what `reader` is at any more; a reader that can't end it goes on."""
    if isinstance(reader, Abandonable):
        reader.abandon()


Span = tuple[int, int]
"""Where bytes of an object begin and end."""


@runtime_checkable
class Foreseeing(Protocol):
    """What a reader can have besides: other ways to objects of which it knows early enough.

    Call `foresee` below, which takes any reader.
    """

    def foresee(self, spans: Mapping[str, Sequence[Span]], *, reserve: int) -> None:
        """These parts of these objects will be asked for; a hint, and called once or twice.

        So many bytes of the disk are needed by who asks, and have to be left.
        """
        ...


def foresee(reader: Reader, spans: Mapping[str, Sequence[Span]], *, reserve: int) -> None:
    """Tell a reader what it will be asked for, if it wants to know."""
    if isinstance(reader, Foreseeing):
        reader.foresee(spans, reserve=reserve)


@runtime_checkable
class Backend(Reader, Protocol):
    """A place objects can also be written to."""

    def put(self, name: str, data: bytes) -> None:
        """Store an object, atomically: readers see all of it or none. Durable on return.

        Putting a name again replaces it; for immutable objects that changes nothing. Raises
        `LocalError` or `TransferError`, and then the old object, if any, is still there.
        """
        ...

    def put_file(self, name: str, path: str) -> None:
        """Store the file at `path` as an object, taking the file away. Otherwise like `put`."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Names that begin with `prefix`, which ends in '/', in sorted order; none is no error."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; no error when it is not there."""
        ...

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> None:
        """Replace the object only if it still is `old` (`None`: absent). Raises `Conflict`.

        The one operation that refs need; atomic and durable like `put`.
        """
        ...

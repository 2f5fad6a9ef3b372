"""Replies a server of one object gives, true and false, and a client with a clock of its own."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from chunkstore.errors import TransferError
from chunkstore.storage.backends.http import HttpReader
from support.servers import BadServer, reply

DATA = bytes(range(256)) * 40

NAME = "packs/a.pack"

Serve = Callable[..., BadServer]


def part(start: int, stop: int, *, total: int | str = len(DATA), **options: int | None) -> bytes:
    where = f"Content-Range: bytes {start}-{stop - 1}/{total}"
    return reply(206, DATA[start:stop], where, **options)


def chunked(*chunks: bytes, start: int = 0) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    stop = start + sum(map(len, chunks))
    return reply(
        206,
        body,
        f"Content-Range: bytes {start}-{stop - 1}/{len(DATA)}",
        "Transfer-Encoding: chunked",
        length=None,
    )


class Client(NamedTuple):
    reader: HttpReader
    sleeps: list[float]


Connect = Callable[..., Client]


def fails(reader: HttpReader, *, start: int = 0, stop: int = 1000) -> TransferError:
    with pytest.raises(TransferError) as caught:
        reader.get(NAME, start, stop)
    return caught.value


def endless(head: bytes, piece: bytes) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield head
        while True:
            yield piece

    return send

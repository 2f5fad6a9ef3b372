"""Sending a file through a socket on the event loop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore.server.sendfile import sendfile

CONTENT = random.Random(5).randbytes(8 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main`; what the loop would only log is a failure too."""
    unhandled: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: unhandled.append(context)
        )
        await main()

    asyncio.run(watched())
    assert not unhandled


async def read(sock: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        received += await asyncio.get_running_loop().sock_recv(sock, count - len(received))
    return bytes(received)


def drain(sock: socket.socket) -> int:
    """Read what is there, and say how much."""
    count = 0
    while True:
        try:
            count += len(sock.recv(1 << 20))
        except BlockingIOError:
            return count


async def stuck(sock: socket.socket, file: int, count: int = len(CONTENT)) -> asyncio.Task[int]:
    """A send that has filled the socket."""
    task = asyncio.create_task(sendfile(sock, file, 0, count))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    return task


def test_more_than_fits(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    async def main() -> None:
        task = asyncio.create_task(sendfile(pair[0], file, 1000, 6 << 20))
        assert await read(pair[1], 6 << 20) == CONTENT[1000 : 1000 + (6 << 20)]
        assert await task == 6 << 20

    run(main)


def test_others_get_their_turn_even_if_all_fits(
    pair: tuple[socket.socket, socket.socket], file: int
) -> None:
    async def main() -> None:
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        assert await sendfile(pair[0], file, 0, 100) == 100
        assert turns

    run(main)


def test_the_file_ends_early(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    async def main() -> None:
        assert await sendfile(pair[0], file, len(CONTENT) - 100, 500) == 100
        task = asyncio.create_task(sendfile(pair[0], file, 0, len(CONTENT) + 500))
        assert await read(pair[1], 100 + len(CONTENT)) == CONTENT[-100:] + CONTENT
        assert await task == len(CONTENT)

    run(main)


def test_the_peer_leaves(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    async def main() -> None:
        task = await stuck(pair[0], file)
        pair[1].close()
        with pytest.raises(ConnectionError):
            await task
        with pytest.raises(ConnectionError):
            await sendfile(pair[0], file, 0, 100)

    run(main)


def test_cancelled_while_stuck(pair: tuple[socket.socket, socket.socket], file: int) -> None:
    async def main() -> None:
        task = await stuck(pair[0], file)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The loop has forgotten the socket, and it may be used again.
        assert not asyncio.get_running_loop().remove_writer(pair[0])

    run(main)


def test_cancelled_in_the_turn_in_which_it_could_go_on(
    pair: tuple[socket.socket, socket.socket], file: int
) -> None:
    async def main() -> None:
        (await stuck(pair[0], file)).cancel()
        fits = drain(pair[1])
        task = await stuck(pair[0], file, fits + fits // 2)
        asyncio.get_running_loop().call_soon(task.cancel)  # before what the selector finds next
        drain(pair[1])
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)

"""From a file to a socket inside the kernel, as `loop.sendfile` does, for less.

asyncio's own goes through the selector twice for each buffer that the kernel
takes, and once more at the end, even if all went at the first try: 0.41 CPU
seconds per GB of 8 MiB ranges where this takes 0.29, in alternating rounds of
bench/serve.py. See docs/decisions/0004-http-server.md.
"""

from __future__ import annotations

import asyncio
import os
import socket


async def sendfile(out: socket.socket, file: int, start: int, count: int) -> int:
    """Send `count` bytes of `file` from `start`; return how many there were to send.

    `out` must not block, and no transport may know its descriptor: give a
    duplicate of a transport's socket. Safe to cancel. Raises OSError.
    """
    end = start + count
    position, whole = _push(out, file, start, end)
    if whole:
        await asyncio.sleep(0)  # a fast reader must not keep the loop to itself
        return position - start
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def writable() -> None:
        nonlocal position
        if done.done():
            return  # cancelled in this turn of the loop
        try:
            position, whole = _push(out, file, position, end)
        except OSError as error:
            done.set_exception(error)
        else:
            if whole:
                done.set_result(None)

    loop.add_writer(out, writable)
    try:
        await done
    finally:
        loop.remove_writer(out)
    return position - start


def _push(out: socket.socket, file: int, position: int, end: int) -> tuple[int, bool]:
    """Send what the kernel takes now; gives the new position, and whether it is the end."""
    try:
        while position < end:
            sent = os.sendfile(out.fileno(), file, position, end - position)
            if not sent:
                return position, True  # the file ends here
            position += sent
    except BlockingIOError:
        return position, False
    return position, True

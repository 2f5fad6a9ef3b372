"""The sequence numbers that removed images had come to, so that nobody gives them out again.

A node refuses a ref with a lower number than the last it saw. An image that is removed and made
anew therefore goes on above where the old one ended. A file of the store's own machine, one image
a line: its name, a space, the number. Writers hold the store's lock.
"""

from __future__ import annotations

from chunkstore import fsio
from chunkstore.errors import local_errors


def read(path: str) -> dict[str, int]:
    """The last sequence number of each removed image; empty without a file. Raises `LocalError`."""
    with local_errors("can't read the sequence numbers of removed images"):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return {}
    pairs = (line.partition(" ") for line in lines)
    return {name: int(number) for name, _, number in pairs if number.isdecimal()}


def remember(path: str, image: str, sequence: int) -> None:
    """Note durably how far an image has come, before it is removed. Raises `LocalError`."""
    known = read(path)
    known[image] = max(sequence, known.get(image, 0))
    lines = "".join(f"{name} {number}\n" for name, number in sorted(known.items()))
    with local_errors("can't note the sequence number of a removed image"):
        fsio.write_durably(path, lines.encode("ascii"), mode=0o600)

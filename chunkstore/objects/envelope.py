"""A payload and the signatures over it: the form of every document that somebody vouches for.

What is signed is not the payload alone but its pre-authentication encoding, as DSSE has it: the
kind of document and the payload, each with its length before it. So a signature under one kind of
document is none under another, whatever the two payloads hold.

Promises: an envelope that parses is canonical and within its limits. Leaves to `trust` what a
signature is worth.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from chunkstore.errors import Corrupt
from chunkstore.objects import record
from chunkstore.objects.digest import SIZE

MAX_SIGNATURES: Final = 32
"""More keys than a root document can name for both of its roles."""
MAX_SIGNATURE: Final = 1024
"""Bytes of a signature: room for algorithms that this program does not know."""


class Signature(NamedTuple):
    """A signature and the id of the key that made it."""

    key: bytes
    value: bytes


class Envelope(NamedTuple):
    """A payload, and its signatures in the order of their keys' ids."""

    payload: bytes
    signatures: tuple[Signature, ...] = ()

    def encode(self, magic: bytes, version: int) -> bytes:
        """The bytes of the whole document."""
        return record.seal(magic, version, (self.payload, self.signatures))


def open_envelope(data: bytes, magic: bytes, version: int, where: str, what: str) -> Envelope:
    """Read an envelope; `what` names the document in errors. Raises `Corrupt`."""
    match record.unseal(data, magic, version, where):
        case (bytes(payload), tuple(raw)) if len(raw) <= MAX_SIGNATURES:
            signatures = tuple(_check(item, where, what) for item in raw)
            keys = [signature.key for signature in signatures]
            # Sorted and each once: nobody's word counts twice.
            if keys != sorted(set(keys)):
                raise Corrupt(f"{where}: signatures are not in order", where=where)
            return Envelope(payload, signatures)
    raise Corrupt(f"{where}: is not {what}", where=where)


def _check(item: Any, where: str, what: str) -> Signature:
    match item:
        case (bytes(key), bytes(value)) if len(key) == SIZE and 0 < len(value) <= MAX_SIGNATURE:
            return Signature(key, value)
    raise Corrupt(f"{where}: is not {what}: bad signature record", where=where)


def signed_bytes(kind: str, payload: bytes) -> bytes:
    """What a signature is made over: DSSE's encoding of the kind of document and its payload."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)

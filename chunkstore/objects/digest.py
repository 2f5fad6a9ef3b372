"""Names of objects: BLAKE3-256, told apart by purpose.

A chunk's name is the plain BLAKE3 of its bytes, so `b3sum` can check it. Everything else uses
BLAKE3's key derivation with a context of its own: no file content can pose as a version or a pack.

Digests are 32 plain bytes, not objects: an image has tens of thousands of chunks, and an object
for each would cost more than hashing them.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from chunkstore.errors import Corrupt

SIZE: Final = 32
HOLE: Final = bytes(SIZE)
"""Stands in a chunk list where a file has a hole. No input is known to hash to it."""

VERSION_CONTEXT: Final = "imgstore 2026-11 version"
PACK_CONTEXT: Final = "imgstore 2026-11 pack"
INDEX_CONTEXT: Final = "imgstore 2026-11 index"
DELTA_PACK_CONTEXT: Final = "imgstore 2026-11 delta pack"
DELTA_INDEX_CONTEXT: Final = "imgstore 2026-11 delta index"
KEY_CONTEXT: Final = "imgstore 2026-11 key"
STATEMENT_CONTEXT: Final = "imgstore 2026-11 statement"


def chunk_digest(data: bytes | bytearray | memoryview) -> bytes:
    """The name of a chunk."""
    return blake3(data).digest()


def version_digest(data: bytes) -> bytes:
    """The name of a version record."""
    return blake3(data, derive_key_context=VERSION_CONTEXT).digest()


def index_digest(data: bytes | memoryview) -> bytes:
    """The checksum at the end of a pack index."""
    return blake3(data, derive_key_context=INDEX_CONTEXT).digest()


def delta_index_digest(data: bytes | memoryview) -> bytes:
    """The checksum at the end of a delta pack's index."""
    return blake3(data, derive_key_context=DELTA_INDEX_CONTEXT).digest()


def delta_pack_hasher() -> blake3:
    """A running hash for the name of a delta pack."""
    return blake3(derive_key_context=DELTA_PACK_CONTEXT)


def key_digest(data: bytes) -> bytes:
    """The name of a key, its fingerprint, from the record of its algorithm and public bytes."""
    return blake3(data, derive_key_context=KEY_CONTEXT).digest()


def statement_digest(payload: bytes) -> bytes:
    """What a node remembers of a signed payload, to know it again."""
    return blake3(payload, derive_key_context=STATEMENT_CONTEXT).digest()


def pack_hasher() -> blake3:
    """A running hash for the name of a pack: `update()` it, then take `digest()`."""
    return blake3(derive_key_context=PACK_CONTEXT)


def parse_hex(text: str) -> bytes:
    """Read a full digest in lower-case hexadecimal. Raises `Corrupt`."""
    if len(text) != 2 * SIZE or text.strip("0123456789abcdef"):
        raise Corrupt(f"not a digest: {text[:80]!r}")
    return bytes.fromhex(text)

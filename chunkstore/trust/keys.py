"""Keys, and checking what they signed.

Promises: a signature counts only if a key of a known algorithm made it that is safe to have; the
library that does the arithmetic is loaded only when a signature is made or checked. Keys come from
whoever pinned them, never from beside the signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from chunkstore.errors import Untrusted, Usage
from chunkstore.objects import record
from chunkstore.objects.digest import SIZE, key_digest
from chunkstore.objects.envelope import Envelope, Signature, signed_bytes

ED25519: Final = "ed25519"
ALGORITHM: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
MAX_PUBLIC: Final = 4096
"""Bytes of a public key: room for algorithms that this program does not know."""

_PRIME: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        _PRIME - 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    }
)
"""The y coordinates of the points whose order divides eight. Under such a key one signature fits
any message, or one in eight, and OpenSSL takes it."""


class PublicKey(NamedTuple):
    """A key that signatures can be checked with."""

    algorithm: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The fingerprint: 32 bytes."""
        return key_digest(record.encode(tuple(self)))

    @property
    def fingerprint(self) -> str:
        """The fingerprint as people compare it."""
        return self.id.hex()


class Signer(Protocol):
    """Whoever can sign: a key in memory, an agent."""

    @property
    def key(self) -> PublicKey:
        """The key that its signatures can be checked with."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`. Raises `LocalError`."""
        ...


class SecretKey(NamedTuple):
    """An Ed25519 key pair; a `Signer`."""

    key: PublicKey
    secret: bytes

    def sign(self, message: bytes) -> bytes:
        """See `Signer.sign`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(message)

    def __repr__(self) -> str:
        # A secret must not get into a traceback or a log.
        return f"SecretKey({self.key.fingerprint})"


def from_secret(secret: bytes) -> SecretKey:
    """The key pair of 32 random bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return SecretKey(PublicKey(ED25519, public), secret)


def check_key(key: PublicKey) -> PublicKey:
    """Return a key if signatures by it can mean something. Raises `Untrusted`."""
    if key.algorithm != ED25519:
        raise Untrusted(
            f"key {key.fingerprint} is of the unknown algorithm {key.algorithm!r}: "
            "update imgstore on this machine"
        )
    if len(key.public) != 32:
        raise Untrusted(f"key {key.fingerprint} is no Ed25519 key: {len(key.public)} bytes")
    y = int.from_bytes(key.public, "little") & (2**255 - 1)
    if y >= _PRIME:
        raise Untrusted(f"key {key.fingerprint} is not in canonical form")
    if y in _SMALL_ORDER:
        raise Untrusted(f"key {key.fingerprint} is of small order: anybody can sign for it")
    return key


def is_signed(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` is by `key`. Raises `Untrusted` for an unsafe key."""
    check_key(key)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sign(kind: str, payload: bytes, signers: Iterable[Signer]) -> Envelope:
    """A payload signed by all of these. Raises `LocalError`, `Untrusted` when one signs wrongly."""
    message = signed_bytes(kind, payload)
    found = {signer.key.id: signer for signer in signers}
    signatures = []
    for key_id, signer in sorted(found.items()):
        value = signer.sign(message)
        # An agent may hold another key than it says; no node would take what it made.
        if not is_signed(signer.key, message, value):
            raise Untrusted(f"what was to sign with key {signer.key.fingerprint} did not")
        signatures.append(Signature(key_id, value))
    return Envelope(payload, tuple(signatures))


class Role(NamedTuple):
    """Keys of which so many have to sign."""

    threshold: int
    keys: tuple[PublicKey, ...]

    def holds(self, key: PublicKey) -> bool:
        """Whether it is one of the role's keys."""
        return key in self.keys

    def check(self, kind: str, envelope: Envelope, where: str) -> None:
        """Raises `Untrusted` unless enough of the keys have signed the envelope."""
        by_id = {key.id: key for key in self.keys}
        message = signed_bytes(kind, envelope.payload)
        known = [item for item in envelope.signatures if item.key in by_id]
        valid = sum(is_signed(by_id[item.key], message, item.value) for item in known)
        if valid >= self.threshold:
            return
        if not envelope.signatures:
            raise Untrusted(f"{where} is not signed")
        if not known:
            strangers = ", ".join(item.key.hex() for item in envelope.signatures[:3])
            raise Untrusted(f"{where} is signed by nobody who may: key {strangers}")
        if valid < len(known):
            raise Untrusted(f"{where} has a bad signature: it was changed, or forged")
        raise Untrusted(f"{where} has {valid} of the {self.threshold} signatures it needs")


def parse_fingerprint(text: str) -> bytes:
    """Read a fingerprint: 64 hexadecimal digits, in groups if somebody likes. Raises `Usage`."""
    digits = re.sub(r"[\s:]", "", text).lower()
    if re.fullmatch(f"[0-9a-f]{{{2 * SIZE}}}", digits) is None:
        raise Usage(f"{text[:80]!r} is no fingerprint of a key: it has {2 * SIZE} digits")
    return bytes.fromhex(digits)

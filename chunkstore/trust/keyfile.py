"""Key files: secret keys, under a passphrase if wanted, and public ones.

A secret key file is a document; under a passphrase its secret is sealed by ChaCha20-Poly1305 with
a key that scrypt makes of the passphrase. The public part stands in it openly, so keys can be told
apart without the passphrase. A public key file is one line of text.

Leaves to whoever writes them that nobody else can read them.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from chunkstore.errors import Corrupt, Untrusted, Usage
from chunkstore.objects import record
from chunkstore.trust.keys import ED25519, PublicKey, SecretKey, check_key

MAX_KEY_FILE: Final = 4096
SCRYPT_COST: Final = (15, 8, 1)
"""log2 N, r, p: 32 MiB and about a tenth of a second for each guess."""

_MAGIC: Final = b"IMGSKEY "
_SEALED: Final = "scrypt chacha20-poly1305"
_SALT: Final = 16
_MOST_MEMORY: Final = 256 * 1024 * 1024
_PUBLIC: Final = re.compile(
    r"imgstore-key (?P<algorithm>[a-z0-9.-]{1,32}) (?P<hex>[0-9a-f]{64})\n?"
)


class KeyFile(NamedTuple):
    """A secret key file as it was read. `protection` is empty, or what scrypt was told and salt."""

    key: PublicKey
    protection: tuple[Any, ...]
    secret: bytes

    @property
    def needs_passphrase(self) -> bool:
        """Whether the secret is sealed."""
        return bool(self.protection)

    def open(self, passphrase: bytes | None = None) -> SecretKey:
        """The key pair. Raises `Usage` without the passphrase, `Untrusted` with a wrong one."""
        if not self.protection:
            return SecretKey(self.key, self.secret)
        if passphrase is None:
            raise Usage(f"key {self.key.fingerprint} needs its passphrase")
        from cryptography.exceptions import InvalidTag

        _, *cost, salt = self.protection
        try:
            sealer, nonce = _sealer(passphrase, salt, cost)
            secret = sealer.decrypt(nonce, self.secret, _bound_to(self.key))
        except InvalidTag:
            raise Untrusted(
                f"wrong passphrase for key {self.key.fingerprint}, or its file is damaged"
            ) from None
        return SecretKey(self.key, secret)


def encode_secret(pair: SecretKey, *, passphrase: bytes | None = None, salt: bytes = b"") -> bytes:
    """The bytes of a secret key file. `salt` is 16 random bytes, if there is a passphrase."""
    if passphrase is None:
        return record.seal(_MAGIC, 1, (*pair.key, (), pair.secret))
    if not passphrase:
        raise Usage("the passphrase is empty")
    sealer, nonce = _sealer(passphrase, salt, SCRYPT_COST)
    sealed = sealer.encrypt(nonce, pair.secret, _bound_to(pair.key))
    return record.seal(_MAGIC, 1, (*pair.key, (_SEALED, *SCRYPT_COST, salt), sealed))


def _sealer(passphrase: bytes, salt: bytes, cost: Any) -> tuple[Any, bytes]:
    """What seals, and its nonce. A salt is used once, so the nonce may always be the same."""
    import hashlib  # here, since it loads OpenSSL, and most who read keys find them open

    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    log_n, r, p = cost
    key = hashlib.scrypt(
        passphrase, salt=salt, n=2**log_n, r=r, p=p, maxmem=2 * _MOST_MEMORY, dklen=32
    )
    return ChaCha20Poly1305(key), bytes(12)


def _bound_to(key: PublicKey) -> bytes:
    return b"imgstore key file " + key.id


def parse_secret(data: bytes, where: str) -> KeyFile:
    """Read a secret key file. Raises `Corrupt`, `Untrusted` for a key nobody should have."""
    if len(data) > MAX_KEY_FILE:
        raise Corrupt(f"{where}: too long to be a key", where=where)
    match record.unseal(data, _MAGIC, 1, where):
        case (str(algorithm), bytes(public), tuple(protection), bytes(secret)) if (
            algorithm == ED25519
            and len(public) == 32
            and len(secret) == (48 if protection else 32)
            and _is_protection(protection)
        ):
            return KeyFile(check_key(PublicKey(algorithm, public)), protection, secret)
    raise Corrupt(f"{where}: is not a secret key", where=where)


def _is_protection(item: tuple[Any, ...]) -> bool:
    match item:
        case ():
            return True
        case (str(kind), int(log_n), int(r), int(p), bytes(salt)):
            # Bounded before scrypt is asked: a file must not decide how much memory this takes.
            bounded = 1 <= log_n <= 20 and 1 <= r <= 32 and 1 <= p <= 16
            return (
                kind == _SEALED
                and record.whole(log_n, r, p)
                and len(salt) == _SALT
                and bounded
                and 128 * 2**log_n * r * p <= _MOST_MEMORY
            )
    return False


def encode_public(key: PublicKey) -> str:
    """The line of a public key file."""
    return f"imgstore-key {key.algorithm} {key.public.hex()}\n"


def parse_public(text: str, where: str) -> PublicKey:
    """Read a public key file. Raises `Corrupt`, `Untrusted` for a key nobody should have."""
    found = _PUBLIC.fullmatch(text)
    if found is None:
        raise Corrupt(f"{where}: is not a public key", where=where)
    return check_key(PublicKey(found["algorithm"], bytes.fromhex(found["hex"])))

"""The root document of a store: which keys may sign what, and how one version follows another.

Promises: a root that comes out of `check_first`, `check_next` or `pinned` was signed by as many
root keys as it demands itself, and a next one also by as many as its predecessor demands; its keys
are all safe to have. Leaves expiry to `refs`, which knows the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from chunkstore.errors import Corrupt, Untrusted
from chunkstore.objects import record
from chunkstore.objects.documents import MAX_COUNTER, STORE_ID_SIZE
from chunkstore.objects.envelope import Envelope, open_envelope
from chunkstore.trust.keys import (
    ALGORITHM,
    ED25519,
    MAX_PUBLIC,
    PublicKey,
    Role,
    Signer,
    check_key,
    sign,
)

ROOT_KIND: Final = "imgstore root"
MAX_ROOT: Final = 64 * 1024
MAX_KEYS: Final = 16
"""Keys of one role."""
YEAR: Final = 365 * 24 * 3600
"""Seconds that a root document is believed, where nobody says otherwise."""
MAGIC: Final = b"IMGSROOT"


class Root(NamedTuple):
    """Who may sign for a store. `roots` sign root documents, `refs` the refs of images.

    `version` counts from 1; `time` and `expires` are in nanoseconds, `expires` may be 0 (never).
    """

    store_id: bytes
    version: int
    time: int
    expires: int
    roots: Role
    refs: Role

    @property
    def payload(self) -> bytes:
        """The bytes that are signed."""
        roles = (("ref", *self.refs), ("root", *self.roots))
        head = (self.store_id, self.version, self.time, self.expires)
        return record.encode((ROOT_KIND, *head, roles))


class SignedRoot(NamedTuple):
    """A root document and the signatures over it; not yet believed."""

    root: Root
    envelope: Envelope

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return f"root document {self.root.version}"

    def encode(self) -> bytes:
        """The bytes of the file."""
        return self.envelope.encode(MAGIC, 1)


def role(keys: Iterable[PublicKey], threshold: int = 1) -> Role:
    """A role in canonical form."""
    return Role(threshold, tuple(sorted(set(keys))))


def sign_root(root: Root, signers: Iterable[Signer]) -> SignedRoot:
    """A root document signed by all of these."""
    return SignedRoot(root, sign(ROOT_KIND, root.payload, signers))


def parse_root(data: bytes, where: str = "root document") -> SignedRoot:
    """Read a root document, believing nothing of it. Raises `Corrupt`."""
    if len(data) > MAX_ROOT:
        raise Corrupt(f"{where}: longer than {MAX_ROOT} bytes", where=where)
    envelope = open_envelope(data, MAGIC, 1, where, "a root document")
    match record.decode(envelope.payload, where):
        case (str(kind), bytes(store), int(version), int(time), int(expires), tuple(roles)) if (
            kind == ROOT_KIND
            and len(store) == STORE_ID_SIZE
            and record.whole(version, time, expires)
            and 1 <= version <= MAX_COUNTER
        ):
            match roles:
                case (("ref", *refs), ("root", *roots)):
                    return SignedRoot(
                        Root(
                            *(store, version, time, expires),
                            roots=_role(tuple(roots), where),
                            refs=_role(tuple(refs), where),
                        ),
                        envelope,
                    )
    raise Corrupt(f"{where}: is not a root document", where=where)


def _role(item: Any, where: str) -> Role:
    match item:
        case (int(threshold), tuple(raw)) if record.whole(threshold) and 1 <= len(raw) <= MAX_KEYS:
            keys = tuple(_key(key, where) for key in raw)
            if list(keys) == sorted(set(keys)) and 1 <= threshold <= len(keys):
                return Role(threshold, keys)
    raise Corrupt(f"{where}: is not a root document: bad role", where=where)


def _key(item: Any, where: str) -> PublicKey:
    match item:
        case (str(algorithm), bytes(public)) if (
            ALGORITHM.fullmatch(algorithm) and 0 < len(public) <= MAX_PUBLIC
        ):
            return PublicKey(algorithm, public)
    raise Corrupt(f"{where}: is not a root document: bad key", where=where)


def check_first(signed: SignedRoot) -> Root:
    """A root document that vouches for itself, to be pinned because somebody says so.

    Raises `Untrusted`.
    """
    _check_keys(signed)
    signed.root.roots.check(ROOT_KIND, signed.envelope, signed.where)
    return signed.root


def check_next(old: Root, signed: SignedRoot) -> Root:
    """The root that follows `old`. Raises `Untrusted`."""
    new = signed.root
    if new.store_id != old.store_id:
        raise Untrusted(f"{signed.where} is of another store")
    # One step at a time: a version left out could have taken away the very keys that sign here.
    if new.version != old.version + 1:
        raise Untrusted(f"{signed.where} stands where {old.version + 1} has to be")
    old.roots.check(ROOT_KIND, signed.envelope, signed.where)
    return check_first(signed)


def is_pinned(signed: SignedRoot, key_ids: Iterable[bytes]) -> bool:
    """Whether all of these keys are root keys of the document, and have signed it."""
    wanted = set(key_ids)
    keys = tuple(key for key in signed.root.roots.keys if key.id in wanted)
    if len(keys) != len(wanted):
        return False
    Role(len(keys), keys).check(ROOT_KIND, signed.envelope, signed.where)
    return True


def _check_keys(signed: SignedRoot) -> None:
    """Refuse keys no document may name. One of an unknown algorithm just can't sign."""
    for key in (*signed.root.roots.keys, *signed.root.refs.keys):
        if key.algorithm == ED25519:
            check_key(key)

"""Whether to believe a ref: who signed it, until when, and whether it goes back.

A ref has a place in time: the version of the root under which it was signed, and its sequence
number. Places only grow. A ref that was signed under an older root is no longer believed, so that
after a key was replaced nothing that the old one signed can be played back; and because a newer
root comes before all sequence numbers, replacing a key also undoes what somebody did who had it and
pushed the numbers to their end.
"""

from __future__ import annotations

from typing import NamedTuple

from chunkstore.errors import Untrusted
from chunkstore.objects.digest import statement_digest
from chunkstore.objects.documents import REF_KIND, Ref
from chunkstore.objects.envelope import Envelope
from chunkstore.trust.keys import Signer, sign
from chunkstore.trust.root import Root


class Seen(NamedTuple):
    """How far an image has come: where its ref stood, and what it said."""

    root: int
    sequence: int
    digest: bytes


def sign_ref(ref: Ref, signers: list[Signer]) -> Envelope:
    """A ref signed by all of these."""
    return sign(REF_KIND, ref.payload, signers)


def seen(ref: Ref, envelope: Envelope) -> Seen:
    """What to remember of a ref."""
    return Seen(ref.root, ref.sequence, statement_digest(envelope.payload))


def check_identity(ref: Ref, image: str, store_id: bytes) -> None:
    """Raises `Untrusted` unless a ref is of this image of this store."""
    if ref.store_id != store_id:
        raise Untrusted(
            f"ref of image {image}: belongs to another store ({ref.store_id.hex()}, not "
            f"{store_id.hex()})"
        )
    if ref.image != image:
        raise Untrusted(f"ref of image {image}: belongs to another image ({ref.image})")


def check_signature(ref: Ref, envelope: Envelope, root: Root) -> None:
    """Raises `Untrusted` unless `root` is what the ref was signed under, and by its keys."""
    where = f"ref of image {ref.image}"
    if ref.root != root.version:
        raise Untrusted(
            f"{where}: signed under root document {ref.root or 'none'}, and this is "
            f"{root.version}; 'imgstore refresh' on its store signs it anew"
        )
    root.refs.check(REF_KIND, envelope, where)


def check_progress(ref: Ref, envelope: Envelope, known: Seen | None) -> None:
    """Raises `Untrusted` when a ref goes back behind what is known of its image."""
    if known is None:
        return
    where = f"ref of image {ref.image}"
    place = (ref.root, ref.sequence)
    if place < (known.root, known.sequence):
        raise Untrusted(
            f"{where}: goes back to sequence number {ref.sequence} of root document {ref.root}, "
            f"from {known.sequence} of {known.root}"
        )
    if place == (known.root, known.sequence) and seen(ref, envelope) != known:
        raise Untrusted(f"{where}: says two things under sequence number {ref.sequence}")


def check_expiry(what: str, expires: int, *, clock: int, latest: int) -> None:
    """Raises `Untrusted` when a document's time is over.

    `latest` is when the newest document seen so far was signed: a machine whose clock has stopped
    knows from it that it can't be earlier.
    """
    if expires and max(clock, latest) >= expires:
        by = "this machine's clock" if clock >= expires else "what was signed since"
        raise Untrusted(f"{what}: has expired, by {by}; 'imgstore refresh' on its store renews it")

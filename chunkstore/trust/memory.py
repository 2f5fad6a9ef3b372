"""What a node remembers of a store it trusts, and how that moves forward.

Promises: a memory never goes back: its root is followed step by step, an image's place only grows,
and so does the latest time, but for a new root, which begins them anew. A ref that is not believed
leaves the memory as it was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from chunkstore.errors import Corrupt
from chunkstore.objects import record
from chunkstore.objects.digest import SIZE
from chunkstore.objects.documents import MAX_COUNTER, Ref
from chunkstore.objects.envelope import Envelope
from chunkstore.objects.names import NAME
from chunkstore.trust import refs
from chunkstore.trust.refs import Seen
from chunkstore.trust.root import Root, SignedRoot, check_next, parse_root


class Memory(NamedTuple):
    """The trusted root, the time of the latest signature under it, and the place of each image."""

    signed: SignedRoot
    latest: int
    images: tuple[tuple[str, Seen], ...] = ()

    @property
    def root(self) -> Root:
        """The root that is trusted."""
        return self.signed.root

    def encode(self) -> bytes:
        """As the node's state keeps it."""
        images = tuple((image, *seen) for image, seen in self.images)
        return record.encode((self.signed.encode(), self.latest, images))

    def advanced(self, signed: SignedRoot) -> Memory:
        """With the root that follows. Raises `Untrusted`."""
        root = check_next(self.root, signed)
        # The latest time begins anew: else a signature from a clock far ahead, or from a thief who
        # wanted that, would end all trust for good.
        return Memory(signed, root.time, self.images)

    def believe(self, ref: Ref, envelope: Envelope, image: str, *, clock: int) -> Memory:
        """With a ref that was asked for as that of `image`. Raises `Untrusted`."""
        refs.check_identity(ref, image, self.root.store_id)
        known = dict(self.images).get(image)
        found = refs.seen(ref, envelope)
        # What was believed before is known by its digest: its signature need not be checked again.
        if found != known or ref.root != self.root.version:
            refs.check_signature(ref, envelope, self.root)
        refs.check_progress(ref, envelope, known)
        latest = max(self.latest, ref.time)
        refs.check_expiry(f"ref of image {image}", ref.expires, clock=clock, latest=latest)
        self.check_root_expiry(clock=clock, latest=latest)
        images = dict(self.images) | {image: found}
        return Memory(self.signed, latest, tuple(sorted(images.items())))

    def check_root_expiry(self, *, clock: int, latest: int) -> None:
        """Raises `Untrusted` when the time of the root is over."""
        what = f"root document {self.root.version} of store {self.root.store_id.hex()}"
        refs.check_expiry(what, self.root.expires, clock=clock, latest=latest)


def parse_memory(data: bytes, where: str) -> Memory:
    """Read what `Memory.encode` wrote. Raises `Corrupt`."""
    match record.decode(data, where):
        case (bytes(root), int(latest), tuple(raw)) if record.whole(latest):
            images = tuple(_image(item, where) for item in raw)
            if [name for name, _ in images] == sorted({name for name, _ in images}):
                return Memory(parse_root(root, where), latest, images)
    raise Corrupt(f"{where}: is not what a node remembers of a store", where=where)


def _image(item: Any, where: str) -> tuple[str, Seen]:
    match item:
        case (str(image), int(root), int(sequence), bytes(digest)) if (
            NAME.fullmatch(image)
            and record.whole(root, sequence)
            and 0 <= root <= MAX_COUNTER
            and 0 <= sequence <= MAX_COUNTER
            and len(digest) == SIZE
        ):
            return image, Seen(root, sequence, digest)
    raise Corrupt(f"{where}: is not what a node remembers of an image", where=where)

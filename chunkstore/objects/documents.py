"""The small documents of a store: its settings, versions, refs and locate hints.

Specified in `docs/format.md`. Promises: what parses is complete, within its limits and, but for
`store.json`, canonical.
Leaves trust to `trust`: a ref is read here, and believed there.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from chunkstore.errors import Corrupt, Unsupported, Usage
from chunkstore.objects import codec, names, record
from chunkstore.objects.chunker import ALGORITHM, Parameters
from chunkstore.objects.digest import SIZE, version_digest
from chunkstore.objects.envelope import Envelope, open_envelope
from chunkstore.objects.manifest import NodeRef, check_ref
from chunkstore.objects.pack import MAX_INDEX

STORE_FORMAT: Final = 1
MAX_SETTINGS: Final = 64 * 1024
MAX_VERSION: Final = 64 * 1024
MAX_REF: Final = 1024 * 1024
STORE_ID_SIZE: Final = 16
MAX_LOCATE: Final = 4 * 1024 * 1024
"""Room for 90,000 packs; a hostile record may take 36 times its bytes in memory."""
MAX_MESSAGE: Final = 16 * 1024

_VERSION_MAGIC: Final = b"IMGSVERS"
_REF_MAGIC: Final = b"IMGSREF "
_LOCATE_MAGIC: Final = b"IMGSLOCA"
REF_KIND: Final = "imgstore ref"
"""What a ref's payload begins with, and what its signatures say they are over."""
MAX_COUNTER: Final = 2**63 - 1
"""Sequence numbers and versions of roots: no writer comes so far, and whoever does stays there."""
WEEK: Final = 7 * 24 * 3600
"""Seconds that a ref is believed after it was signed, where nobody says otherwise."""
MAX_LIFETIME: Final = 100 * 366 * 24 * 3600


class Settings(NamedTuple):
    """`store.json`: what all writers of a store agree on. `store_id` is 16 random bytes.

    `is_signed` says whether refs are signed, `lifetime` for how many seconds; 0 is for ever.
    """

    store_id: bytes
    chunker: Parameters
    compression: str
    is_signed: bool = True
    lifetime: int = WEEK

    def encode(self) -> bytes:
        """The bytes of `store.json`."""
        low, mid, high = self.chunker
        refs = {"signed": self.is_signed, "lifetime": self.lifetime}
        document = {
            "imgstore": STORE_FORMAT,
            "id": self.store_id.hex(),
            "chunker": {"algorithm": ALGORITHM, "min": low, "avg": mid, "max": high},
            "compression": self.compression,
            "refs": refs,
        }
        return json.dumps(document, indent=2).encode() + b"\n"


def parse_settings(data: bytes, where: str) -> Settings:
    """Read `store.json`. Raises `Corrupt`, or `Unsupported` for another format."""
    try:
        document = json.loads(data)
        if document["imgstore"] != STORE_FORMAT:
            raise Unsupported(
                f"{where}: store format {document['imgstore']!r}, this program knows "
                f"{STORE_FORMAT}; update imgstore on this machine",
                where=where,
            )
        store_id = bytes.fromhex(document["id"])
        if len(store_id) != STORE_ID_SIZE:
            raise Corrupt(f"{where}: store id is not {STORE_ID_SIZE} bytes", where=where)
        chunker = document["chunker"]
        if chunker["algorithm"] != ALGORITHM:
            raise Unsupported(f"{where}: unknown chunker {chunker['algorithm']!r}", where=where)
        sizes = [chunker[name] for name in ("min", "avg", "max")]
        if any(type(size) is not int for size in sizes):
            raise Corrupt(f"{where}: chunk sizes are not numbers", where=where)
        parameters = Parameters(*sizes).check(where)
        signed, lifetime = document["refs"]["signed"], document["refs"]["lifetime"]
        if type(signed) is not bool or type(lifetime) is not int:
            raise Corrupt(f"{where}: does not say how refs are signed", where=where)
        if not 0 <= lifetime <= MAX_LIFETIME:
            raise Corrupt(f"{where}: refs can't be believed for {lifetime} seconds", where=where)
        method = codec.check_method(document["compression"])
        return Settings(store_id, parameters, method, signed, lifetime)
    except (ValueError, KeyError, TypeError, RecursionError, Usage) as error:
        raise Corrupt(f"{where}: is not the settings of a store: {error}", where=where) from error


class Version(NamedTuple):
    """One recorded state of an image. `time` is in nanoseconds; `parent` is empty for the first."""

    root: NodeRef
    parent: bytes
    time: int
    message: str

    def encode(self) -> bytes:
        """The bytes of the record, whose digest is the version's name."""
        return record.seal(_VERSION_MAGIC, 1, (self.root, self.parent, self.time, self.message))


def parse_version(data: bytes, version_id: bytes) -> Version:
    """Read a version record and check that it is the one named. Raises `Corrupt`."""
    where = f"version {version_id.hex()}"
    if version_digest(data) != version_id:
        raise Corrupt(f"{where}: does not match its name", where=where)
    match record.unseal(data, _VERSION_MAGIC, 1, where):
        case (tuple(raw), bytes(parent), int(time), str(message)) if (
            record.whole(time) and len(parent) in (0, SIZE) and len(message.encode()) <= MAX_MESSAGE
        ):
            root = check_ref(raw, where)
            if not root.first:
                return Version(root, parent, time, message)
    raise Corrupt(f"{where}: is not a version record", where=where)


class Tag(NamedTuple):
    """A tag: its name, the version it names and how long that record is."""

    name: str
    version: bytes
    length: int


class Ref(NamedTuple):
    """What an image's tags name.

    `root` is the version of the root document under which it was signed, 0 if it was not.
    `sequence` grows with every change; `expires` may be 0 (never).
    """

    store_id: bytes
    image: str
    root: int
    sequence: int
    time: int
    expires: int
    tags: tuple[Tag, ...]

    @property
    def payload(self) -> bytes:
        """The bytes that are signed."""
        return record.encode((REF_KIND, *self))

    def find(self, name: str) -> Tag | None:
        """The tag of that name, if there is one."""
        return next((tag for tag in self.tags if tag.name == name), None)

    def with_tag(self, tag: Tag) -> Ref:
        """A ref in which `tag` stands, instead of any other of its name."""
        others = (other for other in self.tags if other.name != tag.name)
        return self._replace(tags=tuple(sorted((*others, tag))))

    def without_tag(self, name: str) -> Ref:
        """A ref in which no tag has that name."""
        return self._replace(tags=tuple(tag for tag in self.tags if tag.name != name))


def encode_ref(envelope: Envelope) -> bytes:
    """The bytes of a ref's file."""
    return envelope.encode(_REF_MAGIC, 1)


def open_ref(data: bytes, where: str) -> tuple[Ref, Envelope]:
    """Read a ref, of whatever image and store it says it is, and its signatures.

    Raises `Corrupt`. Nothing is believed yet: that is for `trust`.
    """
    envelope = open_envelope(data, _REF_MAGIC, 1, where, "a ref")
    match record.decode(envelope.payload, where):
        case (
            str(kind),
            bytes(store),
            str(image),
            int(root),
            int(sequence),
            int(time),
            int(expires),
            tuple(raw),
        ) if kind == REF_KIND and record.whole(root, sequence, time, expires):
            pass
        case _:
            raise Corrupt(f"{where}: is not a ref", where=where)
    counters = 0 <= root <= MAX_COUNTER and 0 <= sequence <= MAX_COUNTER
    if len(store) != STORE_ID_SIZE or not counters or names.NAME.fullmatch(image) is None:
        raise Corrupt(f"{where}: is not a ref", where=where)
    tags = tuple(_check_tag(item, where) for item in raw)
    listed = [tag.name for tag in tags]
    if listed != sorted(set(listed)):
        raise Corrupt(f"{where}: tags are not in order", where=where)
    return Ref(store, image, root, sequence, time, expires, tags), envelope


def parse_ref(data: bytes, image: str, store_id: bytes | None = None) -> Ref:
    """Read a ref and check that it is of `image` (and of the store). Raises `Corrupt`."""
    where = f"ref of image {image}"
    ref, _ = open_ref(data, where)
    if ref.image != image or store_id not in (None, ref.store_id):
        raise Corrupt(f"{where}: belongs to another image or store", where=where)
    return ref


def _check_tag(item: Any, where: str) -> Tag:
    match item:
        case (str(name), bytes(version), int(length)):
            fits = len(version) == SIZE and record.whole(length) and 0 < length <= MAX_VERSION
            if names.NAME.fullmatch(name) and fits:
                return Tag(name, version, length)
    raise Corrupt(f"{where}: bad tag", where=where)


class PackUse(NamedTuple):
    """A pack that may hold chunks of a version: its id, its size and that of its index."""

    pack: bytes
    pack_size: int
    index_size: int


def encode_locate(version_id: bytes, uses: list[PackUse]) -> bytes:
    """The hint which packs hold a version's chunks, the newest pack first."""
    return record.seal(_LOCATE_MAGIC, 1, (version_id, tuple(uses)))


def parse_locate(data: bytes, version_id: bytes) -> list[PackUse]:
    """Read a locate hint. Raises `Corrupt`."""
    where = f"locate hint of version {version_id.hex()}"
    match record.unseal(data, _LOCATE_MAGIC, 1, where):
        case (bytes(named), tuple(raw)) if named == version_id:
            return [check_use(item, where) for item in raw]
    raise Corrupt(f"{where}: is not a locate hint", where=where)


def check_use(item: Any, where: str, max_index: int = MAX_INDEX) -> PackUse:
    """A pack and its sizes as a decoded record names them. Raises `Corrupt`."""
    match item:
        case (bytes(pack), int(pack_size), int(index_size)):
            sizes = pack_size > 0 and 0 < index_size <= max_index
            if len(pack) == SIZE and record.whole(pack_size, index_size) and sizes:
                return PackUse(pack, pack_size, index_size)
    raise Corrupt(f"{where}: bad pack", where=where)

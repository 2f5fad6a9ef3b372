"""A store as its readers see it: refs, versions, history, where chunks lie.

Works over any `Reader`: a local store, a remote, read-only media. Promises: what it returns was
checked against the digest that named it. Refs are read, not judged: trust is `trust`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import documents, pack
from chunkstore.objects.documents import PackUse, Ref, Settings, Version
from chunkstore.objects.envelope import Envelope
from chunkstore.objects.names import Spec
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, doubt
from chunkstore.trust.root import MAX_ROOT, SignedRoot, parse_root

if TYPE_CHECKING:
    from chunkstore.storage.catalog import Catalog, Place

_SHORTEST_PREFIX = 4
_SHOWN_TAGS = 8
Parsed = TypeVar("Parsed")


class Resolved(NamedTuple):
    """A version and its name."""

    id: bytes
    version: Version


class Repository:
    """Reads the documents of a store. With `store_id`, refs of another store are refused."""

    def __init__(self, reader: Reader, *, store_id: bytes | None = None) -> None:
        self.reader = reader
        self._store_id = store_id

    @cached_property
    def settings(self) -> Settings:
        """What `store.json` says. Raises `NotFound` when this is no store, `Corrupt`."""
        data = self._document(layout.SETTINGS, documents.MAX_SETTINGS, "not an imgstore store")
        return documents.parse_settings(data, layout.SETTINGS)

    def _document(self, name: str, limit: int, missing: str) -> bytes:
        """A small object whole. Raises `NotFound(missing)`, `Corrupt` when it is too long."""
        try:
            data = self.reader.get(name, 0, limit + 1)
        except NotFound as error:
            raise NotFound(f"{missing}: {error}", name=name) from error
        if len(data) > limit:
            raise Corrupt(f"{name}: longer than {limit} bytes", where=name)
        return data

    def _parsed(
        self, name: str, limit: int, missing: str, parse: Callable[[bytes], Parsed]
    ) -> Parsed:
        """A small object, from whichever place has it right. Raises as `_document`, `Corrupt`."""
        while True:
            try:
                return parse(self._document(name, limit, missing))
            except Corrupt:
                if not doubt(self.reader, name, 0, limit + 1):
                    raise

    def doubt_ref(self, image: str) -> bool:
        """Say that a ref can't be believed; whether there may be another elsewhere."""
        return doubt(self.reader, layout.ref(image), 0, documents.MAX_REF + 1)

    def doubt_root(self, version: int) -> bool:
        """The same of a root document."""
        return doubt(self.reader, layout.root(version), 0, MAX_ROOT + 1)

    def ref(self, image: str) -> Ref:
        """The ref of an image, whoever signed it. Raises `NotFound` when there is no such image."""
        return documents.parse_ref(self._ref_data(image), image, self._store_id)

    def _ref_data(self, image: str) -> bytes:
        return self._document(layout.ref(image), documents.MAX_REF, f"no image {image!r}")

    def signed_ref(self, image: str) -> tuple[Ref, Envelope]:
        """What is there as the ref of an image, to be judged. Raises `NotFound`, `Corrupt`."""
        where = f"ref of image {image}"
        return self._parsed(
            *(layout.ref(image), documents.MAX_REF, f"no image {image!r}"),
            lambda data: documents.open_ref(data, where),
        )

    def signed_root(self, version: int) -> SignedRoot:
        """A root document, to be judged. Raises `NotFound`, `Corrupt`."""
        name = layout.root(version)
        missing = f"no root document {version}"
        return self._parsed(name, MAX_ROOT, missing, lambda data: parse_root(data, name))

    def version(self, version_id: bytes) -> Version:
        """A version record. Raises `NotFound`, `Corrupt`."""
        name = layout.version(version_id)
        return self._parsed(
            *(name, documents.MAX_VERSION, f"no version {version_id.hex()[:12]}"),
            lambda data: documents.parse_version(data, version_id),
        )

    def history(self, version_id: bytes) -> Iterator[Resolved]:
        """A version and its ancestors, newest first; ends where older ones were dropped."""
        while version_id:
            try:
                version = self.version(version_id)
            except NotFound:
                return
            yield Resolved(version_id, version)
            version_id = version.parent

    def resolve(self, spec: Spec) -> Resolved:
        """The version a SPEC names. Raises `NotFound`, `Corrupt`."""
        return self.resolve_in(self.ref(spec.image), spec)

    def resolve_in(self, ref: Ref, spec: Spec) -> Resolved:
        """The version a SPEC names by this ref: a tag, or else an id prefix in the history."""
        tag = ref.find(spec.tag)
        start = tag.version if tag is not None else self._by_prefix(ref, spec)
        for steps, found in enumerate(self.history(start)):
            if steps == spec.back:
                return found
        if tag is not None and not spec.back:
            raise NotFound(f"the record of {spec} is missing from the store", name=str(spec))
        raise NotFound(f"{spec}: history does not go back that far", name=str(spec))

    def _by_prefix(self, ref: Ref, spec: Spec) -> bytes:
        prefix = spec.tag
        if len(prefix) < _SHORTEST_PREFIX or prefix.strip("0123456789abcdef"):
            raise NotFound(_no_tag(ref, spec, "tag"), name=str(spec))
        found: set[bytes] = set()
        seen: set[bytes] = set()
        for tag in ref.tags:
            for resolved in self.history(tag.version):
                if resolved.id in seen:
                    break
                seen.add(resolved.id)
                if resolved.id.hex().startswith(prefix):
                    found.add(resolved.id)
        if not found:
            raise NotFound(_no_tag(ref, spec, "tag or version"), name=str(spec))
        if len(found) > 1:
            raise NotFound(f"{spec}: more than one version begins so", name=str(spec))
        return found.pop()

    def locate(self, version_id: bytes) -> list[PackUse]:
        """The packs that hold a version's chunks, newest first. Raises `NotFound`, `Corrupt`."""
        name = layout.locate(version_id)
        missing = f"version {version_id.hex()[:12]} has no locate hint"
        return self._parsed(
            *(name, documents.MAX_LOCATE, missing),
            lambda data: documents.parse_locate(data, version_id),
        )

    def index(self, pack_id: bytes) -> pack.Index:
        """What a pack holds; from its `.idx`, or when that is missing or damaged from the pack."""
        name = layout.index(pack_id)
        try:
            return self._parsed(
                name, pack.MAX_INDEX, "no index", lambda data: pack.parse_index(data, name)
            )
        except (NotFound, Corrupt):
            return self.own_index(pack_id)

    def own_index(self, pack_id: bytes) -> pack.Index:
        """What a pack holds by the index it carries itself. Raises `NotFound`, `Corrupt`."""
        return pack.parse_index(self.index_in_pack(pack_id), layout.pack(pack_id))

    def index_in_pack(self, pack_id: bytes) -> bytes:
        """The bytes of the index that a pack carries itself. Raises `NotFound`, `Corrupt`."""
        _, start, stop = self._extents(pack_id)
        return self.reader.get(layout.pack(pack_id), start, stop)

    def pack_use(self, pack_id: bytes) -> PackUse:
        """A pack as locate hints name it. Raises `NotFound`, `Corrupt`."""
        size, start, stop = self._extents(pack_id)
        return PackUse(pack_id, size, stop - start)

    def _extents(self, pack_id: bytes) -> tuple[int, int, int]:
        """The size of a pack, and where in it its index begins and ends."""
        name = layout.pack(pack_id)
        size = self.reader.size(name)
        footer = self.reader.get(name, max(size - pack.FOOTER.size, 0), size)
        return size, *pack.index_extent(footer, size, name)


def _no_tag(ref: Ref, spec: Spec, what: str) -> str:
    names = [tag.name for tag in ref.tags]
    more = f" and {len(names) - _SHOWN_TAGS} more" if len(names) > _SHOWN_TAGS else ""
    tags = ", ".join(names[:_SHOWN_TAGS])
    return f"image {spec.image!r} has no {what} {spec.tag!r}; its tags are {tags}{more}"


class RemoteLocator:
    """Finds the chunks of versions by their locate hints, learning indexes only as needed.

    The newest packs are asked first: a node one version behind learns the index of the new pack
    and no other. Of several versions, such as layers, those of each in turn.
    """

    def __init__(self, repository: Repository, catalog: Catalog, *version_ids: bytes) -> None:
        self._repository = repository
        self._catalog = catalog
        self._version_ids = version_ids
        self._unlearnt: list[bytes] | None = None
        self._refreshed = False

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """Where all of these chunks lie. Raises `NotFound` when one can't be found."""
        wanted = list(digests)
        found = self._catalog.places(wanted)
        missing = [digest for digest in wanted if digest not in found]
        while missing:
            if not self._learn_next():
                raise NotFound(
                    f"chunk {missing[0].hex()} is in no pack the store names for "
                    f"{'this version' if len(self._version_ids) == 1 else 'these versions'}",
                    name=missing[0].hex(),
                )
            found.update(self._catalog.places(missing))
            missing = [digest for digest in missing if digest not in found]
        return found

    def _learn_next(self) -> bool:
        if self._unlearnt is None:
            hints = [self._repository.locate(version_id) for version_id in self._version_ids]
            in_turn = (use.pack for uses in zip_longest(*hints) for use in uses if use is not None)
            known = self._catalog.packs
            fresh = dict.fromkeys(pack_id for pack_id in in_turn if pack_id not in known)
            self._unlearnt = list(reversed(fresh))
        if not self._unlearnt:
            return False
        pack_id = self._unlearnt.pop()
        # The second time by what the pack itself says: an `.idx` may be whole and of another pack.
        read = self._repository.own_index if self._refreshed else self._repository.index
        self._catalog.learn(pack_id, read(pack_id))
        return True

    def refresh(self) -> bool:
        """Forget all places and the hint, once: packs may have been repacked meanwhile."""
        if self._refreshed:
            return False
        self._refreshed = True
        self._catalog.forget(self._catalog.packs)
        self._unlearnt = None
        return True

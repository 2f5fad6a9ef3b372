"""Tags: naming versions, and taking names away.

Promises: each change is one new ref, made under the store's lock, or nothing; `latest` is always
there as long as the image is. No content goes: what no tag reaches any more is `gc`'s to drop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chunkstore.errors import NotFound, Usage
from chunkstore.objects.documents import Ref, Tag
from chunkstore.objects.names import LATEST, Spec, check_name
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store


@dataclass(frozen=True)
class TagReport:
    """What became of a tag.

    `before` is the version it named, if any. `left` says that no tag reaches that version now.
    """

    version: bytes
    before: bytes | None
    left: bool


@dataclass(frozen=True)
class RemovalReport:
    """What `remove` did: the tags it took away, and what `latest` names now.

    `latest` is None when the image is gone. `left` says that no tag reaches the version now.
    """

    version: bytes
    tags: tuple[str, ...]
    latest: bytes | None
    left: bool


def tag(store: Store, spec: Spec, name: str, *, now: int) -> TagReport:
    """Let `name` name the version of `spec`. Raises `Usage`, `NotFound`."""
    check_name(name, "a tag")
    with store.locked(f"imgstore tag {spec.image}"):
        ref = store.ref(spec.image)
        target = store.resolve_in(ref, spec)
        old = ref.find(name)
        if old is not None and old.version == target.id:
            return TagReport(target.id, target.id, left=False)
        ref = store.change_ref(spec.image, [_tag(name, target)], now=now)
        left = old is not None and not _reaches(store, ref, old.version)
        return TagReport(target.id, None if old is None else old.version, left)


def untag(store: Store, image: str, name: str, *, now: int) -> TagReport:
    """Take a tag away. Raises `NotFound`; `Usage` for `latest`, which an image can't do without."""
    check_name(image, "an image")
    if name == LATEST:
        raise Usage(
            f"an image can't be without {LATEST!r}: move it with 'tag', or remove the version "
            "or the image with 'rm'"
        )
    with store.locked(f"imgstore untag {image}"):
        old = store.ref(image).find(name)
        if old is None:
            raise NotFound(f"image {image!r} has no tag {name!r}", name=f"{image}:{name}")
        ref = store.change_ref(image, drop=[name], now=now)
        return TagReport(old.version, old.version, not _reaches(store, ref, old.version))


def remove(store: Store, spec: Spec, *, now: int) -> RemovalReport:
    """Take all tags off a version; if it was the latest, its parent becomes that.

    Without a parent the image goes, if no other version of it is tagged. Raises `NotFound`, and
    `Usage` for a version that only history keeps.
    """
    with store.locked(f"imgstore rm {spec.image}"):
        ref = store.ref(spec.image)
        target = store.resolve_in(ref, spec)
        tags = tuple(item.name for item in ref.tags if item.version == target.id)
        if not tags:
            raise Usage(
                f"{spec} has no tag: it is there as history of later versions, and "
                "'imgstore gc --keep N' drops history"
            )
        latest = ref.find(LATEST)
        moved: list[Tag] = []
        if LATEST in tags:
            parent = next(_ancestors(store, target), None)
            if parent is None and len(tags) < len(ref.tags):
                others = ", ".join(item.name for item in ref.tags if item.name not in tags)
                raise Usage(
                    f"{spec} is the latest and has no parent, but {others} still stands: "
                    f"tag another version as {LATEST!r} first, or remove the image"
                )
            if parent is None:
                store.remove_image(spec.image)
                return RemovalReport(target.id, tags, None, left=True)
            latest = _tag(LATEST, parent)
            moved = [latest]
        ref = store.change_ref(spec.image, moved, drop=tags, now=now)
        kept = None if latest is None else latest.version
        return RemovalReport(target.id, tags, kept, not _reaches(store, ref, target.id))


def remove_image(store: Store, image: str) -> tuple[str, ...]:
    """Remove an image with all its tags, and return those. Raises `NotFound`."""
    check_name(image, "an image")
    with store.locked(f"imgstore rm {image}"):
        tags = tuple(item.name for item in store.ref(image).tags)
        store.remove_image(image)
        return tags


def _tag(name: str, target: Resolved) -> Tag:
    return Tag(name, target.id, len(target.version.encode()))


def _ancestors(store: Store, found: Resolved) -> Iterator[Resolved]:
    return store.history(found.version.parent)


def _reaches(store: Store, ref: Ref, version_id: bytes) -> bool:
    """Whether a version is tagged, or history of one that is."""
    return any(version_id == item for item in _history_of_all(store, ref.tags))


def _history_of_all(store: Store, tags: Iterable[Tag]) -> Iterator[bytes]:
    seen: set[bytes] = set()
    for item in tags:
        for found in store.history(item.version):
            if found.id in seen:
                break
            seen.add(found.id)
            yield found.id

"""Asking a remote who vouches for it: following its root documents, and believing its refs.

Promises: a chain of roots is followed from what is pinned, one version at a time, each checked by
the one before it; nothing that a remote sends chooses a key. What comes of it is a `Memory`, which
is for the caller to keep. The rules are those of `trust`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from chunkstore.errors import NotFound, Untrusted
from chunkstore.objects.documents import Ref
from chunkstore.storage.repository import Repository
from chunkstore.trust import refs
from chunkstore.trust.memory import Memory
from chunkstore.trust.root import SignedRoot, check_first, check_next, is_pinned

MOST_ROOTS: Final = 1000
"""Root documents that are looked through for a pinned key: before it is found nobody vouches for
their number."""


def _first(repository: Repository) -> SignedRoot:
    try:
        return repository.signed_root(1)
    except NotFound as error:
        # Say so when there is no store at all.
        _ = repository.settings
        raise Untrusted(
            "the store has no root document, so its images are not signed: --insecure pulls them "
            "all the same"
        ) from error


def by_keys(repository: Repository, key_ids: Iterable[bytes]) -> Iterator[SignedRoot]:
    """The first root that all of these root keys have signed, and those that follow it.

    Raises `Untrusted` when there is none.
    """
    wanted = list(key_ids)
    signed = _first(repository)
    for version in range(2, MOST_ROOTS):
        if is_pinned(signed, wanted):
            yield from by_document(repository, signed)
            return
        try:
            signed = repository.signed_root(version)
        except NotFound:
            break
    if is_pinned(signed, wanted):
        yield from by_document(repository, signed)
        return
    keys = ", ".join(key_id.hex() for key_id in wanted)
    raise Untrusted(f"the store is not signed by root key {keys}")


def by_document(repository: Repository, signed: SignedRoot) -> Iterator[SignedRoot]:
    """A root that somebody handed over, and those that follow it. Raises `Untrusted`."""
    root = check_first(signed)
    yield signed
    for _ in range(MOST_ROOTS):
        try:
            signed = repository.signed_root(root.version + 1)
        except NotFound:
            return
        root = check_next(root, signed)
        yield signed
    raise Untrusted(f"the store shows more than {MOST_ROOTS} root documents")


def first_use(repository: Repository) -> Iterator[SignedRoot]:
    """Whatever root the store shows first, and those that follow it. Raises `Untrusted`."""
    return by_document(repository, _first(repository))


def settle(
    chain: Iterable[SignedRoot], known: Memory | None, *, clock: int, may_replace: bool = False
) -> Memory:
    """The memory of a store whose roots these are, from the pinned one to the newest.

    `known` is what is remembered of the store already, and is gone on with if it is of the same
    chain; with `may_replace` another chain takes its place. Raises `Untrusted` when the chain ends
    before what is known, is another, or has expired.
    """
    is_known = known is None
    newest: SignedRoot | None = None
    for newest in chain:
        if known is not None and newest.root == known.root:
            is_known = True
    assert newest is not None
    memory = Memory(newest, newest.root.time)
    if not is_known and not may_replace:
        raise Untrusted(
            "the store shows other root documents than were seen before; 'imgstore trust --forget' "
            "lets go of those"
        )
    if known is not None and newest.root.version < known.root.version:
        raise Untrusted(
            f"the store shows {newest.where} as its newest, and {known.root.version} was seen "
            "before; 'imgstore trust --forget' lets go of that"
        )
    if known is not None and is_known:
        latest = known.latest if newest.root == known.root else newest.root.time
        memory = Memory(newest, latest, known.images)
    memory.check_root_expiry(clock=clock, latest=memory.latest)
    return memory


def advanced(repository: Repository, memory: Memory, version: int) -> Memory:
    """The memory with the root of that version, if it has an older one. Raises `Untrusted`."""
    while memory.root.version < version:
        following = memory.root.version + 1
        try:
            memory = memory.advanced(repository.signed_root(following))
        except NotFound as error:
            raise Untrusted(
                f"refs are signed under root document {version}, and the store has no {following}"
            ) from error
        except Untrusted:
            if not repository.doubt_root(following):
                raise
    return memory


def believed(
    repository: Repository,
    memory: Memory,
    images: Sequence[str],
    *,
    clock: int,
    keep: Callable[[Memory], object],
) -> list[Ref]:
    """The refs of the images. Raises `NotFound`, `Untrusted`.

    `keep` is given the memory that follows: once the roots are followed, for those are vouched for
    whatever becomes of the refs, and once all refs are believed. Of several mirrors the first whose
    ref can be believed is as good as another.
    """
    found: list[Ref] = []
    following = memory
    for image in images:
        while True:
            ref, envelope = repository.signed_ref(image)
            try:
                following = _followed(repository, following, ref, keep)
                following = following.believe(ref, envelope, image, clock=clock)
            except Untrusted:
                if not repository.doubt_ref(image):
                    raise
            else:
                found.append(ref)
                break
    if any(ref.root < following.root.version for ref in found):
        # While a key is replaced, some may have been fetched before they were signed again.
        return believed(repository, following, images, clock=clock, keep=keep)
    if following != memory:
        keep(following)
    return found


def _followed(
    repository: Repository, memory: Memory, ref: Ref, keep: Callable[[Memory], object]
) -> Memory:
    """The memory with the root under which a ref of its store says it is signed."""
    # Not believed yet: it only says where to look.
    if ref.store_id != memory.root.store_id or ref.root <= memory.root.version:
        return memory
    newer = advanced(repository, memory, ref.root)
    keep(newer)
    return newer


def unsigned(repository: Repository, images: Sequence[str], store_id: bytes | None) -> list[Ref]:
    """Refs that nobody vouches for. Raises `Untrusted` when somebody does, or of another store."""
    found = []
    for image in images:
        ref, envelope = repository.signed_ref(image)
        refs.check_identity(ref, image, ref.store_id if store_id is None else store_id)
        if ref.root or envelope.signatures:
            raise Untrusted(
                f"ref of image {image}: is signed, and --insecure is for stores that are not: "
                "'imgstore trust' tells this node by which key"
            )
        found.append(ref)
    return found

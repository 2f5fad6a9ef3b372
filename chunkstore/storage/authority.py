"""Who may sign for a store on this machine, and signing.

The root document that counts lies in `local/root`; what `roots/` serves are copies. Promises: no
ref is signed on the word of one that this store did not sign itself, so whoever can only write to
the served part gets nothing signed; a new root is durable before a ref is signed under it, and
`local/root` follows when all refs are. Leaves the store's lock to the caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.errors import Conflict, Corrupt, LocalError, NotFound, Untrusted, local_errors
from chunkstore.objects import documents
from chunkstore.objects.digest import SIZE, statement_digest
from chunkstore.objects.documents import MAX_COUNTER, Ref, Settings
from chunkstore.objects.envelope import Envelope
from chunkstore.storage import layout
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.keyring import Keyring
from chunkstore.trust import refs
from chunkstore.trust.keys import Signer
from chunkstore.trust.root import (
    MAX_ROOT,
    Root,
    SignedRoot,
    check_first,
    check_next,
    parse_root,
)

SECOND: Final = 1_000_000_000
_ROOT: Final = "root"
_ROOT_HERE: Final = f"{layout.LOCAL}/{_ROOT}"


class Authority:
    """Signs and checks the refs of the store whose `settings` these are."""

    def __init__(
        self,
        backend: LocalBackend,
        local: str,
        settings: Settings,
        signers: Sequence[Signer] = (),
    ) -> None:
        self.keyring = Keyring(local)
        self._backend = backend
        self._path = os.path.join(local, _ROOT)
        self._settings = settings
        self.signers = tuple(signers)
        self._checked = os.path.join(local, "checked")
        self._believed: set[bytes] = set()

    @property
    def is_signed(self) -> bool:
        """Whether the store's refs are signed at all."""
        return self._settings.is_signed

    # The root document

    def own_root(self) -> SignedRoot:
        """The root that counts. Raises `LocalError` when this machine has none to go by."""
        with local_errors("can't read who may sign"):
            try:
                with open(self._path, "rb") as file:
                    data = file.read(MAX_ROOT + 1)
            except FileNotFoundError:
                raise LocalError(
                    f"{self._path} is missing: without it nothing can be signed for this store; "
                    "copy it from where the store was made"
                ) from None
        return parse_root(data, self._path)

    def root(self) -> SignedRoot:
        """The root to check by: that which counts, or for who can't read it the newest served."""
        try:
            return self.own_root()
        except LocalError:
            return self.newest_served()

    def newest_served(self) -> SignedRoot:
        """The newest root that the store serves. Raises `Untrusted` when there is none."""
        found = map(layout.ROOT_FILE.fullmatch, self._backend.list(layout.ROOTS))
        versions = [int(match["version"]) for match in found if match is not None]
        if not versions:
            raise Untrusted(f"the store in {self._backend.root} has lost its {layout.ROOTS}")
        signed = self.served(max(versions))
        check_first(signed)
        return signed

    def served(self, version: int) -> SignedRoot:
        """A root as the store serves it. Raises `NotFound`, `Corrupt`."""
        name = layout.root(version)
        signed = parse_root(self._backend.get(name, 0, MAX_ROOT + 1), name)
        if signed.root.version != version:
            raise Corrupt(f"{name}: is root document {signed.root.version}", where=name)
        return signed

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong with the roots that are served: name, and what to say of it."""
        if not self.is_signed:
            return
        try:
            own: SignedRoot | None = self.own_root()
        except LocalError:
            own = None  # a copy of the served part
        except (Corrupt, Untrusted) as error:
            yield _ROOT_HERE, str(error)
            own = None
        before: Root | None = None
        found = map(layout.ROOT_FILE.fullmatch, self._backend.list(layout.ROOTS))
        served = {int(match["version"]) for match in found if match is not None}
        newest = max(served | {own.root.version if own is not None else 1})
        for version in range(1, newest + 1):
            name = layout.root(version)
            try:
                signed = self.served(version)
                before = check_first(signed) if before is None else check_next(before, signed)
                if own is not None and version == own.root.version and signed != own:
                    yield name, f"is not the root document in {_ROOT_HERE}"
            except NotFound:
                yield name, "is missing; nodes that have an older one can't follow it"
                return
            except (Corrupt, Untrusted) as error:
                yield name, str(error)
                return

    def begun(self) -> SignedRoot | None:
        """A next root that is served already but does not count yet: a rotation was interrupted."""
        own = self.own_root().root
        try:
            following = self.served(own.version + 1)
        except NotFound:
            return None
        check_next(own, following)
        return following

    def publish(self, signed: SignedRoot) -> None:
        """Serve a root; from here on nodes may follow it."""
        self._backend.put(layout.root(signed.root.version), signed.encode())

    def settle(self, signed: SignedRoot) -> None:
        """Let a root count: every ref is signed under it. Drops the keys it has no more."""
        with local_errors("can't write who may sign"):
            fsio.write_durably(self._path, signed.encode(), mode=0o600)
        named = {key.id for key in (*signed.root.roots.keys, *signed.root.refs.keys)}
        for file in list(self.keyring.files()):
            if file.key.id not in named:
                self.keyring.drop(file.key.id)

    # Refs

    def opened(self, data: bytes, image: str) -> Ref:
        """A ref of this store's own that it signed itself. Raises `Corrupt`, `Untrusted`."""
        ref, envelope = documents.open_ref(data, f"ref of image {image}")
        if ref.image != image or ref.store_id != self._settings.store_id:
            where = layout.ref(image)
            raise Corrupt(f"ref of image {image}: belongs to another image or store", where=where)
        if self.is_signed and data not in self._believed and not self._was_checked(image, data):
            root = self.root().root
            if ref.root == root.version + 1:
                root = check_next(root, self.served(ref.root))
            refs.check_signature(ref, envelope, root)
            self._note_checked(image, data)
        return ref

    # Checking a signature takes no time, but loading what checks it is a tenth of a commit that
    # finds nothing to do. So the last ref that was good is remembered, beside the root by which it
    # was: whoever could write there could write another root as well.

    def _was_checked(self, image: str, data: bytes) -> bool:
        try:
            with open(os.path.join(self._checked, image), "rb") as file:
                return file.read(SIZE + 1) == self._mark(data)
        except OSError:
            return False

    def _note_checked(self, image: str, data: bytes) -> None:
        self._believed.add(data)
        # A hint, which a power cut may take.
        with suppress(OSError):
            os.makedirs(self._checked, mode=0o700, exist_ok=True)
            temporary = os.path.join(self._checked, fsio.fresh_name())
            with open(temporary, "xb") as file:
                file.write(self._mark(data))
            os.rename(temporary, os.path.join(self._checked, image))

    def _mark(self, data: bytes) -> bytes:
        """Stands for a ref that is good by the root that counts. Raises `OSError`."""
        with open(self._path, "rb") as file:
            return statement_digest(file.read(MAX_ROOT + 1) + data)

    def sealed(self, ref: Ref, *, now: int) -> tuple[Ref, bytes]:
        """The ref that follows `ref`, under the next sequence number, and its bytes.

        Raises `LocalError` when there is no key to sign with.
        """
        if not self.is_signed:
            following = ref._replace(sequence=self._after(ref, 0), time=now, root=0, expires=0)
            return following, documents.encode_ref(Envelope(following.payload))
        root = (self.begun() or self.own_root()).root
        lifetime = self._settings.lifetime * SECOND
        following = ref._replace(
            root=root.version,
            sequence=self._after(ref, root.version),
            time=now,
            expires=now + lifetime if lifetime else 0,
        )
        envelope = refs.sign_ref(following, self.online(root))
        data = documents.encode_ref(envelope)
        self._note_checked(following.image, data)
        return following, data

    def _after(self, ref: Ref, root: int) -> int:
        if ref.sequence < MAX_COUNTER:
            return ref.sequence + 1
        if root > ref.root:
            return 1  # a newer root comes before all numbers of the older
        raise Conflict(
            f"ref of image {ref.image}: its sequence numbers have come to an end; "
            "'imgstore key rotate online' begins them anew"
        )

    def online(self, root: Root) -> list[Signer]:
        """Who signs refs under a root: whoever was given, else the keys that are here.

        Raises `LocalError` when there are too few.
        """
        given = [signer for signer in self.signers if root.refs.holds(signer.key)]
        if len(given) >= root.refs.threshold:
            return given
        wrong = [signer.key.fingerprint for signer in self.signers]
        if wrong:
            raise LocalError(f"key {', '.join(wrong)} is not one that signs refs of this store")
        found: list[Signer] = []
        for key in root.refs.keys:
            file = self.keyring.find(key.id)
            if file is not None:
                found.append(file.open())
        if len(found) < root.refs.threshold:
            missing = ", ".join(key.fingerprint for key in root.refs.keys)
            raise LocalError(
                f"no key here to sign with: {missing}; give it by $IMGSTORE_KEY, or if it is lost "
                "replace it by 'imgstore key rotate online'"
            )
        return found

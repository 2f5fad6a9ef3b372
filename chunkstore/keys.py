"""Keys of a store: signing its refs again in time, replacing keys, taking them elsewhere.

Promises: each change holds the store's lock; a new root document is vouched for by the one before
it, so nodes follow it by themselves; an interrupted change is finished by the next one, and until
then every ref is good under one of the two roots. Leaves prompting for passphrases, and where keys
come from, to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chunkstore.errors import LocalError, NotFound, Usage
from chunkstore.storage.authority import SECOND
from chunkstore.storage.keyring import new_key, write_secret
from chunkstore.storage.store import Store
from chunkstore.trust.keys import PublicKey, Signer
from chunkstore.trust.root import MAX_KEYS, YEAR, Root, SignedRoot, check_next, role, sign_root

ONLINE = "online"
ROOT = "root"
DOCUMENT = "document"


@dataclass(frozen=True)
class HeldKey:
    """A key of a store's root document: its role, and whether its secret is kept with the store."""

    role: str
    key: PublicKey
    is_here: bool
    needs_passphrase: bool


@dataclass(frozen=True)
class RefreshReport:
    """What `refresh` did: which images were signed again, and under which root document.

    `is_root_renewed` says that the root document, too, is a new one.
    """

    images: tuple[str, ...]
    root: Root
    is_root_renewed: bool


@dataclass(frozen=True)
class RotationReport:
    """What became of a rotation. `is_finished` says that an interrupted one was, and no more."""

    root: Root
    images: tuple[str, ...]
    is_finished: bool


def current_root(store: Store) -> SignedRoot:
    """The root document of a store. Raises `Usage` when its refs are not signed."""
    if not store.authority.is_signed:
        raise Usage(f"the store in {store.root} was made without keys ('init --unsigned')")
    return store.authority.root()


def held(store: Store) -> list[HeldKey]:
    """The keys of the root document, root keys first. Raises `Usage` for an unsigned store."""
    root = current_root(store).root
    found = []
    for name, of_role in ((ROOT, root.roots), (ONLINE, root.refs)):
        for key in of_role.keys:
            file = store.authority.keyring.find(key.id)
            sealed = file is not None and file.needs_passphrase
            found.append(HeldKey(name, key, file is not None, sealed))
    return found


def refresh(store: Store, *, now: int, lifetime: int | None = None) -> RefreshReport:
    """Sign all refs again, so that they don't expire; `lifetime` changes for how many seconds.

    As long as the root key is kept with the store and open, the root document is renewed as well
    when half of its time is over. Refs that never expire are left alone.
    """
    current_root(store)
    with store.locked("imgstore refresh"):
        if lifetime is not None and lifetime != store.settings.lifetime:
            store.change_lifetime(lifetime)
        begun = store.authority.begun() or _renewed(store, now)
        root = (begun or store.authority.own_root()).root
        images = []
        for image in store.images():
            ref = store.ref(image)
            if ref.root != root.version or ref.expires or store.settings.lifetime:
                store.sign_again(image, now=now)
                images.append(image)
        if begun is not None:
            store.authority.settle(begun)
        return RefreshReport(tuple(images), root, begun is not None)


def _renewed(store: Store, now: int) -> SignedRoot | None:
    """A root document that lives longer, if it is time and the root keys are at hand."""
    root = store.authority.own_root().root
    if not root.expires or now < (root.time + root.expires) // 2:
        return None
    files = [store.authority.keyring.find(key.id) for key in root.roots.keys]
    signers = [file.open() for file in files if file is not None and not file.needs_passphrase]
    if len(signers) < root.roots.threshold:
        return None
    life = root.expires - root.time
    return _publish(store, root._replace(time=now, expires=now + life), signers)


def _publish(store: Store, changed: Root, signers: Sequence[Signer]) -> SignedRoot:
    own = store.authority.own_root().root
    signed = sign_root(changed._replace(version=own.version + 1), signers)
    # What no node would follow must not be served, nor what no ref could be signed under.
    check_next(own, signed)
    store.authority.online(signed.root)
    store.authority.publish(signed)
    return signed


def rotate(
    store: Store,
    what: str,
    *,
    now: int,
    signers: Sequence[Signer] = (),
    new: Sequence[PublicKey | Signer] = (),
    threshold: int = 1,
    passphrase: bytes | None = None,
    lifetime: int = YEAR,
) -> RotationReport:
    """Replace the `online` key, the `root` key, or only the `document` by one that lives longer.

    `signers` hold the root keys, besides those kept with the store; `new` take the place of the
    old ones, instead of a key made here (of root keys the signers, since they have to sign), and
    `threshold` of them have to sign from then on. All refs are signed again. Raises `LocalError`
    when keys that have to sign are missing.
    """
    current_root(store)
    with store.locked(f"imgstore key rotate {what}"):
        begun = store.authority.begun()
        is_finished = begun is not None
        if begun is None:
            begun = _changed(store, what, now, list(signers), new, threshold, passphrase, lifetime)
        images = tuple(store.images())
        for image in images:
            store.sign_again(image, now=now)
        store.authority.settle(begun)
        return RotationReport(begun.root, images, is_finished)


def _changed(
    store: Store,
    what: str,
    now: int,
    signers: list[Signer],
    new: Sequence[PublicKey | Signer],
    threshold: int,
    passphrase: bytes | None,
    lifetime: int,
) -> SignedRoot:
    root = store.authority.own_root().root
    signers += _root_signers(store, root, signers)
    changes: dict[str, Callable[[], Root]] = {
        ONLINE: lambda: root._replace(
            refs=role([_public(key) for key in new] or [_made(store)], threshold)
        ),
        ROOT: lambda: root._replace(
            roots=role(_new_root_keys(store, signers, new, passphrase), threshold)
        ),
        DOCUMENT: lambda: root,
    }
    if what not in changes:
        raise Usage(f"{what!r} can't be rotated: online, root, or document")
    if not 1 <= threshold <= max(len(new), 1) <= MAX_KEYS:
        raise Usage(f"{threshold} of {max(len(new), 1)} keys can't be asked to sign")
    changed = changes[what]()
    expires = now + lifetime * SECOND if lifetime else 0
    return _publish(store, changed._replace(time=now, expires=expires), signers)


def _public(new: PublicKey | Signer) -> PublicKey:
    return new if isinstance(new, PublicKey) else new.key


def _made(store: Store) -> PublicKey:
    pair = new_key()
    store.authority.keyring.keep(pair)
    return pair.key


def _new_root_keys(
    store: Store,
    signers: list[Signer],
    new: Sequence[PublicKey | Signer],
    passphrase: bytes | None,
) -> list[PublicKey]:
    fresh: list[Signer] = []
    for key in new:
        if isinstance(key, PublicKey):
            raise Usage("a new root key has to sign: name the file of the secret key")
        fresh.append(key)
    if not fresh:
        pair = new_key()
        store.authority.keyring.keep(pair, passphrase=passphrase)
        fresh.append(pair)
    signers += fresh
    return [signer.key for signer in fresh]


def _root_signers(store: Store, root: Root, given: Sequence[Signer]) -> list[Signer]:
    """Root keys kept with the store, as far as they are needed. Raises `LocalError`."""
    there = {signer.key for signer in given} & set(root.roots.keys)
    found: list[Signer] = []
    sealed = ""
    for key in root.roots.keys:
        if len(there) + len(found) >= root.roots.threshold:
            break
        file = store.authority.keyring.find(key.id)
        if key in there or file is None:
            continue
        if file.needs_passphrase:
            sealed = f"; key {key.fingerprint} needs its passphrase"
            continue
        found.append(file.open())
    if len(there) + len(found) < root.roots.threshold:
        wanted = ", ".join(key.fingerprint for key in root.roots.keys)
        raise LocalError(
            f"the root key is not here: bring it by --root-key FILE ({wanted}){sealed}"
        )
    return found


def take_out(
    store: Store, what: str, path: str, *, passphrase: bytes | None = None, remove: bool = False
) -> PublicKey:
    """Copy the secret `root` or `online` key into a file, and with `remove` away from the store.

    Raises `NotFound` when it is not kept here.
    """
    root = current_root(store).root
    of_role = root.roots if what == ROOT else root.refs
    with store.locked(f"imgstore key export {what}"):
        for key in of_role.keys:
            file = store.authority.keyring.find(key.id)
            if file is None:
                continue
            # Durable elsewhere before it is gone here.
            write_secret(path, file.open(passphrase), passphrase=passphrase)
            if remove:
                store.authority.keyring.drop(key.id)
            return key
    raise NotFound(f"the {what} key is not kept with the store", name=what)

"""Founding a store: its directory, its keys, and last its settings.

Promises: a store is there when its settings are, whole and durable; whoever was killed before that
begins anew, and leaves at most keys that nobody knows. Leaves everything after that to `store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from chunkstore import fsio
from chunkstore.errors import Conflict, local_errors
from chunkstore.objects import documents
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.documents import Settings
from chunkstore.storage import keyring, layout
from chunkstore.storage.authority import SECOND, Authority
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.keyring import new_key
from chunkstore.storage.store import Store
from chunkstore.trust.keys import PublicKey, Signer
from chunkstore.trust.root import YEAR, Root, role, sign_root

_FOLDERS = (
    *(layout.IMAGES, layout.VERSIONS, layout.PACKS, layout.LOCATE),
    *(layout.DELTAS, layout.ROOTS),
)


def create(
    root: str,
    *,
    now: int,
    compression: str = "auto",
    chunker: Parameters | None = None,
    is_signed: bool = True,
    lifetime: int = documents.WEEK,
    root_key: Signer | None = None,
    online: Sequence[PublicKey] = (),
    root_lifetime: int = YEAR,
) -> Store:
    """Make an empty store in a new or empty directory. Raises `Conflict` when one is there.

    `lifetime` is for how many seconds a ref is believed, `root_lifetime` the root document; 0 is
    for ever. Without `root_key`, or keys that sign refs in `online`, one is made and kept with the
    store.
    """
    with local_errors("can't make a store"):
        fsio.make_directories(root)
        if os.path.exists(os.path.join(root, layout.SETTINGS)):
            raise Conflict(f"there is a store in {root} already")
        # Whoever was killed at it before has left some of these: the settings come last.
        known = {layout.LOCAL, *(name.rstrip("/") for name in _FOLDERS)}
        for name in filter(fsio.is_fresh_name, os.listdir(root)):
            os.unlink(os.path.join(root, name))  # settings that had no name of their own yet
        if not known.issuperset(os.listdir(root)) or any(_of_value(root)):
            raise Conflict(f"{root} is not empty: a store needs a directory of its own")
        for folder in _FOLDERS:
            os.makedirs(os.path.join(root, folder), exist_ok=True)
        local = os.path.join(root, layout.LOCAL)
        os.makedirs(os.path.join(local, "spool"), mode=0o700, exist_ok=True)
        os.chmod(local, 0o700)
        settings = Settings(
            os.urandom(16), chunker or Parameters(), compression, is_signed, lifetime
        )
        if is_signed:
            with closing(LocalBackend(root)) as backend:
                _found_keys(
                    *(backend, local, settings),
                    now=now,
                    root_key=root_key,
                    online=online,
                    lifetime=root_lifetime,
                )
        fsio.write_durably(os.path.join(root, layout.SETTINGS), settings.encode())
        # A commit that was acknowledged must not go with the directory's own name, whoever made it.
        fsio.sync_directory(os.path.dirname(os.path.abspath(root)))
    return Store(root)


def _of_value(root: str) -> Iterator[str]:
    """Files that no interrupted `create` can have left: it makes keys and the first root."""
    for above, _, files in os.walk(root):
        place = os.path.relpath(above, root)
        if place in ("roots", os.path.join(layout.LOCAL, keyring.FOLDER)):
            continue
        yield from (name for name in files if place != layout.LOCAL or name != "root")


def _found_keys(
    backend: LocalBackend,
    local: str,
    settings: Settings,
    *,
    now: int,
    root_key: Signer | None = None,
    online: Sequence[PublicKey] = (),
    lifetime: int = YEAR,
) -> None:
    """Make the keys of a new store and its first root document; the settings come later.

    Keys that are not given are made, and kept with the store: the root key until somebody takes it
    away. `lifetime` is of the root document, in seconds; 0 is for ever.
    """
    authority = Authority(backend, local, settings)
    if not online:
        pair = new_key()
        authority.keyring.keep(pair)
        online = [pair.key]
    if root_key is None:
        made = new_key()
        authority.keyring.keep(made)
        root_key = made
    root = Root(
        store_id=settings.store_id,
        version=1,
        time=now,
        expires=now + lifetime * SECOND if lifetime else 0,
        roots=role([root_key.key]),
        refs=role(online),
    )
    signed = sign_root(root, [root_key])
    authority.publish(signed)
    authority.settle(signed)


def open_or_create(
    root: str,
    *,
    now: int,
    waiting: Callable[[str], None] | None = None,
    signers: Sequence[Signer] = (),
    notice: Callable[[str], None] | None = None,
) -> Store:
    """The store in `root`, made with the defaults when nothing is there."""
    if not os.path.exists(os.path.join(root, layout.SETTINGS)):
        create(root, now=now, online=[signer.key for signer in signers])
    return Store(root, waiting=waiting, signers=signers, notice=notice)

"""`imgstore init`: make a store."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from chunkstore import keys
from chunkstore.errors import Usage
from chunkstore.objects.codec import check_method
from chunkstore.objects.documents import WEEK
from chunkstore.storage.founding import create
from imgstore import signing
from imgstore.output import Output
from imgstore.stores import store_path

if TYPE_CHECKING:
    from chunkstore.trust.keys import Signer


def run(options: Namespace, output: Output) -> int:
    """Make an empty store where the options say, and say by which key it is to be known."""
    compression = check_method(options.compression)
    life = signing.lifetime(options)
    store = create(
        store_path(options),
        now=time.time_ns(),
        compression=compression,
        is_signed=not options.unsigned,
        lifetime=WEEK if life is None else life,
        root_key=_root_key(options),
        online=[] if options.unsigned else [item.key for item in signing.online_signers()],
    )
    settings = store.settings
    fingerprints: list[str] = []
    if not options.unsigned:
        root = keys.current_root(store).root
        fingerprints = [key.fingerprint for key in root.roots.keys]
    known = f"; its root key is {', '.join(fingerprints)}" if fingerprints else ", without keys"
    output.report(
        f"made a store in {store.root}{known}",
        {
            "store": store.root,
            "id": settings.store_id.hex(),
            "compression": settings.compression,
            "chunker": settings.chunker._asdict(),
            "signed": settings.is_signed,
            "lifetime": settings.lifetime or None,
            "root_keys": fingerprints,
        },
    )
    return 0


def _root_key(options: Namespace) -> Signer | None:
    """The root key that is given, or made where it is to be; None for one kept with the store."""
    given = [*options.root_key, *options.root_key_command]
    if options.unsigned and given:
        raise Usage("--unsigned and --root-key contradict each other")
    if len(given) > 1:
        raise Usage("a store begins with one root key")
    if not given:
        return None
    if options.root_key and not os.path.lexists(options.root_key[0]):
        from chunkstore.storage.keyring import new_key, write_secret

        pair = new_key()
        write_secret(options.root_key[0], pair, passphrase=signing.new_passphrase(options))
        return pair
    return signing.root_signers(options)[0]

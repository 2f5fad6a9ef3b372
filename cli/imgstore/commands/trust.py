"""`imgstore trust`: say which store a node believes."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from contextlib import closing

from chunkstore import pin
from chunkstore.errors import Usage, local_errors
from chunkstore.trust import keyfile
from chunkstore.trust.keys import parse_fingerprint
from chunkstore.trust.root import MAGIC, MAX_ROOT, SignedRoot, parse_root
from imgstore.output import Output, root_document
from imgstore.remotes import remote_reader, without_secrets

_NODE = "/"


def run(options: Namespace, output: Output) -> int:
    """Pin, or forget what was pinned."""
    if sum((bool(options.keys), options.first, options.forget)) != 1:
        raise Usage("'imgstore trust' takes one of --key, --first and --forget")
    if options.forget:
        return _forget(options, output)
    if options.remote is None:
        raise Usage("say which store to believe: 'imgstore trust ... REMOTE [DIR]'")
    directory = options.directory or _NODE
    keys, document = _anchors(options.keys)
    with closing(remote_reader(options.remote, options)) as reader:
        root = pin.pin(*(reader, directory), clock=time.time_ns(), keys=keys, document=document)
    fingerprints = [key.fingerprint for key in root.roots.keys]
    output.report(
        f"{directory} trusts store {root.store_id.hex()} by root key {', '.join(fingerprints)}",
        {
            "directory": directory,
            "remote": without_secrets(options.remote),
            **root_document(root),
            "root_keys": fingerprints,
            "first": options.first,
        },
    )
    return 0


def _forget(options: Namespace, output: Output) -> int:
    if options.remote is None or options.directory is not None:
        raise Usage(
            "say which directory is to forget, and no remote: 'imgstore trust --forget DIR'"
        )
    pin.forget(options.remote)
    output.report(
        f"{options.remote} trusts no store now", {"directory": options.remote, "forgotten": True}
    )
    return 0


def _anchors(texts: list[str]) -> tuple[list[bytes], SignedRoot | None]:
    """What `--key` names: ids of keys, or one root document."""
    keys: list[bytes] = []
    document: SignedRoot | None = None
    for text in texts:
        if not os.path.exists(text):
            keys.append(parse_fingerprint(text))
            continue
        with local_errors("can't read the key"), open(text, "rb") as file:
            data = file.read(MAX_ROOT + 1)
        if data.startswith(MAGIC):
            document = parse_root(data, text)
        else:
            keys.append(keyfile.parse_public(data.decode("ascii", "replace"), text).id)
    if document is not None and len(texts) > 1:
        raise Usage("a root document names its keys itself: it is the only --key")
    return keys, document

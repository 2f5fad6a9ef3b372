"""`imgstore key`: make, list, replace and move signing keys."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from chunkstore import fsio, keys
from chunkstore.errors import Conflict, Usage, local_errors
from chunkstore.storage.keyring import new_key, write_secret
from chunkstore.trust import keyfile
from chunkstore.trust.root import YEAR
from imgstore import signing
from imgstore.output import Output, root_document
from imgstore.readable import counted, local_time, table
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.trust.keys import PublicKey, Signer
    from chunkstore.trust.root import Root


def run(options: Namespace, output: Output) -> int:
    """Do what the action says."""
    actions = {"generate": _generate, "list": _list, "rotate": _rotate, "export": _export}
    actions[options.action](options, output)
    return 0


def _wanted(options: Namespace, choices: tuple[str, ...]) -> str:
    what: str | None = options.what
    if what not in choices:
        raise Usage(f"'imgstore key {options.action}' takes one of {', '.join(choices)}")
    return what


def _generate(options: Namespace, output: Output) -> None:
    path = options.what
    if not path:
        raise Usage("'imgstore key generate' takes the name of the file to make")
    if os.path.lexists(f"{path}.pub"):
        raise Conflict(f"{path}.pub is there already")
    pair = new_key()
    write_secret(path, pair, passphrase=signing.new_passphrase(options))
    _write_new(f"{path}.pub", keyfile.encode_public(pair.key).encode())
    output.report(
        f"{path} is key {pair.key.fingerprint}; {path}.pub is its public part",
        {"file": path, "public": f"{path}.pub", "key": pair.key.fingerprint},
    )


def _write_new(path: str, data: bytes) -> None:
    with local_errors(f"can't write {path}"):
        if os.path.lexists(path):
            raise Conflict(f"{path} is there already")
        fsio.write_durably(path, data)


def _list(options: Namespace, output: Output) -> None:
    store = open_store(options, output)
    root = keys.current_root(store).root
    held = keys.held(store)
    document = {
        **root_document(root),
        "lifetime": store.settings.lifetime or None,
        "keys": [
            {
                "role": item.role,
                "key": item.key.fingerprint,
                "here": item.is_here,
                "passphrase": item.needs_passphrase,
            }
            for item in held
        ],
    }
    if output.as_json:
        output.document(document)
        return
    output.line(f"store {root.store_id.hex()}, {_root_text(root)}")
    for line in table([item.role, item.key.fingerprint, _where(item)] for item in held):
        output.line(line)
    if any(item.role == keys.ROOT and item.is_here for item in held):
        output.note(
            "the root key is kept with the store: 'imgstore key export root --remove -o FILE' "
            "takes it away"
        )


def _where(item: keys.HeldKey) -> str:
    if not item.is_here:
        return "elsewhere"
    return "here, with a passphrase" if item.needs_passphrase else "here"


def _root_text(root: Root) -> str:
    until = f"until {local_time(root.expires)}" if root.expires else "for ever"
    return f"root document {root.version}, {until}"


def _rotate(options: Namespace, output: Output) -> None:
    what = _wanted(options, (keys.ONLINE, keys.ROOT, keys.DOCUMENT))
    store = open_store(options, output)
    life = signing.lifetime(options)
    report = keys.rotate(
        *(store, what),
        now=time.time_ns(),
        signers=signing.root_signers(options),
        new=[_new(path, options, what) for path in options.new],
        threshold=options.threshold,
        passphrase=signing.new_passphrase(options) if what == keys.ROOT else None,
        lifetime=YEAR if life is None else life,
    )
    done = "an interrupted rotation was finished" if report.is_finished else f"{what} rotated"
    named = report.root.roots if what == keys.ROOT else report.root.refs
    output.report(
        f"{done}: {_root_text(report.root)}, {counted(len(report.images), 'image')} signed again",
        {
            **root_document(report.root),
            "rotated": what,
            "finished": report.is_finished,
            "keys": [key.fingerprint for key in named.keys],
            "images": list(report.images),
        },
    )


def _new(path: str, options: Namespace, what: str) -> PublicKey | Signer:
    if what == keys.ROOT:
        return signing.signer_in(path, options)
    with local_errors("can't read the new key"), open(path, "rb") as file:
        data = file.read(keyfile.MAX_KEY_FILE + 1)
    return keyfile.parse_public(data.decode("ascii", "replace"), path)


def _export(options: Namespace, output: Output) -> None:
    what = _wanted(options, (keys.DOCUMENT, "public", keys.ROOT, keys.ONLINE))
    if not options.output:
        raise Usage("'imgstore key export' needs -o FILE")
    store = open_store(options, output)
    signed = keys.current_root(store)
    fingerprints = [key.fingerprint for key in signed.root.roots.keys]
    if what == keys.DOCUMENT:
        _write_new(options.output, signed.encode())
    elif what == "public":
        if len(signed.root.roots.keys) != 1:
            raise Usage("the store has several root keys: export the document")
        _write_new(options.output, keyfile.encode_public(signed.root.roots.keys[0]).encode())
    else:
        key = keys.take_out(
            *(store, what, options.output),
            passphrase=signing.new_passphrase(options),
            remove=options.remove,
        )
        fingerprints = [key.fingerprint]
    removed = options.remove and what in (keys.ROOT, keys.ONLINE)
    output.report(
        f"{options.output} is the {what} of key {', '.join(fingerprints)}"
        + ("; it is no longer kept with the store" if removed else ""),
        {"file": options.output, "what": what, "keys": fingerprints, "removed": removed},
    )

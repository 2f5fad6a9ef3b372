"""Which store a command line means, by its options and the environment."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from chunkstore.errors import NotFound, Usage
from imgstore.output import Output, warn
from imgstore.signing import online_signers

if TYPE_CHECKING:
    from chunkstore.storage.store import Store

_OF_ROOT: Final = "/var/lib/imgstore"


def store_path(options: Namespace) -> str:
    """`--store`, `$IMGSTORE_STORE`, or the default of root or of this user. Raises `Usage`."""
    given = options.store
    if given is None:
        given = os.environ.get("IMGSTORE_STORE") or _default()
    if not given:
        raise Usage("--store names no directory")
    path: str = given
    if "://" in path:
        raise Usage(f"the store has to be a directory here, not {path}: 'pull' reads from a URL")
    return os.path.abspath(path)


def _default() -> str:
    if os.geteuid() == 0:
        return _OF_ROOT
    home = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(home):
        # The XDG specification wants a relative path ignored.
        home = os.path.expanduser("~/.local/share")
    return os.path.join(home, "imgstore")


def open_store(options: Namespace, output: Output) -> Store:
    """The store, which has to be there. Raises `NotFound`."""
    from chunkstore.storage.layout import SETTINGS
    from chunkstore.storage.store import Store

    path = store_path(options)
    try:
        store = Store(path, waiting=_waiting(output), signers=online_signers(), notice=warn)
        _ = store.settings
    except NotFound:
        if os.path.isdir(os.path.join(path, "images")):
            raise NotFound(f"the store in {path} has lost its {SETTINGS}", name=path) from None
        raise NotFound(
            f"no store in {path}: 'commit' or 'init' makes one, --store names another", name=path
        ) from None
    return store


def open_or_create(options: Namespace, output: Output) -> Store:
    """The store, made with the defaults when nothing is there."""
    from chunkstore.storage import founding

    return founding.open_or_create(
        store_path(options),
        now=time.time_ns(),
        waiting=_waiting(output),
        signers=online_signers(),
        notice=warn,
    )


def _waiting(output: Output) -> Callable[[str], None]:
    return lambda holder: output.note(f"waiting for {holder}")

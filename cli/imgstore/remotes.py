"""How a command line reaches a remote: mirrors, tokens, certificates, proxies.

By options, and by the environment for verbs and timers that have none of those:
$IMGSTORE_TOKEN_FILE, $IMGSTORE_CA, $IMGSTORE_CLIENT_CERT, $IMGSTORE_CLIENT_KEY, and for proxies
what others call them too, $http_proxy, $https_proxy and $no_proxy. The library never looks there.
"""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from chunkstore.errors import Usage, local_errors
from chunkstore.storage.backends import open_reader

if TYPE_CHECKING:
    from chunkstore.storage.backend import Reader
    from chunkstore.storage.backends.http_access import Access

_LONGEST_TOKEN = 8192


def remote_reader(location: str, options: Namespace) -> Reader:
    """The remote at `location`, and its mirrors."""
    mirrors = [mirror.rstrip("/") for mirror in getattr(options, "mirror_url", ())]
    return open_reader(
        location,
        limit_rate=getattr(options, "limit_rate", None),
        access=access(options),
        mirrors=mirrors,
    )


def without_secrets(location: str) -> str:
    """A remote as it may be shown: without what stands before an @ in a URL."""
    scheme, mark, rest = location.partition("://")
    if not mark:
        return location
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def access(options: Namespace) -> Access | None:
    """What options and environment say; None when they say nothing."""
    said = {
        "authority": _said(options, "ca", "IMGSTORE_CA"),
        "certificate": _said(options, "client_cert", "IMGSTORE_CLIENT_CERT"),
        "key": _said(options, "client_key", "IMGSTORE_CLIENT_KEY"),
        "http_proxy": os.environ.get("http_proxy", ""),
        "https_proxy": os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY", ""),
    }
    token_file = _said(options, "token_file", "IMGSTORE_TOKEN_FILE")
    if token_file:
        said["token"] = read_token(token_file)
    if not any(said.values()):
        return None
    from chunkstore.storage.backends.http_access import Access

    names = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    return Access(**said, no_proxy=tuple(filter(None, map(str.strip, names.split(",")))))


def _said(options: Namespace, name: str, variable: str) -> str:
    return getattr(options, name, None) or os.environ.get(variable, "")


def read_token(path: str) -> str:
    """The token in a file: its first line. Raises `LocalError`, `Usage` when there is none."""
    with local_errors("can't read the token"), open(path, "rb") as file:
        text = file.read(_LONGEST_TOKEN).partition(b"\n")[0].strip()
    if not text or not text.isascii():
        raise Usage(f"{path}: its first line is to be the token, in ASCII")
    return text.decode("ascii")

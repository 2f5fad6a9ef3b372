"""What to do next after a failure, where the error itself can't know: half a line each."""

from __future__ import annotations

import errno
from typing import Final

from chunkstore.errors import (
    ChunkstoreError,
    Conflict,
    Corrupt,
    DamagedState,
    HookFailed,
    LocalError,
    NotFound,
    TransferError,
    Unreachable,
    Unsupported,
)

_BY_ERRNO: Final = {
    errno.ENOSPC: "make room and run it again",
    errno.EDQUOT: "make room and run it again",
    errno.EACCES: "run it as somebody who may, such as root",
    errno.EPERM: "run it as somebody who may, such as root",
    errno.EROFS: "mount it so that it can be written",
    errno.EIO: "the disk fails: 'dmesg' tells more",
    errno.EADDRINUSE: "another program has that port: 'ss -ltnp' tells which",
    errno.EADDRNOTAVAIL: "name one of this machine ('ip address' lists them), or 0.0.0.0 for all",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
_AMISS: Final = {
    "name": "check the name",
    "server": "check that the server runs there and that this is its port ('imgstore serve': 8730)",
    "proxy": "check the proxy, and $http_proxy and $https_proxy",
}
_REMOTE: Final = ("pull", "rollback", "verify")
"""Verbs that look for images on a node's remote."""


def next_step(error: BaseException, verb: str) -> str:
    """Half a line, or nothing when the error says it all."""
    match error:
        case NotFound(name=name):
            return _where_to_look(name, "on the remote's store " if verb in _REMOTE else "")
        case Unsupported() | DamagedState() | Conflict():
            return ""
        case Corrupt() if verb == "import":
            return "nothing was recorded"
        case Corrupt():
            place = "on the remote's store" if verb == "pull" else "to learn what is affected"
            return "" if verb == "verify" else f"run 'imgstore verify' {place}"
        case Unreachable(amiss=amiss):
            return _AMISS[amiss]
        case TransferError(retryable=True) if verb == "pull":
            return "run it again: it goes on where it stopped"
        case HookFailed(stage="pre-apply"):
            return "nothing was changed: mend it and run it again"
        case HookFailed():
            return "the tree is the new version all the same"
        case LocalError() | OSError():
            return _BY_ERRNO.get(error.errno or 0, "")
        case ChunkstoreError() | _:
            return ""


def _where_to_look(name: str, where: str) -> str:
    """`where` the image was looked for, if that is not the store of this command."""
    if name.startswith("images/"):
        return f"'imgstore images' {where}lists what there is"
    image, colon, _ = name.partition(":")
    return f"'imgstore log {image}' {where}lists its versions and tags" if colon and image else ""

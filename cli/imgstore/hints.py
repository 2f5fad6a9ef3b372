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
    Unsupported,
)

_BY_ERRNO: Final = {
    errno.ENOSPC: "make room and run it again",
    errno.EDQUOT: "make room and run it again",
    errno.EACCES: "run it as somebody who may, such as root",
    errno.EPERM: "run it as somebody who may, such as root",
    errno.EROFS: "mount it so that it can be written",
    errno.EIO: "the disk fails: 'dmesg' tells more",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def next_step(error: BaseException, verb: str) -> str:
    """Half a line, or nothing when the error says it all."""
    match error:
        case NotFound(name=name) if verb != "pull":
            return _where_to_look(name)
        case Unsupported() | DamagedState() | Conflict():
            return ""
        case Corrupt() if verb == "import":
            return "nothing was recorded"
        case Corrupt():
            place = "on the remote's store" if verb == "pull" else "to learn what is affected"
            return "" if verb == "verify" else f"run 'imgstore verify' {place}"
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


def _where_to_look(name: str) -> str:
    if name.startswith("images/"):
        return "'imgstore images' lists what there is"
    image, colon, _ = name.partition(":")
    return f"'imgstore log {image}' lists its versions and tags" if colon and image else ""

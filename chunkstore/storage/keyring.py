"""Secret keys in files: those a store's machine keeps, and those kept elsewhere.

Promises: a key file is readable by its owner alone from the moment it has a name, and durable
before anything is signed with it; one that others can read is refused, as is one that is reached
through a symbolic link. The keyring of a store lies below `local/`, which is never served.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.errors import Conflict, LocalError, NotFound, local_errors
from chunkstore.trust import keyfile
from chunkstore.trust.keyfile import KeyFile
from chunkstore.trust.keys import SecretKey, from_secret

FOLDER: Final = "keys"
_SUFFIX: Final = ".key"


def new_key() -> SecretKey:
    """A key pair made of the system's randomness."""
    return from_secret(os.urandom(32))


def read_secret(path: str) -> KeyFile:
    """The key file at `path`. Raises `NotFound`, `LocalError`, `Corrupt`, `Untrusted`."""
    with local_errors("can't read the key"):
        try:
            # O_NONBLOCK: a FIFO in its place must not keep anybody waiting.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise NotFound(f"no key in {path}", name=path) from None
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise LocalError(f"{path} is no file")
            if status.st_mode & 0o077:
                raise LocalError(f"others can read the key in {path}: 'chmod 600 {path}' first")
            data = file.read(keyfile.MAX_KEY_FILE + 1)
    return keyfile.parse_secret(data, path)


def write_secret(path: str, pair: SecretKey, *, passphrase: bytes | None = None) -> None:
    """Write a key file that was not there before, durably. Raises `Conflict`, `LocalError`."""
    data = keyfile.encode_secret(pair, passphrase=passphrase, salt=os.urandom(16))
    with local_errors("can't write the key"):
        if os.path.lexists(path):
            raise Conflict(f"{path} is there already: a key is not written over another")
        fsio.write_durably(path, data, mode=0o600)


class Keyring:
    """The secret keys below a store's `local/`, in a file each that is named by the fingerprint."""

    def __init__(self, local: str) -> None:
        self._folder = os.path.join(local, FOLDER)

    def path(self, key_id: bytes) -> str:
        """Where a key is, or would be."""
        return os.path.join(self._folder, key_id.hex() + _SUFFIX)

    def files(self) -> Iterator[KeyFile]:
        """All keys. Raises as `read_secret`."""
        with local_errors("can't look for keys"):
            try:
                names = sorted(os.listdir(self._folder))
            except FileNotFoundError:
                return
        for name in names:
            if name.endswith(_SUFFIX) and not name.startswith("."):
                yield read_secret(os.path.join(self._folder, name))

    def find(self, key_id: bytes) -> KeyFile | None:
        """The file of one key, if it is here. Raises as `read_secret`."""
        try:
            return read_secret(self.path(key_id))
        except NotFound:
            return None

    def keep(self, pair: SecretKey, *, passphrase: bytes | None = None) -> None:
        """Add a key. Raises `Conflict`, `LocalError`."""
        with local_errors("can't keep the key"):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            os.chmod(self._folder, 0o700)
            fsio.sync_directory(os.path.dirname(self._folder))
        write_secret(self.path(pair.key.id), pair, passphrase=passphrase)

    def drop(self, key_id: bytes) -> None:
        """Remove a key, durably; no error when it is not here."""
        with local_errors("can't remove the key"), suppress(FileNotFoundError):
            os.unlink(self.path(key_id))
            fsio.sync_directory(self._folder)

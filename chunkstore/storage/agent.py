"""Signing by a program that holds the key: a smart card, a vault, a machine of its own.

The program is run with one more argument. `public` makes it print the line of a public key file,
`sign` makes it read the message from stdin and print the signature, 64 bytes raw. Promises: what it
prints is bounded and it gets a minute; what it signs is checked by whoever asked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from chunkstore.errors import LocalError
from chunkstore.trust import keyfile
from chunkstore.trust.keys import PublicKey

PATIENCE: Final = 60.0
"""Seconds: somebody may have to touch a token."""
_MOST: Final = 4096


class Agent:
    """A `Signer` that asks the program `command`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    @cached_property
    def key(self) -> PublicKey:
        """See `Signer.key`. Raises `LocalError`, `Corrupt`, `Untrusted`."""
        line = self._run("public", b"").decode("ascii", "replace")
        return keyfile.parse_public(line, f"what '{self._name} public' printed")

    def sign(self, message: bytes) -> bytes:
        """See `Signer.sign`."""
        return self._run("sign", message)

    @property
    def _name(self) -> str:
        return " ".join(self._command)

    def _run(self, request: str, message: bytes) -> bytes:
        try:
            ended = subprocess.run(
                [*self._command, request],
                input=message,
                stdout=subprocess.PIPE,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LocalError(f"'{self._name} {request}' did not answer") from None
        except OSError as error:
            raise LocalError(f"can't run '{self._name}': {error.strerror}") from error
        if ended.returncode or not 0 < len(ended.stdout) <= _MOST:
            raise LocalError(f"'{self._name} {request}' failed with status {ended.returncode}")
        return ended.stdout

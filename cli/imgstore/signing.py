"""Keys as a command line names them: by files, by the environment, by a command that signs.

$IMGSTORE_KEY names a key file, $IMGSTORE_KEY_COMMAND a program (see `storage.agent`), and
$IMGSTORE_PASSPHRASE_FILE where the passphrase stands. The library never looks there.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from chunkstore.errors import LocalError, Usage, local_errors

if TYPE_CHECKING:
    from chunkstore.trust.keyfile import KeyFile
    from chunkstore.trust.keys import Signer

_LONGEST = 4096


def online_signers() -> list[Signer]:
    """Who signs refs instead of the key kept with the store, as the environment says."""
    path, command = os.environ.get("IMGSTORE_KEY"), os.environ.get("IMGSTORE_KEY_COMMAND")
    if path and command:
        raise Usage("$IMGSTORE_KEY and $IMGSTORE_KEY_COMMAND contradict each other")
    if path:
        return [signer_in(path)]
    if command:
        return [_agent(command)]
    return []


def _agent(command: str) -> Signer:
    import shlex

    from chunkstore.storage.agent import Agent

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Usage(f"can't take {command!r} apart: {error}") from None
    if not words:
        raise Usage("the command that signs is empty")
    return Agent(words)


def root_signers(options: Namespace) -> list[Signer]:
    """The keys that `--root-key` and `--root-key-command` name."""
    found = [signer_in(path, options) for path in options.root_key]
    return [*found, *(_agent(command) for command in options.root_key_command)]


def signer_in(path: str, options: Namespace | None = None) -> Signer:
    """The key in a file, opened with its passphrase if it has one."""
    from chunkstore.storage.keyring import read_secret

    return opened(read_secret(path), path, options)


def opened(file: KeyFile, path: str, options: Namespace | None = None) -> Signer:
    """A key file's key, opened with its passphrase if it has one."""
    if not file.needs_passphrase:
        return file.open()
    return file.open(passphrase(options, f"passphrase of {path}: "))


def passphrase(options: Namespace | None, prompt: str, *, twice: bool = False) -> bytes:
    """A passphrase: from the file that is named, else from whoever sits at the terminal."""
    named = getattr(options, "passphrase_file", None) or os.environ.get("IMGSTORE_PASSPHRASE_FILE")
    if named:
        with local_errors("can't read the passphrase"), open(named, "rb") as file:
            text = file.read(_LONGEST).partition(b"\n")[0]
        if not text:
            raise Usage(f"{named}: its first line is to be the passphrase, and is empty")
        return text
    if not sys.stdin.isatty():
        raise LocalError("a passphrase is needed: --passphrase-file FILE, or run it at a terminal")
    import getpass

    given = getpass.getpass(prompt)
    if twice and getpass.getpass("again: ") != given:
        raise Usage("the two passphrases differ")
    return given.encode()


def new_passphrase(options: Namespace) -> bytes | None:
    """The passphrase a key file shall have, or None when none was asked for."""
    if not options.passphrase and not options.passphrase_file:
        return None
    return passphrase(options, "new passphrase: ", twice=True)


def lifetime(options: Namespace) -> int | None:
    """Seconds that `--lifetime` or `--no-expiry` say, 0 for ever; None when neither is there."""
    if options.no_expiry and options.lifetime is not None:
        raise Usage("--lifetime and --no-expiry contradict each other")
    seconds: int | None = 0 if options.no_expiry else options.lifetime
    return seconds

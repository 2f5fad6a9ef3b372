"""Hooks: what an administrator wants run before a tree is changed, and after.

Executables in `DIR/.imgstore/hooks/pre-apply.d/` and `post-apply.d/`, in the byte order of their
names, then the command lines given. Promises: the first that fails ends the run, and none after it
is started; what runs is the very file that was checked, and only one that nobody but root and we
can change, in directories of which the same holds. Leaves running one to `child`, and when to run
them and what their failure means to the caller.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from chunkstore import fsio
from chunkstore.errors import HookFailed, LocalError, Untrusted, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.names import STATE_DIR, printable
from chunkstore.worktree import child

PRE_APPLY: Final = "pre-apply"
POST_APPLY: Final = "post-apply"

_PLAIN_NAME: Final = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# What package managers and editors leave beside a file.
_LEFTOVER: Final = re.compile(
    rb".*\.(?:(?:dpkg|ucf)-[a-z]+|rpm(?:new|orig|save)|bak|disabled|old|orig|swp|tmp)"
)
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_SHOWN: Final = 300

Listener = Callable[[str, str], None]
"""Takes the short name of a hook and a line it printed, decoded with `surrogateescape`."""


@dataclass(frozen=True)
class Occasion:
    """What hooks are told. Versions are ids in hex; `old_version` is empty where there was none.

    `stage` is `PRE_APPLY` or `POST_APPLY`, `changes` the file that `write_changes` wrote.
    """

    stage: str
    directory: str
    image: str
    old_version: str
    new_version: str
    changes: str

    def variables(self) -> dict[str, str]:
        """The environment variables that say so."""
        return {
            "IMGSTORE_STAGE": self.stage,
            "IMGSTORE_DIR": os.path.realpath(self.directory),
            "IMGSTORE_IMAGE": self.image,
            "IMGSTORE_OLD_VERSION": self.old_version,
            "IMGSTORE_NEW_VERSION": self.new_version,
            "IMGSTORE_CHANGES": os.path.realpath(self.changes),
        }


def are_there(tree: Directory) -> bool:
    """Whether the tree has hooks of its own, of whatever stage."""
    try:
        os.close(tree.open(STATE_DIR + b"/hooks", os.O_PATH))
    except OSError:
        return False
    return True


def read_changes(path: str) -> dict[str, str]:
    """The letters by printable path that `write_changes` wrote; none without the file."""
    try:
        with local_errors("can't read the list of changes"), open(path, encoding="utf-8") as file:
            lines = (line.rstrip("\n").partition("\t") for line in file)
            return {changed: letter for letter, _, changed in lines}
    except LocalError as error:
        if error.errno == errno.ENOENT:
            return {}
        raise


def write_changes(
    path: str, changes: Iterable[tuple[str, bytes]], earlier: Mapping[str, str] | None = None
) -> None:
    """Write what changes for hooks to read, durably: a letter as in `diff`, a tab, the path.

    Paths are printable, so one is one line. `earlier` are changes no hook was told of yet, as
    `read_changes` gives them. Raises `LocalError`.
    """
    temporary = os.path.join(os.path.dirname(path), fsio.fresh_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with local_errors("can't write the list of changes"):
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                for letter, changed in _united(changes, earlier or {}):
                    file.write(f"{letter}\t{changed}\n".encode())
            fsio.move_durably(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _united(
    changes: Iterable[tuple[str, bytes]], earlier: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    shown = ((letter, printable(path)) for letter, path in changes)
    if not earlier:
        yield from shown
        return
    letters = {**earlier, **{path: letter for letter, path in shown}}
    yield from ((letters[path], path) for path in sorted(letters))


def run_hooks(
    occasion: Occasion,
    commands: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: Listener,
) -> None:
    """Run the executables of the occasion's stage, then `commands` by `/bin/sh`, one by one.

    They find themselves in the tree's directory, with `environment` and the occasion's variables.
    Raises `HookFailed` at the first that fails; `Untrusted` before any is run, when one of them or
    a directory they lie in may be changed by others.
    """
    surroundings = {**environment, **occasion.variables()}
    with (
        local_errors(f"can't run the {occasion.stage} hooks"),
        ExitStack() as held,
        Directory(surroundings["IMGSTORE_DIR"]) as tree,
    ):
        hooks = [
            *_executables(tree, occasion.stage, held),
            *(_command(occasion.stage, command) for command in commands),
        ]
        for hook in hooks:
            _run(hook, occasion.stage, tree, surroundings, output)


class _Hook(NamedTuple):
    """`place` names it in errors, `name` in front of what it prints; `passed` stays open in it."""

    place: str
    name: str
    program: str
    arguments: list[str]
    passed: tuple[int, ...] = ()


def _command(stage: str, command: str) -> _Hook:
    return _Hook(f"{stage} command '{command}'", stage, "/bin/sh", ["sh", "-c", command])


def _executables(tree: Directory, stage: str, held: ExitStack) -> Iterator[_Hook]:
    """The hooks in the tree's own directory, checked, and open for as long as `held` is."""
    path = STATE_DIR
    for name in (b"", b"hooks", f"{stage}.d".encode()):
        path = os.path.join(path, name) if name else path
        folder = _open_folder(tree, path, held)
        if folder is None:
            return
    for name in sorted(map(os.fsencode, os.listdir(folder))):
        if _PLAIN_NAME.fullmatch(name) is None or _LEFTOVER.fullmatch(name) is not None:
            continue
        # By descriptor, so that whatever takes the name later, what was checked is what runs; and
        # O_PATH, so that nothing happens by opening it.
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        held.callback(os.close, descriptor)
        place = _place(tree, os.path.join(path, name))
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and not mode & 0o111):
            continue
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
            raise Untrusted(f"{place} is {kind}: put a program there, or a script that calls one")
        _check_owner(descriptor, place)
        # A script is opened once more, by its interpreter: it needs the descriptor, too.
        program = f"/proc/self/fd/{descriptor}"
        yield _Hook(place, os.fsdecode(name), program, [place], (descriptor,))


def _open_folder(tree: Directory, path: bytes, held: ExitStack) -> int | None:
    place = _place(tree, path)
    try:
        descriptor = tree.open_directory(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Untrusted(
                f"{place} is no directory: hooks are not looked for elsewhere"
            ) from None
        raise
    held.callback(os.close, descriptor)
    _check_owner(descriptor, place)
    return descriptor


def _place(tree: Directory, path: bytes) -> str:
    return os.fsdecode(os.path.join(tree.path, path))


def _check_owner(descriptor: int, place: str) -> None:
    """Raise `Untrusted` when others than root and we could have written, or could write, this."""
    status = os.fstat(descriptor)
    if status.st_uid not in (0, os.geteuid()):
        raise Untrusted(f"{place} belongs to user {status.st_uid}: look at it, then chown it")
    # An access list that lets others write shows in the bits of the group.
    if status.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise Untrusted(f"{place} may be written by others (mode {mode:04o}): chmod go-w it")


def _run(
    hook: _Hook, stage: str, tree: Directory, environment: Mapping[str, str], output: Listener
) -> None:
    try:
        process = child.start(
            hook.program,
            hook.arguments,
            folder=tree.descriptor,
            environment=environment,
            passed=hook.passed,
        )
    except OSError as error:
        why = _WHY_NOT_RUN.get(error.errno or 0, "")
        reason = f"can't be run: {error.strerror}{why}"
        raise HookFailed(f"{hook.place} {reason}", stage=stage, hook=hook.place) from error
    ending = child.follow(process, lambda line: output(hook.name, line))
    if ending.status:
        said = f": {ending.last_line[:_SHOWN]}" if ending.last_line else ""
        raise HookFailed(
            f"{hook.place} {ending}{said}", stage=stage, hook=hook.place, status=ending.status
        )


_WHY_NOT_RUN: Final = {
    errno.ENOEXEC: " (a script begins with a line such as #!/bin/sh)",
    errno.ENOENT: " (its interpreter is not there, or /proc is not mounted)",
}

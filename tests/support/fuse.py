"""A fuse for pulls: cuts the power at the n-th change that the program makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from chunkstore.worktree import (
    apply,
    aside,
    finish,
    install,
    journal,
    metadata,
    node,
    nodes,
    replaced,
    restore,
    saved,
)
from support import trees


class Cut(BaseException):
    """The power went off here."""


MUTATING = (
    *("rename", "link", "unlink", "mkdir", "rmdir", "symlink", "mkfifo", "mknod", "chown"),
    *("fchmod", "chmod", "setxattr", "removexattr", "utime", "ftruncate", "write", "open"),
)


class Fuse:
    """Stands in for `os` in the modules that change trees, and cuts the power at the n-th call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
        self.calls = 0
        self.limit = limit
        stand_in = self

        class Module:
            def __init__(self, real: Any, names: tuple[str, ...]) -> None:
                self._real = real
                self._names = names

            def __getattr__(self, name: str) -> Any:
                value = getattr(self._real, name)
                return stand_in.counted(value, name) if name in self._names else value

        for module in (install, apply, finish, replaced, aside, restore, saved):
            monkeypatch.setattr(module, "os", Module(os, MUTATING))
        monkeypatch.setattr(metadata, "fcntl", Module(metadata.fcntl, ("ioctl",)))
        for kind, name in (
            (node.NodeState, "begin"),
            (node.NodeState, "complete"),
            (nodes.Nodes, "add"),
        ):
            monkeypatch.setattr(kind, name, self.counted(getattr(kind, name), name))
        for name in ("write", "remove"):
            monkeypatch.setattr(journal, name, self.counted(getattr(journal, name), name))

    def counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            is_reading = name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if name == "ioctl":
                is_reading = arguments[1] == trees.GET_FLAGS
            if not is_reading:
                if self.limit is not None and self.calls >= self.limit:
                    raise Cut(name)
                self.calls += 1
            return function(*arguments, **options)

        return call


def cut_off(limit: int, action: Callable[[], object]) -> bool:
    """Do it with the power going off after so many changes; whether it did."""
    with pytest.MonkeyPatch.context() as patch:
        Fuse(patch, limit)
        try:
            action()
        except Cut:
            return True
    return False


def changes_of(action: Callable[[], object]) -> int:
    """How many changes it makes."""
    with pytest.MonkeyPatch.context() as patch:
        fuse = Fuse(patch, None)
        action()
    return fuse.calls

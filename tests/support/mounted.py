"""File systems to try things on in this very process: mounted for the length of a `with`.

Seen by this mount namespace; what is to be broken from outside is in `disks`.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from support import trees
from support import variety as plain
from support.disks import make_disk

SIZE: Final = 320 << 20


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """Something mounted on a new directory in `folder`, where no other namespace gets to see it."""
    point = folder / f"mounted {len(list(folder.iterdir()))}"
    point.mkdir()
    done = subprocess.run(
        ["mount", *arguments, str(point)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"can't mount here: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "--make-private", str(point)], check=True)
        yield point
    finally:
        if subprocess.run(["umount", str(point)], check=False).returncode:
            subprocess.run(["umount", "-l", str(point)], check=True)


@contextmanager
def disk(folder: Path, kind: str) -> Iterator[Path]:
    """A fresh file system of a kind; `plain` is that of `folder` itself."""
    if kind == "plain":
        yield folder
        return
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    if kind == "tmpfs":
        with mounted(folder, "-t", "tmpfs", "-o", "size=256m", "none") as point:
            yield point
        return
    image = image_of(folder, kind)
    with mounted(folder, "-o", "loop", str(image)) as point:
        yield point


def image_of(folder: Path, kind: str) -> Path:
    """A file with an empty file system of a kind; skips the test where there is no mkfs for it."""
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind}")
    return make_disk(folder / f"{kind}.image", kind, size=SIZE)


def variety(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make_variety` with the flags, longest symlinks and devices this file system has."""
    real, real_symlink, real_mknod = trees.set_flags, os.symlink, os.mknod

    def tolerant(path: str | bytes | Path, letters: str) -> None:
        for letter in letters:
            try:
                real(path, letters)
            except OSError:
                letters = letters.replace(letter, "")
        real(path, letters)

    def shortened(target: str | bytes | Path, path: str | bytes | Path) -> None:
        try:
            real_symlink(target, path)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG or isinstance(target, Path):
                raise
            real_symlink(target[:1000], path)

    def numbered(path: Path, mode: int, device: int) -> None:
        try:
            real_mknod(path, mode, device)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            real_mknod(path, mode, os.makedev(511, 262_143))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mknod", numbered)
        patch.setattr(os, "symlink", shortened)
        patch.setattr(trees, "set_flags", tolerant)
        patch.setattr(plain, "set_flags", tolerant)
        plain.make_variety(root)

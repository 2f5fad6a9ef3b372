"""Trees to measure on: counted, compared, warmed, and made up where there is no Debian at hand."""

from __future__ import annotations

import math
import os
import random
import stat
from pathlib import Path
from shlex import quote

import demo
from measure import Command, run, shell

STATE = ".imgstore"
_WORDS = [
    "option",
    "value",
    "enabled",
    "path",
    "server",
    "client",
    "timeout",
    "module",
    "default",
    "user",
    "group",
    "system",
    "image",
    "return",
    "import",
    "print",
    "error",
    "warning",
    "config",
    "kernel",
    "device",
    "network",
    "memory",
    "volume",
    "service",
]


def disk_usage(path: Path) -> int:
    """Bytes of all files below, or of the file; caches beside a repository are not stored."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        Path(folder, name).lstat().st_size
        for folder, _, names in os.walk(path)
        for name in names
        if "cache" not in Path(folder).relative_to(path).parts
    )


def count_differences(tree: Path, target: Path) -> int:
    """Paths in which the target is not the tree, by an independent program."""
    options = ["-aHAXn", "--numeric-ids", "--delete", "--itemize-changes", f"--exclude=/{STATE}"]
    listed = run(Command(["rsync", *options, f"{tree}/", f"{target}/"]))
    return len(listed.splitlines())


def count_tree(tree: Path) -> dict[str, int]:
    """Entries, regular files and bytes of content, a hardlinked file once."""
    entries, files, size, seen = 1, 0, 0, set()
    for folder, folders, names in os.walk(tree):
        entries += len(folders) + len(names)
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(status.st_mode):
                files += 1
                if status.st_ino not in seen:
                    size += status.st_size
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
    return {"entries": entries, "files": files, "bytes": size}


def warm(*trees: Path) -> None:
    """Bring the trees into the page cache."""
    for tree in trees:
        run(shell(f"find {quote(str(tree))} -type f -exec cat {{}} + > /dev/null"))


def make_small(place: Path, files: int, *, real: bool) -> tuple[Path, Path]:
    """Two states of a tree without a network: generated files, with real ones of this machine.

    Returns BEFORE and AFTER. AFTER is an upgrade: of every thirtieth file the content changed, of
    every sixtieth it went, and one was added for each; half of what changed changed only in part.
    """
    before, after = place / "before", place / "after"
    if real:
        demo.gather(before)
    else:
        before.mkdir(parents=True)
    generate(before / "srv" / "generated", files)
    configure(before / "etc", max(files // 20, 8))
    run(Command(["cp", "-a", str(before), str(after)]))
    paths = sorted(
        path
        for path in after.rglob("*")
        if path.is_file() and not path.is_symlink() and path.lstat().st_nlink == 1
    )
    for number, path in enumerate(paths):
        if number % 60 == 1:
            path.unlink()
            (path.parent / f"{path.name}.new").write_bytes(content(number, 8_000))
        elif number % 30 == 0:
            old = path.read_bytes() if number % 60 else b""
            path.write_bytes(old + content(number, 4_000))
    return before, after


def generate(
    tree: Path, files: int, *, seed: int = 0, per_folder: int = 250, median: int = 2_700
) -> None:
    """Small files, as many as were asked for, in folders of `per_folder`, the same every time.

    Sizes are spread like those of a system tree, with a median of as many bytes and a mean of not
    quite twice that, but nothing above 64 KB. One content in twenty is that of an earlier file.
    """
    chosen = random.Random(seed)
    text = content(seed, 1 << 20)
    folder = tree
    for number in range(files):
        if number % per_folder == 0:
            group, index = divmod(number // per_folder, 40)
            folder = tree / f"group{group:03}" / f"part{index:02}"
            folder.mkdir(parents=True)
        size = min(int(chosen.lognormvariate(math.log(median), 1.1)) + 1, 65_536)
        start = chosen.randrange(len(text) - size)
        own = b"" if number % 20 == 19 else b"%d %d\n" % (seed, number)
        if not own:
            size, start = median, number % 1_000
        path = os.path.join(folder, f"file{number:07}.txt")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(descriptor, own + text[start : start + size])
        finally:
            os.close(descriptor)


def content(seed: int, size: int) -> bytes:
    """Text of a size, made of words and numbers: compressible to about a third."""
    chosen = random.Random(seed)
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(f"{chosen.choice(_WORDS)} {chosen.choice(_WORDS)} = {chosen.random():.6f}\n")
        length += len(parts[-1])
    return "".join(parts).encode()[:size]


def configure(folder: Path, files: int) -> None:
    """What a small edit changes."""
    folder.mkdir(exist_ok=True)
    for number in range(files):
        (folder / f"service{number:04}.conf").write_bytes(content(number, 600))


def make_sparse(tree: Path, size: int) -> None:
    """Disks of virtual machines: one with a megabyte of data here and there, 16 in all, two empty.

    `size` is what all of them together seem to have.
    """
    tree.mkdir(parents=True)
    step = size * 8 // 10 // 16
    with (tree / "disk.img").open("wb") as file:
        for number in range(16):
            file.seek(number * step)
            file.write(random.Random(number).randbytes(min(1_000_000, step)))
        file.truncate(size * 8 // 10)
    for number in range(2):
        with (tree / f"empty{number}.img").open("wb") as file:
            file.truncate(size // 10)

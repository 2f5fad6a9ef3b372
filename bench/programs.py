"""Plain programs and pipelines: tar with a compressor, find, rsync, zchunk.

tar and rsync get every option that a system tree needs: owners, hardlinks, xattrs, ACLs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote

from measure import Command, shell

TAR = "tar --xattrs --xattrs-include='*' --acls --numeric-owner"
FIND_FIELDS = r"%y %m %i %n %U %G %s %T@ %C@ %p\0"
FIND_NOTE = "prints type, mode, inode, links, owners, size and times of every path"

ZSTD = "tar, zstd -T0 -3"
LZ4 = "tar, lz4"
GZIP = "tar, gzip -6"
PIGZ = "tar, pigz -6"
COMPRESSORS = {ZSTD: "zstd -q -T0 -3", LZ4: "lz4 -q", PIGZ: "pigz -6", GZIP: "gzip -6"}
"""Pipelines by their names; a compressor that is not installed is left out by `compressors`."""


def compressors(*names: str) -> dict[str, str]:
    """Those of these names (all without any) that this machine has."""
    chosen = {name: COMPRESSORS[name] for name in names or COMPRESSORS}
    return {name: line for name, line in chosen.items() if shutil.which(line.split()[0])}


def archive(tree: Path, compressor: str, target: Path, *options: str) -> Command:
    """A tar archive through a compressor."""
    words = " ".join([TAR, *options])
    return shell(f"{words} -C {quote(str(tree))} -cf - . | {compressor} > {quote(str(target))}")


def unpack(archive_: str, target: Path) -> str:
    """Words of a shell command that unpacks an archive, `-` being its input."""
    return f"{TAR} -xpf {archive_} -C {quote(str(target))}"


def download(url: str, decompressor: str, target: Path) -> Command:
    """An archive unpacked while it arrives."""
    return shell(f"curl -sSf {quote(url)} | {decompressor} | {unpack('-', target)}")


def find(tree: Path) -> Command:
    """What a scan has to look at, by the plainest program there is."""
    script = f"exec find {quote(str(tree))} -printf {quote(FIND_FIELDS)} > /dev/null"
    return Command(["sh", "-c", script])


def rsync(source: str, target: Path, *options: str) -> Command:
    """A copy that is the same in everything rsync knows of."""
    return Command(["rsync", "-aHAX", "--numeric-ids", "--stats", *options, source, f"{target}/"])


def zchunk(tree: Path, target: Path) -> Command:
    """A tar archive in chunks; zck reads files only."""
    plain = quote(f"{target}.tar")
    return shell(
        f"{TAR} -C {quote(str(tree))} -cf {plain} .; zck -o {quote(str(target))} {plain}; "
        f"rm {plain}"
    )


def zchunk_download(url: str, target: Path, scratch: Path, *, seed: Path | None = None) -> Command:
    """Only the chunks that the seed does not have, and then all of it unpacked."""
    source = f"-s {quote(str(seed))} " if seed is not None else ""
    name = quote(url.rpartition("/")[2])
    return shell(
        f"zckdl {source}{quote(url)} > zckdl.log 2>&1 || {{ cat zckdl.log >&2; exit 1; }}; "
        f"unzck -c {name} | {unpack('-', target)}",
        scratch,
    )


def unpack_and_compare(tree: Path, base: Path, scratch: Path) -> Command:
    """A differential archive without an index: unpack the base, compare by rsync, pack."""
    new = quote(str(tree))
    decompress = "gzip -dc" if base.suffix == ".gz" else "cat"
    return shell(
        f"mkdir base; {decompress} {quote(str(base))} | {unpack('-', Path('base'))}; "
        f"rsync -aHAXn8 --delete --out-format='%o %n' {new}/ base/ > changes; "
        f"sed -n 's/^send //p' changes > list; "
        f'{TAR} -C {new} --no-recursion --verbatim-files-from -T "$PWD/list" -cf - '
        "| gzip -6 > image-diff.tar.gz",
        scratch,
    )

#!/usr/bin/env python3
"""Try chunker parameters on a real update and print what each of them costs.

    bench/chunker_sweep.py BEFORE AFTER [--json FILE] [--jobs N]

BEFORE and AFTER are two states of one system, as bench/debian.sh builds them.
For every set of parameters the script plays two commits without writing a
store:

1. BEFORE into an empty store: every chunk that was not seen yet, in tree order,
   in frames of up to 1 MiB, each compressed with zstd level 3.
2. AFTER into the store that now holds BEFORE: the same, so that only new chunks
   count.  These are the bytes that a node one version behind has to fetch.  The
   part of them that lies in paths which BEFORE has too is also given alone: a
   new kernel brings only new paths, and no chunker can do much about those.

After that it flips one byte in some of the large files of AFTER, one file after
the other, and counts the new chunks.

The manifest is an estimate: per entry 40 bytes of metadata, the path, and 40
bytes per chunk (32 of them the real digest), compressed with zstd level 3 in
blocks of 16 KiB.  Files of at most the minimum are one chunk and skip the
chunker.  A file with several names is read once.

Times are CPU seconds of one process for commit 1: of the chunker alone and of
the hashing alone, without reading and without compression.  With more than one
job the processes share the memory bus, so take --jobs 1 for times to quote.

Needs fastcdc (the compiled one), blake3 and zstandard.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import stat
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import zstandard
from blake3 import blake3
from fastcdc import fastcdc

KIB = 1024
FRAME = 1024 * KIB
MANIFEST_BLOCK = 16 * KIB
LEVEL = 3
LARGE = 1_000_000
METADATA = struct.Struct("<IIIqQ12x")  # mode, uid, gid, mtime_ns, size: 40 bytes


@dataclass(frozen=True)
class Parameters:
    """Chunker parameters in bytes; an average of 0 means one chunk per file."""

    minimum: int
    average: int
    maximum: int

    def __str__(self) -> str:
        if not self.average:
            return "whole file"
        return "/".join(f"{size // KIB}K" for size in (self.minimum, self.average, self.maximum))


SWEEP = [
    Parameters(average // 4, average, average * 4)
    for average in (16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB)
] + [
    Parameters(32 * KIB, 64 * KIB, 256 * KIB),
    Parameters(8 * KIB, 64 * KIB, 512 * KIB),
    Parameters(0, 0, 0),
]


@dataclass(frozen=True)
class Item:
    """One path of a tree."""

    path: bytes  # relative to the tree
    stat: os.stat_result

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.stat.st_mode)


@dataclass
class Commit:
    """What one commit wrote."""

    new_chunks: int = 0
    new_raw: int = 0
    new_stored: int = 0
    frames: int = 0
    changed_raw: int = 0  # of new_raw: in paths that the tree before has too
    changed_stored: int = 0  # the same, packed on its own
    chunk_references: int = 0
    manifest_raw: int = 0
    manifest_stored: int = 0
    chunking_seconds: float = 0.0
    hashing_seconds: float = 0.0


@dataclass
class Edits:
    """New chunks after one-byte edits, summed over all edited files."""

    files: int = 0
    file_bytes: int = 0
    new_chunks: int = 0
    new_raw: int = 0
    new_stored: int = 0


@dataclass
class Result:
    """Everything measured for one set of parameters."""

    parameters: Parameters
    before: Commit = field(default_factory=Commit)
    after: Commit = field(default_factory=Commit)
    edits: Edits = field(default_factory=Edits)


def scan(root: bytes) -> list[Item]:
    """Return all paths below root in tree order: sorted component by component."""
    items: list[Item] = []
    pending = [b""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                items.append(Item(path, entry.stat(follow_symlinks=False)))
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
    items.sort(key=lambda item: item.path.replace(b"/", b"\0"))
    return items


def read(root: bytes, item: Item) -> bytes:
    with open(os.path.join(root, item.path), "rb") as file:
        return file.read()


def cut(data: bytes, parameters: Parameters) -> list[int]:
    """Return the end of every chunk of data."""
    if not data:
        return []
    if not parameters.average or len(data) <= parameters.minimum:
        return [len(data)]
    return [
        chunk.offset + chunk.length
        for chunk in fastcdc(data, parameters.minimum, parameters.average, parameters.maximum)
    ]


def name(data: bytes, ends: list[int]) -> list[bytes]:
    """Return the digest of every chunk of data."""
    view = memoryview(data)
    start = 0
    digests = []
    for end in ends:
        digests.append(blake3(view[start:end]).digest())
        start = end
    return digests


class Packer:
    """Collect chunks in frames and count what the frames weigh."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._open: list[bytes] = []
        self._size = 0
        self.chunks = 0
        self.raw = 0
        self.stored = 0
        self.frames = 0

    def add(self, chunk: bytes) -> None:
        if self._open and self._size + len(chunk) > FRAME:
            self.close()
        self._open.append(chunk)
        self._size += len(chunk)
        self.chunks += 1
        self.raw += len(chunk)

    def close(self) -> None:
        if self._open:
            compressed = self._compressor.compress(b"".join(self._open))
            self.stored += min(len(compressed), self._size)
            self.frames += 1
            self._open.clear()
            self._size = 0


def new_pieces(
    data: bytes, ends: list[int], digests: list[bytes], known: set[bytes]
) -> Iterator[bytes]:
    """Yield the chunks of data that are not known, and remember them."""
    start = 0
    for end, digest in zip(ends, digests, strict=True):
        if digest not in known:
            known.add(digest)
            yield data[start:end]
        start = end


def record(item: Item, ends: list[int], digests: list[bytes]) -> bytes:
    """Return a manifest entry of about the size that a real one has."""
    info = item.stat
    parts = [
        METADATA.pack(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_size),
        item.path,
    ]
    for end, digest in zip(ends, digests, strict=True):
        parts += [digest, struct.pack("<Q", end)]
    return b"".join(parts)


def weigh_manifest(records: list[bytes]) -> tuple[int, int]:
    """Return the size of a manifest, raw and compressed block by block."""
    manifest = b"".join(records)
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    stored = sum(
        len(compressor.compress(manifest[start : start + MANIFEST_BLOCK]))
        for start in range(0, len(manifest), MANIFEST_BLOCK)
    )
    return len(manifest), stored


def commit(
    root: bytes, parameters: Parameters, known: set[bytes], old_paths: frozenset[bytes]
) -> Commit:
    """Play the commit of the tree at root into a store that holds known."""
    result = Commit()
    packer = Packer()
    changed = Packer()
    records = []
    linked: dict[int, tuple[list[int], list[bytes]]] = {}
    for item in scan(root):
        ends: list[int] = []
        digests: list[bytes] = []
        if item.regular and item.stat.st_ino in linked:
            ends, digests = linked[item.stat.st_ino]
        elif item.regular:
            data = read(root, item)
            started = time.process_time()
            ends = cut(data, parameters)
            between = time.process_time()
            digests = name(data, ends)
            finished = time.process_time()
            result.chunking_seconds += between - started
            result.hashing_seconds += finished - between
            for piece in new_pieces(data, ends, digests, known):
                packer.add(piece)
                if item.path in old_paths:
                    changed.add(piece)
            if item.stat.st_nlink > 1:
                linked[item.stat.st_ino] = ends, digests
        result.chunk_references += len(ends)
        records.append(record(item, ends, digests))
    packer.close()
    changed.close()
    result.new_chunks = packer.chunks
    result.new_raw = packer.raw
    result.new_stored = packer.stored
    result.frames = packer.frames
    result.changed_raw = changed.raw
    result.changed_stored = changed.stored
    result.manifest_raw, result.manifest_stored = weigh_manifest(records)
    return result


def edit(root: bytes, parameters: Parameters, known: set[bytes], count: int, seed: int) -> Edits:
    """Flip one byte in each of count large files; every set gets the same edits."""
    large: dict[int, Item] = {}
    for item in scan(root):
        if item.regular and item.stat.st_size > LARGE:
            large.setdefault(item.stat.st_ino, item)
    choice = random.Random(seed)
    result = Edits()
    for item in choice.sample(list(large.values()), min(count, len(large))):
        data = bytearray(read(root, item))
        data[choice.randrange(len(data))] ^= 0xFF
        changed = bytes(data)
        ends = cut(changed, parameters)
        packer = Packer()
        # Each edit meets the store as it was, not the chunks of other edits.
        for piece in new_pieces(changed, ends, name(changed, ends), set(known)):
            packer.add(piece)
        packer.close()
        result.files += 1
        result.file_bytes += len(changed)
        result.new_chunks += packer.chunks
        result.new_raw += packer.raw
        result.new_stored += packer.stored
    return result


def measure(parameters: Parameters, before: bytes, after: bytes, edits: int, seed: int) -> Result:
    """Measure one set of parameters; runs in a process of its own."""
    known: set[bytes] = set()
    result = Result(parameters)
    result.before = commit(before, parameters, known, frozenset())
    old_paths = frozenset(item.path for item in scan(before))
    result.after = commit(after, parameters, known, old_paths)
    result.edits = edit(after, parameters, known, edits, seed)
    return result


def describe(root: bytes) -> dict[str, int]:
    """Return the figures of a tree; a file with several names counts once."""
    items = scan(root)
    files = {item.stat.st_ino: item.stat.st_size for item in items if item.regular}
    return {
        "entries": len(items),
        "files": len(files),
        "bytes": sum(files.values()),
        "large_files": sum(size > LARGE for size in files.values()),
    }


def table(results: list[Result]) -> str:
    """Return the results as a markdown table; sizes in MB of 1,000,000 bytes."""
    head = [
        "min/avg/max",
        "chunks",
        "stored MB",
        "manifest MB",
        "update raw MB",
        "update MB",
        "of it in old paths MB",
        "new chunks",
        "frames",
        "edit KB per file",
        "chunking s",
        "hashing s",
    ]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for result in results:
        before, after, edits = result.before, result.after, result.edits
        rows.append(
            [
                str(result.parameters),
                f"{before.new_chunks:,}",
                f"{before.new_stored / 1e6:.1f}",
                f"{before.manifest_stored / 1e6:.2f}",
                f"{after.new_raw / 1e6:.1f}",
                f"{after.new_stored / 1e6:.1f}",
                f"{after.changed_stored / 1e6:.1f}",
                f"{after.new_chunks:,}",
                f"{after.frames:,}",
                f"{edits.new_raw / 1e3 / max(edits.files, 1):,.0f}",
                f"{before.chunking_seconds:.2f}",
                f"{before.hashing_seconds:.2f}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Try chunker parameters on a real update.",
        epilog="See the docstring of this file for what is measured and how.",
    )
    parser.add_argument("before", type=Path, help="tree before the update")
    parser.add_argument("after", type=Path, help="tree after the update")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="parameter sets measured side by side (default: one per core)",
    )
    parser.add_argument(
        "--edits", type=int, default=20, metavar="N", help="files to edit (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=1, help="picks files and places of the edits")
    options = parser.parse_args(arguments)
    for tree in (options.before, options.after):
        if not tree.is_dir():
            parser.error(f"{tree} is not a directory")
    if options.jobs < 1 or options.edits < 0:
        parser.error("--jobs must be at least 1 and --edits at least 0")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if fastcdc.__name__ != "fastcdc_cy":
        print("chunker_sweep: fastcdc is not compiled here", file=sys.stderr)
        return 3
    before, after = os.fsencode(options.before), os.fsencode(options.after)
    run = partial(measure, before=before, after=after, edits=options.edits, seed=options.seed)
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(run, SWEEP):
            print(f"measured {result.parameters}", file=sys.stderr)
            results.append(result)
    trees = {"before": describe(before), "after": describe(after)}
    for tree, figures in trees.items():
        print(
            f"{tree}: {figures['entries']:,} entries, {figures['files']:,} files, "
            f"{figures['bytes']:,} bytes"
        )
    print()
    print(table(results))
    if options.json:
        document = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "jobs": options.jobs,
            "frame": FRAME,
            "zstd_level": LEVEL,
            "trees": trees,
            "sets": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

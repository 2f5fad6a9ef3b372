"""What tests of `verify` do to a store, and how they look at its report."""

from __future__ import annotations

import random
from pathlib import Path

from chunkstore.errors import ChunkstoreError
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.documents import Version
from chunkstore.objects.names import parse_spec
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.verify import Problem, StoreReport, verify_store

RANDOM = random.Random(2026)


def noise(size: int) -> bytes:
    return RANDOM.randbytes(size)


def text(size: int) -> bytes:
    words = [b"chunk", b"frame", b"pack", b"node", b"swarm", b"store"]
    return b" ".join(RANDOM.choices(words, k=size // 5))[:size]


def path_of(store: Store, name: str) -> Path:
    return Path(store.root, name)


def objects(store: Store) -> list[str]:
    """Every file of the public part."""
    root = Path(store.root)
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.startswith(layout.LOCAL))


def by_name(report: StoreReport) -> dict[str, Problem]:
    return {problem.name: problem for problem in report.problems}


def look(root: Path | str) -> StoreReport:
    with Store(str(root)) as store:
        return verify_store(store)


def is_found(root: Path) -> bool:
    """Whether a store is refused outright, or a problem found in it."""
    try:
        return bool(look(root).problems)
    except ChunkstoreError:
        return True


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def spoil(store: Store, digest: bytes) -> bytes:
    """Overwrite the frame a chunk lies in; returns its pack."""
    frame = store.places([digest])[digest].frame
    with path_of(store, layout.pack(frame.pack)).open("r+b") as file:
        file.seek(frame.offset)
        file.write(bytes(frame.stored))
    return frame.pack


def entry_of(store: Store, spec: str, path: bytes) -> tuple[Version, list[bytes]]:
    version = store.resolve(parse_spec(spec)).version
    with store.chunks() as chunks:
        entry = manifest.find(version.root, path, chunks.get)
        return version, [digest for digest, _ in chunklist.walk(entry, chunks.get)]


def labels(store: Store, image: str) -> list[str]:
    line = store.history(store.ref(image).find("latest").version)  # type: ignore[union-attr]
    return [f"{image}:{found.id.hex()[:12]}" for found in line]

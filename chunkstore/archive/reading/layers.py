"""Images of containers: the layers in an OCI layout, or in what `docker save` writes.

    OCI layout    `index.json` names a manifest, and that the layers; all are blobs, files in
                  `blobs/ALGORITHM/` named by their digests. See the OCI image specification
    docker save   `manifest.json` names files, and a configuration with the digests of the layers

Promises: a document or layer whose bytes are not what its digest says is `Corrupt`; a document is
at most 4 MiB, and names lead nowhere but into the image. Leaves laying layers over each other to
`unpacking`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from hashlib import sha256, sha512
from typing import Any, Final, NamedTuple, Protocol

from chunkstore.archive.reading.decompression import Readable, open_blocks
from chunkstore.errors import Corrupt, Unsupported, Usage
from chunkstore.objects.names import printable

MARK: Final = b"oci-layout"
INDEX: Final = b"index.json"
DOCKER: Final = b"manifest.json"

MAX_DOCUMENT: Final = 4 * 1024 * 1024
MAX_LAYERS: Final = 1024
_MAX_NESTING: Final = 4
_BLOCK: Final = 1024 * 1024
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_NOT_AN_IMAGE: Final = "vnd.docker.reference.type"
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")
_HASHES: Final = {"sha256": sha256, "sha512": sha512}


class Files(Protocol):
    """The files of an image, by path."""

    name: str

    def has(self, path: bytes) -> bool:
        """Whether there is something at a path."""
        ...

    def open(self, path: bytes) -> AbstractContextManager[Readable]:
        """A file's bytes. Raises `Corrupt` when there is none."""
        ...


class Layer(NamedTuple):
    """A layer by its path among the files; `digest` is that of the file, or of the tar in it."""

    path: bytes
    digest: str
    is_of_tar: bool


def find(files: Files, ref: str | None = None) -> list[Layer]:
    """The layers of the image in `files`, the lowest first.

    `ref` picks one of several, by its name or platform. Raises `Corrupt`, `Unsupported`, and
    `Usage` when there are several and `ref` is none of them.
    """
    if not files.has(INDEX):
        return _docker(files, ref)
    manifest = _manifest(files, _document(files, INDEX, None), ref, _MAX_NESTING)
    layers = _list(manifest, "layers", files.name)
    return [Layer(_blob(item, files.name), _digest(item, files.name), False) for item in layers]


def open_layer(files: Files, layer: Layer) -> Iterator[bytes]:
    """Yield the tar archive in a layer. Raises `Corrupt`, at the end if its digest is another."""
    where = f"{files.name}, {printable(layer.path)}"
    algorithm, _, expected = layer.digest.partition(":")
    running = _HASHES[algorithm]()
    with files.open(layer.path) as file:
        if layer.is_of_tar:
            for block in open_blocks(file, where):
                running.update(block)
                yield block
        else:
            hashed = _Hashed(file, running)
            yield from open_blocks(hashed, where)
            while hashed.read(_BLOCK):
                pass
    if running.hexdigest() != expected:
        raise Corrupt(f"{where}: is not what its digest says", where=where)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Hashed:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: Readable, running: _Hash) -> None:
        self._file = file
        self._running = running

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._running.update(data)
        return data


def _read(files: Files, path: bytes) -> bytes:
    parts = []
    total = 0
    with files.open(path) as file:
        while part := file.read(_BLOCK):
            total += len(part)
            if total > MAX_DOCUMENT:
                where = f"{files.name}, {printable(path)}"
                raise Corrupt(f"{where}: too long for a document", where=where)
            parts.append(part)
    return b"".join(parts)


def _document(files: Files, path: bytes, digest: str | None) -> Any:
    where = f"{files.name}, {printable(path)}"
    data = _read(files, path)
    if digest is not None:
        algorithm, _, expected = digest.partition(":")
        if _HASHES[algorithm](data).hexdigest() != expected:
            raise Corrupt(f"{where}: is not what its digest says", where=where)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{where}: is no JSON document", where=where) from error


def _list(document: Any, member: str, where: str) -> list[dict[str, Any]]:
    """A member that is a list of objects. Raises `Corrupt`."""
    found = document.get(member) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Corrupt(f"{where}: a document without {member}", where=where)
    if len(found) > MAX_LAYERS:
        raise Unsupported(f"{where}: {len(found)} {member}", where=where)
    return found


def _digest(item: dict[str, Any], where: str) -> str:
    digest = item.get("digest")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise Corrupt(f"{where}: {str(digest)[:80]!r} is no digest", where=where)
    return digest


def _blob(item: dict[str, Any], where: str) -> bytes:
    return b"blobs/" + _digest(item, where).replace(":", "/").encode()


def _manifest(files: Files, index: Any, ref: str | None, nesting: int) -> Any:
    """The manifest an index leads to, also by way of further ones."""
    where = files.name
    items = [item for item in _list(index, "manifests", where) if _NOT_AN_IMAGE not in _notes(item)]
    named = [item for item in items if ref is not None and ref in _calls(item)]
    if named:
        items, ref = named, None
    if len(items) != 1:
        known = ", ".join(sorted({call for item in items for call in _calls(item)}))
        raise Usage(f"{where}: has {len(items)} images: pick one with --ref ({known})")
    document = _document(files, _blob(items[0], where), _digest(items[0], where))
    if isinstance(document, dict) and "manifests" in document:
        if not nesting:
            raise Corrupt(f"{where}: its indexes lead on and on", where=where)
        return _manifest(files, document, ref, nesting - 1)
    if ref is not None:
        raise Usage(f"{where}: has no image {ref!r}")
    return document


def _notes(item: dict[str, Any]) -> dict[str, Any]:
    notes = item.get("annotations")
    return notes if isinstance(notes, dict) else {}


def _calls(item: dict[str, Any]) -> list[str]:
    """What an image goes by: its name, its platform."""
    platform = item.get("platform")
    calls = [_notes(item).get(_REF_NAME)]
    if isinstance(platform, dict):
        calls.append("/".join(str(platform.get(key)) for key in ("os", "architecture")))
    return [call for call in calls if isinstance(call, str) and call]


def _docker(files: Files, ref: str | None) -> list[Layer]:
    where = f"{files.name}, {printable(DOCKER)}"
    images = _document(files, DOCKER, None)
    if not isinstance(images, list) or not all(isinstance(item, dict) for item in images):
        raise Corrupt(f"{where}: is no list of images", where=where)
    calls = [[tag for tag in item.get("RepoTags") or [] if isinstance(tag, str)] for item in images]
    if ref is not None:
        images = [item for item, tags in zip(images, calls, strict=True) if ref in tags]
    if len(images) != 1:
        known = ", ".join(sorted({tag for tags in calls for tag in tags}))
        raise Usage(f"{files.name}: has {len(images)} such images: pick one with --ref ({known})")
    image = images[0]
    paths, config = image.get("Layers"), image.get("Config")
    if not isinstance(paths, list) or not isinstance(config, str):
        raise Corrupt(f"{where}: an image without layers", where=where)
    document = _document(files, config.encode("utf-8", "replace"), None)
    file_system = document.get("rootfs") if isinstance(document, dict) else None
    digests = file_system.get("diff_ids") if isinstance(file_system, dict) else None
    if not isinstance(digests, list) or len(digests) != len(paths) or len(paths) > MAX_LAYERS:
        raise Corrupt(f"{where}: layers and their digests don't match", where=where)
    return [
        Layer(str(path).encode("utf-8", "replace"), _digest({"digest": digest}, where), True)
        for path, digest in zip(paths, digests, strict=True)
    ]

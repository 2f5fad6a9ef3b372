"""An OCI image layout: the documents that turn layers into an image other programs know.

A layout is a directory, or a tar of one: `oci-layout` says what it is, `index.json` names the
manifest, and all else are blobs below `blobs/sha256/`, named by their SHA-256: the manifest, the
configuration, the layers. A layer is a compressed tar; its `diff_id` is the SHA-256 of the tar
itself. See the OCI image specification, version 1.0.

Promises: pure, and the same values give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

MARK: Final = "oci-layout"
INDEX: Final = "index.json"
BLOBS: Final = "blobs/sha256"

_TYPE: Final = "application/vnd.oci.image."
_CONFIG: Final = f"{_TYPE}config.v1+json"
_MANIFEST: Final = f"{_TYPE}manifest.v1+json"
_LAYER: Final = f"{_TYPE}layer.v1.tar+gzip"
_NAME: Final = "org.opencontainers.image.ref.name"
_REVISION: Final = "org.opencontainers.image.revision"

_ARCHITECTURES: Final = {
    "x86_64": {"architecture": "amd64"},
    "i686": {"architecture": "386"},
    "aarch64": {"architecture": "arm64"},
    "armv7l": {"architecture": "arm", "variant": "v7"},
}
"""What `uname -m` says, in Go's words, which are OCI's; other names are the same."""


class Blob(NamedTuple):
    """A blob by its SHA-256 in hexadecimal and its length."""

    digest: str
    size: int


class Layer(NamedTuple):
    """A layer: its blob, the SHA-256 of what is compressed in it, and what to say about it."""

    blob: Blob
    diff_id: str
    comment: str


def mark() -> bytes:
    """The content of `oci-layout`."""
    return _encode({"imageLayoutVersion": "1.0.0"})


def config(layers: Sequence[Layer], *, machine: str, created: int) -> bytes:
    """The configuration: what runs it, since when, of which layers. `created` is nanoseconds."""
    return _encode(
        {
            **_platform(machine),
            "config": {},
            "created": _time(created),
            "history": [
                {"comment": layer.comment, "created": _time(created), "created_by": "imgstore"}
                for layer in layers
            ],
            "rootfs": {
                "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers],
                "type": "layers",
            },
        }
    )


def manifest(configuration: Blob, layers: Sequence[Layer], *, revision: str) -> bytes:
    """The manifest; `revision` is the id of the version it was made from."""
    return _encode(
        {
            "annotations": {_REVISION: revision},
            "config": _descriptor(_CONFIG, configuration),
            "layers": [_descriptor(_LAYER, layer.blob) for layer in layers],
            "mediaType": _MANIFEST,
            "schemaVersion": 2,
        }
    )


def index(found: Blob, *, name: str, machine: str) -> bytes:
    """The content of `index.json`: one image, which tools call by `name`."""
    described = _descriptor(_MANIFEST, found)
    described |= {"annotations": {_NAME: name}, "platform": _platform(machine)}
    return _encode({"manifests": [described], "schemaVersion": 2})


def _descriptor(kind: str, blob: Blob) -> dict[str, Any]:
    return {"digest": f"sha256:{blob.digest}", "mediaType": kind, "size": blob.size}


def _platform(machine: str) -> dict[str, str]:
    return {"os": "linux", **_ARCHITECTURES.get(machine, {"architecture": machine})}


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

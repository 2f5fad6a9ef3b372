"""SPECs on the command line: of one version, or of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chunkstore.errors import Usage
from chunkstore.objects.names import Spec, check_name, parse_spec
from imgstore.readable import short

if TYPE_CHECKING:
    from chunkstore.storage.layers import Layered


def one_version(text: str) -> Spec:
    """The SPEC of one version. Raises `Usage`."""
    return parse_spec(_without_layers(text))


def one_image(text: str) -> str:
    """The name of one image. Raises `Usage`."""
    return check_name(_without_layers(text), "an image")


def _without_layers(text: str) -> str:
    if "+" in text:
        raise Usage(f"{text!r} is layers of several images: name one of them")
    return text


def layered_image(found: Layered) -> str:
    """The image, or those of the layers: `web+rack7`."""
    return "+".join(spec.image for spec in found.specs)


def layered_id(found: Layered) -> str:
    """The id of the version, or those of the layers joined by `+`."""
    return "+".join(version.id.hex() for version in found.versions)


def layered_short(found: Layered) -> str:
    """The same, shortened for people."""
    return "+".join(short(version.id) for version in found.versions)

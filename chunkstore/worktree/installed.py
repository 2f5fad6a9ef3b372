"""What a node is told of its tree: which versions it is made of, where from, what is still to run.

Values as the node's state keeps them.
"""

from __future__ import annotations

from typing import NamedTuple

from chunkstore.objects.manifest import NodeRef


class Layer(NamedTuple):
    """An image and which version of it."""

    image: str
    version: bytes


class Installed(NamedTuple):
    """What a tree is made of: versions of a store laid over each other, and their manifest's root.

    One layer in most cases; then the root is that version's own.
    """

    store_id: bytes
    layers: tuple[Layer, ...]
    root: NodeRef

    @property
    def image(self) -> str:
        """The images, joined as in a SPEC."""
        return "+".join(layer.image for layer in self.layers)

    @property
    def version(self) -> bytes:
        """The version of the first layer."""
        return self.layers[0].version


class Source(NamedTuple):
    """Where a tree comes from: the remote, and the SPEC."""

    remote: str
    spec: str


class After(NamedTuple):
    """Hooks that still have to run after a change, and what they are told of it."""

    image: str
    old: str
    new: str
    commands: tuple[str, ...]

"""Names people give: images, tags, SPECs; and the byte paths of entries.

Promises: a name that passes here is safe as a file name and in a URL; a path that passes here
stays below its root whoever joins it. Leaves resolving a SPEC to `storage.store`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from chunkstore.errors import Corrupt, Usage

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LATEST: Final = "latest"
BASE: Final = "base"
STATE_DIR: Final = b".imgstore"
"""The node's own directory at the top of a tree; never part of an image."""

MAX_LAYERS: Final = 16
MAX_COMPONENT: Final = 255
MAX_PATH: Final = 4095
"""PATH_MAX less its NUL: longer paths can't be named to the system calls that restore them."""


class Spec(NamedTuple):
    """`IMAGE[:TAG or version id prefix][~N]`."""

    image: str
    tag: str
    back: int

    def __str__(self) -> str:
        back = f"~{self.back}" if self.back else ""
        return f"{self.image}:{self.tag}{back}"


def check_name(text: str, what: str) -> str:
    """Return `text` if it may name an image or a tag. Raises `Usage`."""
    if NAME.fullmatch(text) is None:
        raise Usage(
            f"{text!r} can't name {what}: up to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return text


def parse_spec(text: str) -> Spec:
    """Read a SPEC. Raises `Usage`."""
    rest, tilde, back = text.partition("~")
    if tilde and re.fullmatch(r"[0-9]{1,6}", back) is None:
        raise Usage(f"{text!r}: '~' takes a number of versions to go back")
    image, colon, tag = rest.partition(":")
    check_name(image, "an image")
    if colon:
        check_name(tag, "a tag")
    return Spec(image, tag or LATEST, int(back or 0))


def parse_layers(text: str) -> tuple[Spec, ...]:
    """Read SPECs joined by '+', the base first; one alone too. Raises `Usage`."""
    parts = text.split("+")
    if len(parts) > MAX_LAYERS:
        raise Usage(f"{len(parts)} layers are more than the {MAX_LAYERS} that a SPEC may have")
    specs = tuple(map(parse_spec, parts))
    images = [spec.image for spec in specs]
    for image in images:
        if images.count(image) > 1:
            raise Usage(f"{text!r}: image {image!r} is in it twice")
    return specs


def layers_text(specs: Iterable[Spec]) -> str:
    """The text that `parse_layers` reads as these."""
    return "+".join(map(str, specs))


def split(path: bytes) -> tuple[bytes, bytes]:
    """A path's directory and its name."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def sort_key(path: bytes) -> bytes:
    """The order of entries: by component, so that a directory is followed by all it holds.

    NUL can't stand in a path, so it takes the place of the separator and sorts below every name.
    """
    return path.replace(b"/", b"\0")


def is_below(path: bytes, directory: bytes) -> bool:
    """Whether `path` lies inside `directory` (both relative; the root is empty)."""
    return not directory or path.startswith(directory + b"/")


def check_path(path: bytes) -> None:
    """Refuse a path that no honest tree has. The root is the empty path. Raises `Corrupt`."""
    if not path:
        return
    if len(path) > MAX_PATH or b"\0" in path:
        raise Corrupt(f"path too long or with a NUL: {path[:80]!r}")
    for component in path.split(b"/"):
        if component in (b"", b".", b"..") or len(component) > MAX_COMPONENT:
            raise Corrupt(f"path with a component that can't be: {path[:80]!r}")
    if path == STATE_DIR or path.startswith(STATE_DIR + b"/"):
        raise Corrupt(f"path inside the node's own directory: {path[:80]!r}")


def printable(path: bytes) -> str:
    """A path for people and line-based tools: one line, every byte recoverable.

    Backslash, control characters and bytes that are not UTF-8 become `\\\\`, `\\n`, `\\t`, `\\xHH`;
    the root is `.`.
    """
    if not path:
        return "."
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


_SHORT: Final = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

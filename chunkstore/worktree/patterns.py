"""Exclude patterns, as rsync users write them.

A pattern without a slash matches a name at any depth; one with a slash inside, or in front, is
anchored at the root of the tree. A trailing slash restricts it to directories. `*` and `?` stay
within one name, `**` crosses slashes, `[...]` is a set of bytes. What is excluded takes all below
it along. Patterns are bytes, like paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from chunkstore.errors import Usage


class Patterns:
    """A compiled list of exclude patterns; empty lines and `#` comments are left out."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        kept = [line for line in lines if line and not line.startswith(b"#")]
        self.lines: tuple[bytes, ...] = tuple(kept)
        anything = [_translate(line) for line in kept if not line.endswith(b"/")]
        directories = [_translate(line.rstrip(b"/")) for line in kept]
        self._file = _compile(anything)
        self._directory = _compile(directories)

    def __bool__(self) -> bool:
        return bool(self.lines)

    def match(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether the path itself is excluded; the caller does not descend into what is."""
        expression = self._directory if is_directory else self._file
        return expression is not None and expression.fullmatch(path) is not None


def _compile(parts: list[bytes]) -> re.Pattern[bytes] | None:
    if not parts:
        return None
    try:
        return re.compile(b"|".join(b"(?:" + part + b")" for part in parts), re.DOTALL)
    except re.error as error:
        raise Usage(f"bad exclude pattern: {error}") from error


def _translate(pattern: bytes) -> bytes:
    body = pattern.strip(b"/") if pattern.startswith(b"/") else pattern.rstrip(b"/")
    if not body:
        raise Usage(f"exclude pattern {pattern!r} would match nothing or everything")
    prefix = b"" if b"/" in pattern.rstrip(b"/") else b"(?:.*/)?"
    return prefix + b"".join(_tokens(body))


_TOKEN = re.compile(rb"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\]|\\.|.", re.DOTALL)


def _tokens(body: bytes) -> Iterable[bytes]:
    for token in _TOKEN.findall(body):
        if token == b"**/":
            yield b"(?:.*/)?"
        elif token == b"**":
            yield b".*"
        elif token == b"*":
            yield b"[^/]*"
        elif token == b"?":
            yield b"[^/]"
        elif token.startswith(b"[") and len(token) > 1:
            yield _set(token[1:-1])
        elif token.startswith(b"\\") and len(token) == 2:
            yield re.escape(token[1:])
        else:
            yield re.escape(token)


def _set(inner: bytes) -> bytes:
    """What stands between brackets as a regular expression; it never matches a slash."""
    negated = inner[:1] in (b"!", b"^")
    # By number, since `&&`, `--` and the like mean something to `re`.
    members = re.findall(rb"(.)(-.)?", inner[negated:], re.DOTALL)
    ranges = b"".join(b"\\x%02x-\\x%02x" % (low[0], (high or low)[-1]) for low, high in members)
    return b"(?!/)[" + (b"^" if negated else b"") + ranges + b"]"

"""What verbs print: results to stdout, everything else to stderr, as text or as one JSON document.

Promises: a line stays a line whatever names and messages hold; JSON is plain ASCII. Leaves the
order and wording of results to the verbs, and how a number or a time is read to `readable`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from chunkstore.objects.names import printable
from chunkstore.progress import Progress

if TYPE_CHECKING:
    from chunkstore.trust.root import Root

Document = Mapping[str, Any]

_SHOWN_WARNINGS: Final = 10


class Output:
    """Where a verb's words go, as the options of every verb say."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: int = 0) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose

    def line(self, text: str) -> None:
        """A line of a result."""
        sys.stdout.write(text + "\n")

    def report(self, text: str, document: Document) -> None:
        """What a verb did: nothing with `-q`, the document with `--json`."""
        if self.as_json:
            self.document(document)
        elif not self.quiet:
            self.line(text)

    def document(self, document: Document) -> None:
        """The verb's one JSON document."""
        import json  # here, since `--help` does without

        self.line(json.dumps(document, indent=2))

    def long_document(self, document: Document, name: str, items: Iterable[Document]) -> None:
        """A document whose last member is a list of any length, written as it comes."""
        import json

        opening = json.dumps({**document, name: []}, indent=2)
        sys.stdout.write(opening.removesuffix("]\n}"))
        mark = "\n    "
        for item in items:
            sys.stdout.write(mark + json.dumps(item))
            mark = ",\n    "
        sys.stdout.write("]\n}\n" if mark == "\n    " else "\n  ]\n}\n")

    def note(self, text: str) -> None:
        """Something good to know on stderr; nothing with `-q`."""
        if not self.quiet:
            warn(text)

    def remark(self, text: str) -> None:
        """Something only those want to know who ask for it with `-v`; on stderr."""
        if self.verbose:
            warn(text)

    def error(self, text: str) -> None:
        """Something that failed, on stderr."""
        warn(text)

    def warnings(self, texts: Iterable[str]) -> None:
        """A line each on stderr; without `-v` only the first few."""
        texts = list(texts)
        shown = texts if self.verbose else texts[:_SHOWN_WARNINGS]
        for text in shown:
            warn(text)
        if len(texts) > len(shown):
            warn(f"... and {len(texts) - len(shown)} more like these (-v shows all)")

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        """A bar on stderr, if that is a terminal and nobody asked for quiet."""
        from imgstore.progress import shown, unwatched

        return shown(title) if sys.stderr.isatty() and not self.quiet else unwatched()


def warn(text: str) -> None:
    """One line on stderr that says who speaks."""
    sys.stderr.write(f"imgstore: {one_line(text)}\n")


def one_line(text: str) -> str:
    """Text with what could break a line or steer a terminal made visible."""
    return "".join(part if part.isprintable() else _visible(part) for part in text)


def _visible(character: str) -> str:
    try:
        return printable(character.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return "?"


def utc(nanoseconds: int) -> str:
    """A time for programs: ISO 8601 in UTC, to the nanosecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = time.gmtime(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{rest:09d}Z"


def json_path(path: bytes) -> str:
    """A path in JSON: bytes that are not UTF-8 become lone surrogates, as `os.fsdecode` does."""
    return path.decode("utf-8", "surrogateescape") or "."


def root_document(root: Root) -> dict[str, Any]:
    """What JSON says of a store's root document."""
    return {
        "store_id": root.store_id.hex(),
        "root_version": root.version,
        "expires": utc(root.expires) if root.expires else None,
    }

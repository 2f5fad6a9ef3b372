"""How verbs tell how far they have come. Showing it is the caller's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about work as it is done."""

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        """So many files and bytes are ahead; called once, when that is known."""
        ...

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        """So many more files and bytes are done."""
        ...

    def came(self, *, peers: int = 0, server: int = 0, own: int = 0) -> None:
        """So many more bytes have come: from other nodes, the server, or this node's own files."""
        ...


class Unwatched:
    """Progress nobody looks at."""

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        """Say nothing."""

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        """Say nothing."""

    def came(self, *, peers: int = 0, server: int = 0, own: int = 0) -> None:
        """Say nothing."""

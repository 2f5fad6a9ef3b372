"""What exporting tells."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class ExportReport(NamedTuple):
    """What was written: members, bytes of the archive, paths to remove, and where those stand.

    `lost` counts, by kind, what a tar archive can't say. Of an OCI image the bytes are those of its
    layers, and `digest` names its manifest.
    """

    members: int
    written: int
    deletions: int
    sidecar: str | None
    lost: Counter[str]
    digest: str | None = None

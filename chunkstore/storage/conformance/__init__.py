"""The contracts of `chunkstore.storage.backend`, as checks that any implementation can run.

    from chunkstore.storage.conformance import check_backend
    def test_mine() -> None:
        check_backend(lambda: MyBackend("..."))

For a report line per contract, run the members of `READER_CHECKS` and `BACKEND_CHECKS` one by one.
Every check works below a prefix of its own, so the place may hold other things and may be used
again. A broken contract is an `AssertionError` that names it. Durability can't be seen from
inside a process; it is not checked here.
"""

from __future__ import annotations

from chunkstore.storage.conformance.claims import BAD_NAMES
from chunkstore.storage.conformance.reading import READER_CHECKS, Fill, MakeReader, ReaderCheck
from chunkstore.storage.conformance.storing import BACKEND_CHECKS, BackendCheck, MakeBackend

__all__ = [
    "BACKEND_CHECKS",
    "BAD_NAMES",
    "READER_CHECKS",
    "BackendCheck",
    "Fill",
    "MakeBackend",
    "MakeReader",
    "ReaderCheck",
    "check_backend",
    "check_reader",
]


def check_reader(make: MakeReader, fill: Fill) -> None:
    """Run all checks of `Reader`. Raises `AssertionError`."""
    for check in READER_CHECKS:
        check(make, fill)


def check_backend(make: MakeBackend) -> None:
    """Run all checks of `Backend`, those of `Reader` included. Raises `AssertionError`."""
    for check in BACKEND_CHECKS:
        check(make)

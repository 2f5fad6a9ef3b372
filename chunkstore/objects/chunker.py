"""Cutting content into chunks by what it holds, so that an insertion moves only its neighbours.

FastCDC (Xia et al., 2016) in the variant of ronomon/deduplication, which is the one the `fastcdc`
library has; the 2016 and 2020 papers' own chunkers cut elsewhere. Specified in `docs/format.md`,
section "Chunk". The parameters belong to the store; `docs/decisions/0002-chunker-parameters.md`
says why the defaults are what they are, and golden cut points in the tests keep the library to its
word.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from chunkstore.errors import LocalError, Unsupported

ALGORITHM: Final = "fastcdc-ronomon"


class Parameters(NamedTuple):
    """What decides the cut points: bytes of the smallest, the average and the largest chunk."""

    minimum: int = 16 * 1024
    average: int = 64 * 1024
    maximum: int = 256 * 1024

    def check(self, where: str) -> Parameters:
        """Return self if the chunker can work with it. Raises `Unsupported` naming `where`."""
        low, mid, high = self
        if not 1024 <= low < mid < high <= 512 * 1024 or mid & (mid - 1):
            raise Unsupported(f"{where}: impossible chunker parameters {tuple(self)}", where=where)
        return self


@cache
def _library() -> Any:
    """The compiled chunker. Loaded late: its helpers take longer to import than most verbs run."""
    import fastcdc

    if fastcdc.fastcdc.__name__ != "fastcdc_cy":
        raise LocalError(
            "the fastcdc library was installed without its compiled part and would be 190 times "
            "slower; install a C compiler and run: pip install --force-reinstall --no-binary "
            "fastcdc fastcdc"
        )
    return fastcdc.fastcdc


def cut(data: bytes, parameters: Parameters) -> Iterator[int]:
    """Yield the lengths of the chunks of `data`, which is taken as a whole file or its end.

    Whether the last one is final, only the caller knows: when more of the file follows, its bytes
    have to be offered again in front of what comes next.
    """
    if len(data) <= parameters.minimum:
        if data:
            yield len(data)
        return
    low, mid, high = parameters
    for chunk in _library()(data, low, mid, high):
        yield chunk.length

"""Which packs travel by swarm, and which of their pieces come first. Pure.

Pieces of a torrent are larger than most frames and begin anywhere, so a pack that is wanted in
scattered parts costs more by swarm than by ranges. And in the order of pieces lies the speed of a
crowd: nodes that fetch disjoint stripes from the seed have all of it between them after one copy
was sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from chunkstore.objects.torrent import Torrent

LEAST_BYTES: Final = 4 * 1024 * 1024
"""Less than this is sooner read than any peer is found."""
MAX_EXCESS: Final = 1.25
"""Bytes of pieces for each byte that is wanted, beyond which ranges are better."""
FIRST: Final = 7
LATER: Final = 1

Span = tuple[int, int]
"""Where wanted bytes of a pack begin and end."""


class Wish(NamedTuple):
    """What is wanted of a pack."""

    torrent: Torrent
    spans: tuple[Span, ...]

    @property
    def wanted(self) -> int:
        """Bytes wanted."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def bytes_by_piece(self) -> dict[int, int]:
        """How many bytes of which pieces."""
        found: Counter[int] = Counter()
        for start, stop in self.spans:
            for piece in self.torrent.covering(start, stop):
                low, high = self.torrent.span(piece)
                found[piece] += min(high, stop) - max(low, start)
        return found

    @property
    def pieces(self) -> list[int]:
        """The pieces that hold them, in order."""
        return sorted(self.bytes_by_piece)

    @property
    def covered(self) -> int:
        """Bytes of those pieces."""
        return sum(stop - start for start, stop in map(self.torrent.span, self.pieces))


def is_worth_it(wish: Wish) -> bool:
    """Whether its pieces are not much more than what is wanted."""
    return wish.covered <= MAX_EXCESS * wish.wanted


def fitting(wishes: Iterable[Wish], room: int) -> list[Wish]:
    """The wishes that fit into so many bytes of cache, in their order."""
    chosen = []
    for wish in wishes:
        if wish.covered <= room:
            room -= wish.covered
            chosen.append(wish)
    return chosen


def priorities(pieces: int, wanted: Sequence[int], rank: int | None, crowd: int) -> list[int]:
    """For each piece of a torrent how much it is wanted: 0 not at all, `FIRST` before `LATER`.

    Of what is wanted each of a `crowd` of nodes has every so many-th first, by its rank.
    """
    found = [0] * pieces
    is_alone = rank is None or crowd < 2
    for place, piece in enumerate(wanted):
        found[piece] = FIRST if not is_alone and place % crowd == rank else LATER
    return found

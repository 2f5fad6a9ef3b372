"""Which packs travel by swarm, and which pieces come first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Usage
from chunkstore.objects import torrent
from chunkstore.swarm import settings
from chunkstore.swarm.choice import FIRST, LATER, Wish, fitting, is_worth_it, priorities

KIB = 1024
PIECE = torrent.LEAST_PIECE
MADE = torrent.make(bytes(32), 100 * PIECE + 5, [bytes(100 * PIECE + 5)])


def test_a_wish_is_worth_it_if_its_pieces_hold_little_else():
    assert is_worth_it(Wish(MADE, ((0, MADE.size),)))
    assert is_worth_it(Wish(MADE, ((10 * PIECE + 9, 30 * PIECE + 9),)))
    assert not is_worth_it(Wish(MADE, ((10 * PIECE + 9, 10 * PIECE + 99),)))
    scattered = tuple((number * PIECE, number * PIECE + PIECE // 2) for number in range(100))
    assert not is_worth_it(Wish(MADE, scattered))


@given(st.lists(st.tuples(st.integers(0, MADE.size), st.integers(1, 9 * PIECE)), max_size=8))
def test_pieces_cover_what_is_wanted_and_each_holds_some_of_it(parts):
    spans = tuple((start, min(start + length, MADE.size)) for start, length in parts)
    wish = Wish(MADE, spans)
    inside = [range(*MADE.span(piece)) for piece in wish.pieces]
    for start, stop in spans:
        for byte in {start, (start + stop) // 2, stop - 1} if start < stop else ():
            assert any(byte in part for part in inside)
    for part in inside:
        assert any(start < part.stop and part.start < stop for start, stop in spans)
    assert wish.covered == sum(map(len, inside))


def test_what_fits_into_the_cache_is_taken_in_order():
    wishes = [Wish(MADE, ((0, count * PIECE),)) for count in (10, 50, 5, 30)]
    assert fitting(wishes, 20 * PIECE) == [wishes[0], wishes[2]]
    assert fitting(wishes, 0) == []
    assert fitting(wishes, 10**12) == wishes


@given(st.sets(st.integers(0, 99), min_size=1), st.integers(2, 60))
def test_every_piece_is_first_for_one_node_of_the_crowd(wanted, crowd):
    order = sorted(wanted)
    each = [priorities(100, order, rank, crowd) for rank in range(crowd)]
    for piece in range(100):
        firsts = sum(found[piece] == FIRST for found in each)
        assert firsts == (piece in wanted)
        assert all(
            found[piece] == (LATER if piece in wanted else 0)
            for found in each
            if found[piece] != FIRST
        )
    loads = [found.count(FIRST) for found in each]
    assert max(loads) - min(loads) <= 1


def test_without_a_rank_all_pieces_are_alike():
    assert priorities(4, [0, 2], None, 9) == [LATER, 0, LATER, 0]
    assert priorities(4, [0, 2], 0, 1) == [LATER, 0, LATER, 0]


def test_settings_that_make_no_sense_are_refused():
    assert settings.parse_ports("6881-6999") == (6881, 6999)
    assert settings.parse_ports("7000") == (7000, 7000)
    for text in ("", "0", "5-4", "1-65536", "a-b", "1-2-3", "-5"):
        with pytest.raises(Usage):
            settings.parse_ports(text)
    assert settings.parse_address("[::1]") == "::1"
    for text in ("", "host", "1.2.3", "10.0.0.0/8"):
        with pytest.raises(Usage):
            settings.parse_address(text)
    for text in ("", "10.0.0.1/8", "10.0.0.0/33", "net"):
        with pytest.raises(Usage):
            settings.parse_network(text)


def test_peers_outside_of_the_networks_are_not_allowed():
    nets = tuple(map(settings.parse_network, ("10.0.0.0/8", "fd00::/8")))
    limited = settings.SessionSettings(networks=nets)
    assert limited.allows(bytes([10, 1, 2, 3]))
    assert limited.allows(bytes([0xFD, *[0] * 14, 1]))
    assert not limited.allows(bytes([192, 168, 0, 1]))
    assert not limited.allows(bytes([0x20, *[0] * 15]))
    assert settings.SessionSettings().allows(bytes([192, 168, 0, 1]))

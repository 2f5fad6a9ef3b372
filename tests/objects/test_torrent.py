"""Torrents: what the pack decides, what is refused, and what other programs make of them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt
from chunkstore.objects import bencode, torrent
from chunkstore.objects.digest import pack_hasher

PACK = bytes(range(32))
VALUES = st.recursive(
    st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def depth(value) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case _:
            return 0


@given(VALUES)
def test_what_is_encoded_is_decoded(value):
    data = bencode.encode(value)
    if depth(value) <= bencode.MAX_DEPTH:
        assert bencode.decode(data, "here") == value
    else:
        with pytest.raises(Corrupt, match="too deeply"):
            bencode.decode(data, "here")


@given(st.binary(max_size=60))
def test_what_is_decoded_is_the_one_encoding(data):
    try:
        value = bencode.decode(data, "here")
    except Corrupt:
        return
    assert bencode.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"i", b"ie", b"i-e", b"i01e", b"i-0e", b"i+1e", b"i1", b"i 1e", b"i1_0e"),
        *(b"i" + b"1" * 30 + b"e", b"5:abc", b"01:a", b"-1:a", b"99999999999999999999:", b"1"),
        *(b"l", b"li1e", b"d", b"di1ei2ee", b"d1:a", b"d1:ae", b"i1ei2e", b"d1:ai1e1:ai2ee"),
        *(b"d1:bi1e1:ai2ee", b"l" * 2000, b"x", b"i\xd9\xa1e"),
    ],
)
def test_what_is_not_bencoded_is_refused(data):
    with pytest.raises(Corrupt, match="here: not bencoded"):
        bencode.decode(data, "here")


def test_keys_out_of_order_can_be_let_through_but_none_twice():
    data = b"d1:bi1e1:ai2ee"
    assert bencode.decode(data, "here", ordered=False) == {b"b": 1, b"a": 2}
    with pytest.raises(Corrupt):
        bencode.decode(b"d1:bi1e1:ai2e1:bi3ee", "here", ordered=False)


def test_golden(golden):
    data = golden.read("torrent")
    expected = golden.expected["torrent"]
    found = torrent.parse(data, golden.pack_id, "here")
    assert found.encode() == data
    assert (found.size, found.piece) == (expected["size"], expected["piece"])
    assert found.hashes == golden.bytes_of(expected["hashes"])
    assert found.info_hash.hex() == expected["info_hash"]
    packed = golden.read("pack")
    assert found == torrent.make(golden.pack_id, len(packed), [packed[:100], packed[100:]])


@given(st.lists(st.binary(max_size=90_000), max_size=6))
def test_pieces_are_the_same_however_the_bytes_come(parts):
    data = b"".join(parts)
    if not data:
        with pytest.raises(Corrupt):
            torrent.make(PACK, 0, parts)
        return
    made = torrent.make(PACK, len(data), parts)
    pieces = [data[start : start + made.piece] for start in range(0, len(data), made.piece)]
    assert made.hashes == b"".join(hashlib.sha1(piece).digest() for piece in pieces)
    assert made.pieces == len(pieces)
    for number, piece in enumerate(pieces):
        start, stop = made.span(number)
        assert data[start:stop] == piece
        assert made.is_right(number, piece)
        assert not made.is_right(number, piece + b"x")
    assert torrent.parse(made.encode(), PACK, "here") == made


def test_no_more_than_2048_pieces():
    kib = 1024
    assert torrent.piece_length(1) == 64 * kib
    assert torrent.piece_length(2048 * 64 * kib) == 64 * kib
    assert torrent.piece_length(2048 * 64 * kib + 1) == 128 * kib
    assert torrent.piece_length(torrent.MAX_PACK) == 16 * kib * kib
    for size in (0, -1, torrent.MAX_PACK + 1):
        with pytest.raises(Corrupt):
            torrent.piece_length(size)


def test_covering_pieces():
    made = torrent.make(PACK, 200_000, [bytes(200_000)])
    assert list(made.covering(0, 1)) == [0]
    assert list(made.covering(65_535, 65_537)) == [0, 1]
    assert list(made.covering(65_536, 131_072)) == [1]
    assert list(made.covering(0, 200_000)) == [0, 1, 2, 3]
    assert list(made.covering(5, 5)) == []


def test_trackers_and_web_seeds_do_not_change_the_swarm():
    plain = torrent.make(PACK, 10, [bytes(10)])
    urls = ("http://a:1/announce", "https://b/announce")
    full = plain._replace(trackers=urls, web_seeds=("http://a:1/packs/x",))
    assert full.info_hash == plain.info_hash
    assert torrent.parse(full.encode(), PACK, "here") == full
    one = plain._replace(trackers=urls[:1])
    assert torrent.parse(one.encode(), PACK, "here") == one


def test_urls_nobody_may_be_sent_to_are_left_out():
    plain = torrent.make(PACK, 10, [bytes(10)])
    fields = bencode.decode(plain.encode(), "here")
    fields[b"announce"] = b"udp://tracker:1"
    fields[b"url-list"] = b"file:///etc/passwd"
    assert torrent.parse(bencode.encode(fields), PACK, "here") == plain


def changed(**info):
    fields = bencode.decode(torrent.make(PACK, 200_000, [bytes(200_000)]).encode(), "here")
    for name, value in info.items():
        key = name.replace("_", " ").encode()
        if value is None:
            del fields[b"info"][key]
        else:
            fields[b"info"][key] = value
    return bencode.encode(fields)


@pytest.mark.parametrize(
    "data",
    [
        changed(length=200_001 + 65_536),
        changed(length=199_999 - 65_536),
        changed(length=0),
        changed(length=-1),
        changed(length=2**62),
        changed(length=None),
        changed(length=b"1"),
        changed(pieces=None),
        changed(pieces=b""),
        changed(pieces=bytes(79)),
        changed(pieces=bytes(100)),
        changed(piece_length=32 * 1024),
        changed(piece_length=None),
        changed(name=b"../../etc/passwd"),
        changed(name=b"0" * 64 + b".pack"),
        changed(private=None),
        changed(private=0),
        changed(files=[{b"length": 1, b"path": [b"x"]}]),
        b"le",
        b"de",
        b"d4:infolee",
        b"i1e",
        changed() + b"x",
        b"d8:announce" + b"%d:" % torrent.MAX_TORRENT + b"x" * torrent.MAX_TORRENT + b"e",
    ],
)
def test_what_is_no_torrent_of_the_pack_is_refused(data):
    with pytest.raises(Corrupt) as caught:
        torrent.parse(data, PACK, "here")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_damaged_torrent_ends_in_a_declared_error_or_in_this_pack(data):
    good = changed()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + data.draw(st.binary(max_size=3)) + good[place + 1 :]
    try:
        found = torrent.parse(bad, PACK, "here")
    except Corrupt:
        return
    assert found.name == f"{PACK.hex()}.pack"
    assert found.pieces == -(-found.size // found.piece)


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, torrent.Torrent]:
    """A pack's file under its own name, and its torrent."""
    data = bytes(range(256)) * 1000
    hasher = pack_hasher()
    hasher.update(data)
    made = torrent.make(hasher.digest(), len(data), [data])
    path = tmp_path / made.name
    path.write_bytes(data)
    return path, made


def test_transmission_names_the_same_swarm(packed, tmp_path):
    show = shutil.which("transmission-show")
    if show is None:
        pytest.skip("needs Debian's transmission-cli")
    _, made = packed
    file = tmp_path / "made.torrent"
    file.write_bytes(made._replace(trackers=("http://tracker:8730/announce",)).encode())
    run = subprocess.run([show, str(file)], capture_output=True, text=True, check=True)
    assert made.info_hash.hex() in run.stdout
    assert "Private torrent" in run.stdout
    assert "http://tracker:8730/announce" in run.stdout


def test_libtorrent_makes_the_same_torrent(packed):
    lt = pytest.importorskip("libtorrent", reason="needs libtorrent: pip install imgstore[swarm]")
    path, made = packed
    theirs = lt.create_torrent(
        lt.list_files(str(path)), torrent.LEAST_PIECE, lt.create_torrent.v1_only
    )
    theirs.set_priv(True)
    lt.set_piece_hashes(theirs, str(path.parent))
    theirs = lt.load_torrent_buffer(lt.bencode(theirs.generate()))
    assert bytes(theirs.ti.info_hash().to_bytes()) == made.info_hash

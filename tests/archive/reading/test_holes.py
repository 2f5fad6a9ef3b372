"""Files with holes in all four ways of writing them, and as GNU tar, bsdtar and Python do."""

from __future__ import annotations

import pytest
from support.tarballs import END, GNU, Read, base256, block, file, octal, padded, pax, read

from chunkstore.errors import Corrupt, Unsupported

SIZE = 40_000
RUNS = [(512, 1024), (8192, 512), (20_000, 100)]
DATA = b"a" * 1024 + b"b" * 512 + b"c" * 100
WIDENED = [(512, 1024), (8192, 512), (19968, 512)]
FLAT = b",".join(b"%d,%d" % run for run in RUNS)


def expected() -> bytes:
    content = bytearray(SIZE)
    content[512:1536] = b"a" * 1024
    content[8192:8704] = b"b" * 512
    content[20_000:20_100] = b"c" * 100
    return bytes(content)


def old_gnu(runs: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    def pairs(some: list[tuple[int, int]]) -> bytes:
        return b"".join(octal(offset, 12) + octal(length, 12) for offset, length in some)

    more = len(runs) > 4
    tail = bytes(41) + pairs(runs[:4]).ljust(96, b"\0") + bytes([more]) + octal(size, 12)
    blocks = [block(b"sparse", flavour=b"S", magic=GNU, size=len(data), tail=tail)]
    for start in range(4, len(runs), 21):
        goes_on = start + 21 < len(runs)
        blocks.append(
            (pairs(runs[start : start + 21]).ljust(504, b"\0") + bytes([goes_on])).ljust(512, b"\0")
        )
    return b"".join(blocks) + padded(data)


def map_1_0(lines: list[int]) -> bytes:
    return padded(b"".join(b"%d\n" % line for line in lines))


def pax_1_0(size: int, data: bytes, *, version: tuple[bytes, bytes] = (b"1", b"0")) -> bytes:
    head = pax(
        (b"GNU.sparse.major", version[0]),
        (b"GNU.sparse.minor", version[1]),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", b"%d" % size),
    )
    return head + file(b"GNUSparseFile.0/sparse", data)


def pax_0_1(flat: bytes, size: int, data: bytes) -> bytes:
    return pax(
        (b"GNU.sparse.size", b"%d" % size),
        (b"GNU.sparse.numblocks", b"3"),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.map", flat),
    ) + file(b"GNUSparseFile.0/sparse", data)


def pax_0_0(runs: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    pairs = [
        pair
        for offset, length in runs
        for pair in (
            (b"GNU.sparse.offset", b"%d" % offset),
            (b"GNU.sparse.numbytes", b"%d" % length),
        )
    ]
    return pax((b"GNU.sparse.size", b"%d" % size), *pairs) + file(b"sparse", data)


LINES = [3, *(number for run in RUNS for number in run)]


@pytest.mark.parametrize(
    "member",
    [
        old_gnu(RUNS, SIZE, DATA),
        pax_0_0(RUNS, SIZE, DATA),
        pax_0_1(FLAT, SIZE, DATA),
        pax_1_0(SIZE, map_1_0(LINES) + DATA),
    ],
    ids=["old GNU", "0.0", "0.1", "1.0"],
)
def test_every_form(member: bytes) -> None:
    one, two = read(member + file(b"next", b"content") + END)
    assert one.member.path == b"sparse"
    assert one.member.size == SIZE
    assert one.runs == WIDENED
    assert one.content == expected()
    assert two.content == b"content"


@pytest.mark.parametrize("count", [4, 5, 25, 26, 47, 500])
def test_many_segments(count: int) -> None:
    runs = [(index * 4096, 512) for index in range(count)]
    data = b"".join(b"%0512d" % index for index in range(count))
    size = count * 4096
    lines = [count, *(number for run in runs for number in run)]
    for member in (old_gnu(runs, size, data), pax_1_0(size, map_1_0(lines) + data)):
        [found] = read(member + END)
        assert found.runs == runs
        assert b"".join(found.content[start : start + 512] for start, _ in runs) == data


def one(size: int, runs: list[tuple[int, int]], data: bytes) -> Read:
    lines = [len(runs), *(number for run in runs for number in run)]
    [found] = read(pax_1_0(size, map_1_0(lines) + data) + END)
    return found


def test_what_is_all_hole_or_has_none() -> None:
    assert one(10_000, [], b"").runs == []
    assert one(10_000, [(10_000, 0)], b"").runs == []
    assert one(0, [], b"").runs == []
    assert one(2**60, [(2**60, 0)], b"").member.size == 2**60
    whole = one(1000, [(0, 400), (400, 600)], b"x" * 1000)
    assert whole.runs == [(0, 1000)]
    assert whole.content == b"x" * 1000


def test_segments_that_touch_are_one() -> None:
    found = one(9000, [(1024, 512), (1536, 512), (2048, 0), (2100, 10)], b"x" * 1034)
    assert found.runs == [(1024, 1536)]
    assert found.content[1024:2048] == b"x" * 1024
    assert found.content[2048:2100] == bytes(52)
    assert found.content[2100:2110] == b"x" * 10


HOSTILE = {
    "backwards": pax_1_0(SIZE, map_1_0([2, 8192, 512, 0, 512]) + DATA[:1024]),
    "overlapping": pax_1_0(SIZE, map_1_0([2, 0, 1024, 512, 512]) + DATA[:1536]),
    "beyond the end": pax_1_0(1000, map_1_0([1, 512, 512]) + DATA[:512]),
    "less than there is": pax_1_0(SIZE, map_1_0([1, 0, 512]) + DATA[:1024]),
    "more than there is": pax_1_0(SIZE, map_1_0([1, 0, 2048]) + DATA[:1024]),
    "negative": pax_1_0(SIZE, map_1_0([1, -512, 512]) + DATA[:512]),
    "no end": pax_1_0(SIZE, b"9" * 512),
    "no lines": pax_1_0(SIZE, bytes(512)),
    "more pairs than data": pax_1_0(SIZE, map_1_0([100, 1, 1])),
    "half a segment": pax_0_1(b"0,512,1024", SIZE, DATA[:512]),
    "words": pax_0_1(b"0,many", SIZE, DATA[:512]),
    "lone length": pax((b"GNU.sparse.numbytes", b"1")) + file(b"x", b"1") + END,
    "lone offset": pax((b"GNU.sparse.offset", b"1")) + file(b"x", b"1") + END,
    "two offsets": pax(*[(b"GNU.sparse.offset", b"1")] * 2) + file(b"x", b"1") + END,
    "size of another world": pax_1_0(2**64, map_1_0([1, 0, 512]) + DATA[:512]),
    "old GNU backwards": old_gnu([(8192, 512), (0, 512)], SIZE, DATA[:1024]),
    "old GNU beyond the end": old_gnu([(SIZE, 512)], SIZE, DATA[:512]),
    "old GNU that goes on": old_gnu([(i * 1024, 512) for i in range(30)], SIZE, b"")[:1024],
    "old GNU negative": block(
        b"x",
        flavour=b"S",
        magic=GNU,
        tail=bytes(41) + base256(-512, 12) + base256(512, 12) + bytes(73) + octal(SIZE, 12),
        size=512,
    )
    + padded(b"x" * 512),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_maps_that_make_no_sense(name: str) -> None:
    with pytest.raises(Corrupt):
        read(HOSTILE[name] + END)


def test_maps_without_measure() -> None:
    with pytest.raises(Unsupported, match="runs of data"):
        read(pax_1_0(SIZE, map_1_0([2**40])) + END)
    with pytest.raises(Unsupported, match="runs of data"):
        read(pax_0_1(b"0,1," * 1_100_000 + b"0,1", SIZE, b"") + END)


def test_a_format_nobody_knows() -> None:
    with pytest.raises(Unsupported, match=r"sparse format 1\.1"):
        read(pax_1_0(SIZE, map_1_0(LINES) + DATA, version=(b"1", b"1")) + END)
    with pytest.raises(Unsupported, match="star"):
        read(pax((b"SCHILY.realsize", b"100")) + file(b"x") + END)

"""Archives made to do harm: a declared error or a harmless entry, in little memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tarballs import (
    END,
    GNU,
    base256,
    block,
    file,
    folder,
    gnu_long,
    hardlink,
    padded,
    pax,
    read,
    record,
    symlink,
)

from chunkstore.archive.reading import pax as pax_records
from chunkstore.archive.reading.members import TarReader
from chunkstore.archive.reading.source import Source
from chunkstore.archive.reading.tree import Tree
from chunkstore.archive.reading.unpacking import unpack
from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects import entry as entries
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import Entry


class Gone:
    """A sink that lets everything go."""

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        pass

    def store_node(self, data: bytes) -> bytes:
        return chunk_digest(data)


def tree_of(place: Path, *archives: bytes, whiteouts: bool = True) -> list[Entry]:
    """The entries that archives laid over each other make."""
    with Tree(str(place)) as tree:
        for number, data in enumerate(archives):
            reader = TarReader(Source(iter([data]), "test.tar"))
            unpack(reader, tree, Parameters(), Gone(), whiteouts=whiteouts and number > 0)
        found = list(tree.entries())
    for item in found:
        entries.check(tuple(item), "test")
    return found


BAD_NAMES = [
    b"..",
    b"../x",
    b"/..",
    b"/../x",
    b"./../x",
    b"a/../../x",
    b"a/..",
    b"a/./../b",
    b"x" * 256,
    b"a/" * 2100 + b"b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_out(name: bytes) -> None:
    for member in (
        pax((b"path", name)) + file(b"x"),
        gnu_long(name) + file(b"x"),
        pax((b"GNU.sparse.name", name), (b"GNU.sparse.major", b"1"))
        + file(b"x", b"0\n" + bytes(510)),
        pax((b"linkpath", name)) + hardlink(b"x", b"y"),
        gnu_long(name, b"K") + hardlink(b"x", b"y"),
        pax((b"path", name)) + folder(b"x"),
        pax((b"path", name)) + symlink(b"x", b"y"),
    ):
        with pytest.raises(Corrupt):
            read(member + END)


def test_names_with_a_nul() -> None:
    with pytest.raises(Corrupt):
        read(pax((b"path", b"a\0b")) + file(b"x") + END)
    with pytest.raises(Corrupt):
        read(pax((b"linkpath", b"a\0b")) + symlink(b"x", b"y") + END)
    # In a field of the header it is the end of the name, for every reader.
    assert read(file(b"a\0b") + END)[0].member.path == b"a"


BAD = {
    "no name": file(b""),
    "a size below zero": block(b"x", size=base256(-1, 12)),
    "a size below zero in PAX": pax((b"size", b"-1")) + file(b"x"),
    "a size that is no number": pax((b"size", b"1e3")) + file(b"x"),
    "a size far beyond the file": block(b"x", size=base256(2**62, 12)),
    "an owner below zero": block(b"x", uid=base256(-2, 8)),
    "an owner too large": pax((b"uid", b"4294967295")) + file(b"x"),
    "a time beyond time": pax((b"mtime", b"99999999999999")) + file(b"x"),
    "a time that is none": pax((b"mtime", b"nan")) + file(b"x"),
    "a header time beyond time": block(b"x", mtime=base256(2**60, 12)),
    "a number that is none": block(b"x", mode=b"0o644"),
    "a number with junk": block(b"x", uid=b"12x4"),
    "a checksum that is wrong": block(b"x", checksum=b"000000\0 "),
    "a checksum that is none": block(b"x", checksum=b"zzzzzz\0 "),
    "a device below zero": block(b"x", flavour=b"3", major=base256(-1, 8)),
    "a device too large": pax((b"SCHILY.devmajor", b"4294967296")) + block(b"x", flavour=b"3"),
    "a symlink to nothing": block(b"x", flavour=b"2"),
    "a symlink too long": pax((b"linkpath", b"t" * 4096)) + symlink(b"x", b"y"),
    "a hardlink to nothing": block(b"x", flavour=b"1"),
    "a hardlink to the top": hardlink(b"x", b"./"),
    "an endless name": block(b"x", flavour=b"L", size=base256(2**40, 12)),
    "an endless header": block(b"x", flavour=b"x", size=base256(2**40, 12)),
    "an endless global header": block(b"x", flavour=b"g", size=base256(2**40, 12)),
    "a header below zero": block(b"x", flavour=b"x", size=base256(-512, 12)),
    "headers without end": pax((b"comment", b"x")) * 300 + file(b"x"),
    "names without end": gnu_long(b"x") * 300 + file(b"x"),
    "a header for nothing": pax((b"path", b"x")),
    "a name for nothing": gnu_long(b"x"),
    "an attribute without a name": pax((b"SCHILY.xattr.", b"x")) + file(b"x"),
    "an attribute with a long name": pax((b"SCHILY.xattr." + b"n" * 256, b"")) + file(b"x"),
    "an attribute with a NUL": pax((b"SCHILY.xattr.a\0b", b"")) + file(b"x"),
    "an attribute too long": pax((b"SCHILY.xattr.user.x", b"v" * 65537)) + file(b"x"),
    "an attribute that is no base64": pax((b"LIBARCHIVE.xattr.user.x", b"*")) + file(b"x"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_archive_has(name: str) -> None:
    with pytest.raises(Corrupt, match=r"^test\.tar"):
        read(BAD[name] + END)


UNKNOWN = {
    "a later volume": block(b"x", flavour=b"M", magic=GNU),
    "a later volume in PAX": pax((b"GNU.volume.offset", b"100")) + file(b"x"),
    "Solaris": block(b"x", flavour=b"A"),
    "something": block(b"x", flavour=b"Q"),
    "something low": block(b"x", flavour=b"z"),
    "something not of this world": block(b"x", flavour=b"\xff"),
    "one name for all": pax((b"path", b"x"), flavour=b"g"),
    "one size for all": pax((b"size", b"1"), flavour=b"g"),
    "holes for all": pax((b"GNU.sparse.major", b"1"), flavour=b"g"),
    "a large global header": pax((b"comment", b"x" * 2_000_000), flavour=b"g"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(Unsupported, match=r"^test\.tar"):
        read(UNKNOWN[name] + END)


@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"6 a=b",
        b"6 a=b\n\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b"100 a=b\n",
        b"0 a=b\n",
        b"-6 a=b\n",
        b"+6 a=b\n",
        b" 6 a=b\n",
        b"6\ta=b\n",
        b"4 a\n\n",
        b"4 =\n",
        b"5 =b\n",
        b"6 a=b\x00",
        b"9" * 40 + b" a=b\n",
        "٦ a=b\n".encode(),
        b"6 a=b\n6 a=",
    ],
)
def test_records_that_are_none(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        list(pax_records.records(raw, "test"))
    with pytest.raises(Corrupt):
        read(pax(raw=raw) + file(b"x") + END)


@given(st.binary(max_size=200) | st.text("0123456789 =\na").map(str.encode))
def test_any_records(data: bytes) -> None:
    try:
        found = list(pax_records.records(data, "test"))
    except Corrupt:
        return
    assert b"".join(record(*pair) for pair in found) == data or b"0" in data


@given(st.lists(st.tuples(st.binary(min_size=1).filter(lambda k: b"=" not in k), st.binary())))
def test_records_come_back(pairs: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(record(*pair) for pair in pairs)
    assert list(pax_records.records(data, "test")) == pairs


SEED = (
    folder()
    + gnu_long(b"n" * 300)
    + file(b"n" * 100, b"some content", magic=GNU)
    + pax((b"mtime", b"1.5"), (b"SCHILY.xattr.user.x", b"y"), (b"path", b"long/name"))
    + file(b"short", b"x" * 700)
    + hardlink(b"h", b"long/name")
    + symlink(b"s", b"t")
    + block(b"dev", flavour=b"3", major=1, minor=3)
    + END
)


@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(SEED)),
    st.booleans(),
)
def test_damage(changes: list[tuple[int, int]], length: int, is_cut: bool) -> None:
    """Whatever is changed, a declared error comes out or members that an image may hold."""
    check_damaged(changes, length, is_cut=is_cut)


@pytest.mark.campaign
@settings(max_examples=10_000, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, len(SEED)),
    st.booleans(),
)
def test_much_damage(changes: list[tuple[int, int]], length: int, is_cut: bool) -> None:
    check_damaged(changes, length, is_cut=is_cut)


def check_damaged(changes: list[tuple[int, int]], length: int, *, is_cut: bool) -> None:
    data = bytearray(SEED)
    for place, value in changes:
        data[place] = value
    damaged = bytes(data[:length] if is_cut else data)
    try:
        found = read(damaged)
    except Corrupt:
        return
    for item in found:
        member = item.member
        entries.check(
            tuple(
                Entry(
                    member.path,
                    member.kind or entries.FIFO,
                    member.mode,
                    member.uid,
                    member.gid,
                    member.mtime,
                    member.size,
                    member.target if member.kind else b"",
                    0,
                    member.xattrs,
                    member.flags,
                )
            )
            if member.kind in (0, entries.FILE, entries.SYMLINK, entries.FIFO)
            else tuple(Entry(member.path, entries.DIRECTORY, member.mode, 0, 0, member.mtime)),
            "test",
        )


@pytest.mark.parametrize("length", range(0, len(SEED) - 1024, 37))
def test_every_archive_that_was_cut_short_is_found_out(length: int) -> None:
    with pytest.raises(Corrupt):
        read(SEED[:length])


def test_an_archive_of_headers_costs_no_memory() -> None:
    """A gigabyte of PAX headers, each for one member, in one pass."""
    step = pax((b"comment", b"x" * 1_000_000)) + file(b"x")

    def blocks() -> Iterator[bytes]:
        for _ in range(1000):
            yield step
        yield END

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in TarReader(Source(blocks(), "test.tar"))) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


MANY: int = 2**40
ENDLESS = {
    "a name": block(b"x", flavour=b"L", size=base256(MANY, 12)),
    "a target": block(b"x", flavour=b"K", size=base256(MANY, 12)),
    "a PAX header": block(b"x", flavour=b"x", size=base256(MANY, 12)),
    "a global header": block(b"x", flavour=b"g", size=base256(MANY, 12)),
    "a listing": block(b"x", flavour=b"D", size=base256(MANY, 12)),
    "a map of holes": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
    + block(b"x", size=base256(MANY, 12)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_not_waited_for(name: str) -> None:
    """Nor held: what describes a member has to fit into memory."""
    given_out = 0

    def blocks() -> Iterator[bytes]:
        nonlocal given_out
        yield ENDLESS[name]
        while given_out < 64 << 20:
            given_out += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(Corrupt, match="x|describe"):
        list(TarReader(Source(blocks(), "test.tar")))
    assert given_out <= 1 << 20


# What members do to a tree


def test_a_member_below_a_symlink(place: Path) -> None:
    for target in (b"/etc", b"..", b"real", b"."):
        data = folder() + folder(b"real/") + symlink(b"link", target) + file(b"link/passwd") + END
        with pytest.raises(Corrupt, match=r"^link: is no directory"):
            tree_of(place, data)


def test_a_chain_of_symlinks(place: Path) -> None:
    chain = b"".join(symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(50))
    with pytest.raises(Corrupt):
        tree_of(place, chain + symlink(b"l50", b"/") + file(b"l0/etc/x") + END)
    assert len(tree_of(place, chain + END)) == 51


@pytest.mark.parametrize(
    "first", [file(b"a", b"x"), block(b"a", flavour=b"6"), symlink(b"a", b"b")]
)
def test_a_member_below_something_else(place: Path, first: bytes) -> None:
    for second in (file(b"a/b"), folder(b"a/b/c/"), hardlink(b"a/b", b"z")):
        with pytest.raises(Corrupt):
            tree_of(place, file(b"z") + first + second + END)


def test_hardlinks_to_what_is_not_there(place: Path) -> None:
    for data in (
        hardlink(b"a", b"missing") + END,
        hardlink(b"a", b"later") + file(b"later") + END,
        folder(b"d") + hardlink(b"a", b"d") + END,
        hardlink(b"a", b"/etc/shadow") + END,
        file(b"gone") + folder(b"gone") + hardlink(b"a", b"gone") + END,
        folder() + symlink(b"s", b"/etc") + hardlink(b"a", b"s/passwd") + END,
    ):
        with pytest.raises(Corrupt, match=r"is a hardlink to"):
            tree_of(place, data)


def test_a_hardlink_to_itself_changes_nothing(place: Path) -> None:
    _, found = tree_of(place, file(b"a", b"x") + hardlink(b"a", b"./a") + END)
    assert (found.path, found.size, found.link) == (b"a", 1, b"")
    _, made, kept = tree_of(place, file(b"a/f", b"x") + hardlink(b"a", b"a") + END)
    assert (made.path, made.kind, kept.path) == (b"a", entries.DIRECTORY, b"a/f")


def test_a_hardlink_that_takes_away_its_target(place: Path) -> None:
    with pytest.raises(Corrupt, match="takes the place"):
        tree_of(place, folder(b"d") + file(b"d/f") + hardlink(b"d", b"d/f") + END)


def test_a_hardlink_to_a_symlink_is_not_followed(place: Path) -> None:
    _, one, two = tree_of(place, symlink(b"b", b"/etc/shadow") + hardlink(b"a", b"b") + END)
    assert (one.path, one.kind, one.content) == (b"a", entries.SYMLINK, b"/etc/shadow")
    assert (two.path, two.link) == (b"b", b"a")


def test_a_root_that_is_no_directory(place: Path) -> None:
    for member in (symlink(b".", b"/"), block(b".", flavour=b"3"), file(b".")):
        with pytest.raises(Corrupt, match="root of the archive"):
            tree_of(place, member + END)
    with pytest.raises(Corrupt):
        tree_of(place, file(b"a") + hardlink(b"./", b"a") + END)


def test_an_archive_without_members(place: Path) -> None:
    assert tree_of(place, END) == []


def test_deep_names_that_cost_their_writer_nothing(place: Path) -> None:
    """Each name brings two thousand directories of its own."""
    data = b"".join(
        pax((b"path", b"%04d/" % number + b"a/" * 2000 + b"x")) + file(b"x") for number in range(50)
    )
    with pytest.raises(Corrupt, match="no member speaks of"):
        tree_of(place, data + END)


def test_bytes_of_a_bomb_are_never_held(place: Path) -> None:
    """16 GiB of holes and 256 MiB of zeros."""
    size = 16 << 30
    head = pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", b"%d" % size),
    )
    zeros = bytes(1 << 20)

    def blocks() -> Iterator[bytes]:
        yield head + file(b"hole", padded(b"1\n0\n0\n"))
        yield block(b"zeros", size=base256(1 << 28, 12))
        for _ in range(1 << 8):
            yield zeros
        yield END

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Tree(str(place)) as tree:
        unpack(TarReader(Source(blocks(), "test.tar")), tree, Parameters(), Gone())
        found = {item.path: item.size for item in tree.entries()}
    assert found == {b"": 0, b"hole": size, b"zeros": 1 << 28}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

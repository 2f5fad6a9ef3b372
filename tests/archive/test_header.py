"""Headers read back by Python's tarfile, and what stands where in them."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkstore.archive import acl, sparse
from chunkstore.archive.header import INODE_FLAGS, header
from chunkstore.archive.tar import TarWriter
from chunkstore.errors import Corrupt
from chunkstore.objects.digest import HOLE
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    MAX_ID,
    MAX_TIME,
    SYMLINK,
    Entry,
)
from chunkstore.objects.names import check_path

PLAIN = Entry(b"etc/hosts", FILE, 0o644, 0, 0, 1_700_000_000 * 10**9)
COMPONENTS = st.binary(min_size=1, max_size=255).map(
    lambda name: name.replace(b"/", b"_").replace(b"\0", b"0")
)
ASCII = st.text("abcdefgh./=% \n0123456789", min_size=1, max_size=400).map(str.encode)


@st.composite
def paths(draw: st.DrawFn) -> bytes:
    path = draw(st.lists(COMPONENTS, min_size=1, max_size=8).map(b"/".join) | ASCII)
    try:
        check_path(path)
    except Corrupt:
        assume(False)
    return path


def reading(entry: Entry, stored: int | None = None) -> tarfile.TarInfo:
    blocks = header(entry, stored)
    assert len(blocks) % 512 == 0
    stream = io.BytesIO(blocks + bytes(1024))
    with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as archive:
        member = archive.next()
    assert member is not None
    return member


@settings(max_examples=500, deadline=None)
@given(
    path=paths(),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, MAX_ID),
    gid=st.integers(0, MAX_ID),
    mtime=st.integers(-(2**62), MAX_TIME),
    size=st.integers(0, 2**63 - 513),
)
def test_a_file_reads_back(
    path: bytes, mode: int, uid: int, gid: int, mtime: int, size: int
) -> None:
    entry = Entry(path, FILE, mode, uid, gid, mtime, size)
    member = reading(entry)
    assert os.fsencode(member.name) == (b"./" + path).rstrip(b"/")
    assert (member.mode, member.uid, member.gid, member.size) == (mode, uid, gid, size)
    assert (member.uname, member.gname) == ("", "")
    assert member.type == tarfile.REGTYPE
    text = member.pax_headers.get("mtime", str(int(member.mtime)))
    sign = -1 if text.startswith("-") else 1
    seconds, _, fraction = text.removeprefix("-").partition(".")
    assert sign * (int(seconds) * 10**9 + int(fraction.ljust(9, "0"))) == mtime


@settings(max_examples=300, deadline=None)
@given(path=paths(), target=st.binary(min_size=1, max_size=1000), uid=st.integers(0, MAX_ID))
def test_links_read_back(path: bytes, target: bytes, uid: int) -> None:
    target = target.replace(b"\0", b"0")
    member = reading(Entry(path, SYMLINK, 0o777, uid, 0, 0, 0, target))
    assert member.issym()
    assert os.fsencode(member.linkname) == target
    link = reading(Entry(b"z" + path, FILE, 0o644, uid, 0, 0, 5, bytes(40), link=path))
    assert link.islnk()
    assert os.fsencode(link.linkname) == b"./" + path
    assert link.size == 0


@pytest.mark.parametrize(
    ("kind", "content", "check"),
    [
        (DIRECTORY, b"", tarfile.TarInfo.isdir),
        (FIFO, b"", tarfile.TarInfo.isfifo),
        (CHARACTER, DEVICE.pack(1, 3), tarfile.TarInfo.ischr),
        (BLOCK, DEVICE.pack(4095, 2**20 - 1), tarfile.TarInfo.isblk),
    ],
)
def test_kinds(kind: int, content: bytes, check: object) -> None:
    member = reading(PLAIN._replace(kind=kind, content=content))
    assert callable(check)
    assert check(member)
    if content:
        assert (member.devmajor, member.devminor) == DEVICE.unpack(content)


def test_the_root_and_directories_end_with_a_slash() -> None:
    assert header(Entry(b"", DIRECTORY, 0o755, 0, 0, 0))[:3] == b"./\0"
    assert header(Entry(b"a/b", DIRECTORY, 0o755, 0, 0, 0))[:7] == b"./a/b/\0"
    # The slash that ends the name is not where it may be split.
    long = b"d" * 99
    blocks = header(Entry(b"p/" + long, DIRECTORY, 0o755, 0, 0, 0))
    assert len(blocks) == 512
    assert (blocks[:100], blocks[345:349]) == (long + b"/", b"./p\0")
    member = reading(Entry(b"d" * 150, DIRECTORY, 0o755, 0, 0, 0))
    assert member.name == "./" + "d" * 150
    assert header(Entry(b"d" * 150, DIRECTORY, 0o755, 0, 0, 0))[-512:-511] != b"\0"


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=100).map(lambda name: b"user." + name.replace(b"\0", b"0")),
        st.binary(max_size=300),
        min_size=1,
        max_size=4,
    )
)
def test_attributes_read_back(xattrs: dict[bytes, bytes]) -> None:
    assume(not any(b"hdrcharset" in name + value for name, value in xattrs.items()))
    member = reading(PLAIN._replace(xattrs=tuple(sorted(xattrs.items()))))
    found = {os.fsencode(key): os.fsencode(value) for key, value in member.pax_headers.items()}
    encoded = {
        name.replace(b"%", b"%25").replace(b"=", b"%3D")
        if b"=" in name or b"%3D" in name or b"%25" in name
        else name: value
        for name, value in xattrs.items()
    }
    assert found == {b"SCHILY.xattr." + name: value for name, value in encoded.items()}


def test_records_of_every_length() -> None:
    """A record's length counts its own digits."""
    for length in (*range(60, 120), *range(950, 1050), *range(9950, 10050)):
        member = reading(PLAIN._replace(xattrs=((b"user.x", b"v" * length),)))
        assert member.pax_headers == {"SCHILY.xattr.user.x": "v" * length}


def test_plain_entries_are_one_block() -> None:
    blocks = header(PLAIN)
    assert len(blocks) == 512
    assert blocks[257:265] == b"ustar\x0000"
    assert blocks[136:147] == b"%011o" % 1_700_000_000


@pytest.mark.parametrize(
    "entry",
    [
        PLAIN._replace(uid=2**31),
        PLAIN._replace(gid=8**7),
        PLAIN._replace(mtime=-(10**9)),
        PLAIN._replace(mtime=8**11 * 10**9),
        PLAIN._replace(size=8**11),
    ],
)
def test_big_numbers_stand_in_both_places(entry: Entry) -> None:
    """A reader that skips the PAX header still finds them."""
    blocks = header(entry)
    assert blocks[156:157] == b"x"
    member = tarfile.TarInfo.frombuf(blocks[-512:], "utf-8", "surrogateescape")
    assert (member.uid, member.gid, member.size) == (entry.uid, entry.gid, entry.size)
    assert member.mtime == entry.mtime // 10**9


def test_long_names_leave_no_false_name_behind() -> None:
    """A reader that knows no long names at all must not overwrite another file."""
    path = b"etc/" + b"n" * 200
    blocks = header(PLAIN._replace(path=path))
    assert blocks[-512:].startswith(b"./@LongNames/")
    linked = header(PLAIN._replace(path=b"z", link=path))
    assert linked[-512:][157:257].rstrip(b"\0") == blocks[-512:][:100].rstrip(b"\0")


def test_inode_flags_by_name() -> None:
    member = reading(PLAIN._replace(flags=0x10 | 0x40))
    assert member.pax_headers["SCHILY.fflags"] == "schg,nodump"
    out = io.BytesIO()
    writer = TarWriter(out)
    writer.add(PLAIN._replace(flags=0x10 | 0x0100_0000))
    assert writer.lost == {"inode flags": 1}
    assert len(set(INODE_FLAGS.values())) == len(INODE_FLAGS)


def test_acl_text() -> None:
    value = bytes.fromhex(
        "02000000 01000600ffffffff 02000700e8030000 04000400ffffffff 0800010032000000"
        "10000700ffffffff 20000400ffffffff"
    )
    assert acl.text(value) == (
        b"user::rw-,user:1000:rwx,group::r--,group:50:--x,mask::rwx,other::r--"
    )
    xattrs = ((b"system.posix_acl_access", value),)
    assert "SCHILY.acl.access" in reading(PLAIN._replace(xattrs=xattrs)).pax_headers


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02\0\0\0",
        b"\x03\0\0\0" + bytes(8),
        b"\x02\0\0\0" + bytes(7),
        bytes.fromhex("0200000040000600ffffffff"),
        bytes.fromhex("0200000001000800ffffffff"),
    ],
)
def test_what_is_no_acl_goes_as_it_is(value: bytes) -> None:
    assert acl.text(value) is None
    member = reading(PLAIN._replace(xattrs=((b"system.posix_acl_access", value),)))
    assert list(member.pax_headers) == ["SCHILY.xattr.system.posix_acl_access"]


@pytest.mark.parametrize("data", [[], [b"abc"], [b"abcd", b"e"], [b"abcde"]])
def test_content_of_another_length_is_refused(data: list[bytes]) -> None:
    writer = TarWriter(io.BytesIO())
    with pytest.raises(Corrupt, match="etc/hosts"):
        writer.add(PLAIN._replace(size=4), data)


@pytest.mark.parametrize("data", [[], [bytes(4095)], [bytes(4096), b"x"], [bytes(4097)]])
def test_sparse_content_of_another_length_is_refused(data: list[bytes]) -> None:
    writer = TarWriter(io.BytesIO())
    with pytest.raises(Corrupt, match="etc/hosts"):
        writer.add(PLAIN._replace(size=16384), data, [(8192, 4096)])


RUNS = st.lists(st.tuples(st.integers(1, 3000), st.booleans()), max_size=12)


@settings(max_examples=300, deadline=None)
@given(RUNS, st.integers(1, 700))
def test_sparse_files_read_back(parts: list[tuple[int, bool]], chunk: int) -> None:
    """Runs that begin and end anywhere, as another system's archive may have brought them."""
    records = [(HOLE if hole else bytes((1,)) * 32, length) for length, hole in parts]
    size = sum(length for length, _ in parts)
    content = b"".join(bytes(n) if hole else os.urandom(n) for n, hole in parts)
    runs = sparse.extents(records)
    data = b"".join(content[offset : offset + length] for offset, length in runs)
    assert len(data) == sum(length for length, hole in parts if not hole)
    pieces = [
        content[at : min(at + chunk, offset + length)]
        for offset, length in runs
        for at in range(offset, offset + length, chunk)
    ]
    out = io.BytesIO()
    writer = TarWriter(out)
    writer.add(PLAIN._replace(size=size), pieces, runs)
    writer.finish()
    assert len(out.getvalue()) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        member = archive.getmember("./etc/hosts")
        file = archive.extractfile(member)
        assert file is not None
        assert member.size == size
        assert file.read() == content

"""Members put together from headers of every age, byte by byte."""

from __future__ import annotations

import os
import struct

import pytest
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
    reader_of,
    symlink,
)

from chunkstore.archive import acl
from chunkstore.archive.reading.members import LINK
from chunkstore.errors import Corrupt
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    SYMLINK,
)

BILLION = 10**9


def test_a_plain_file() -> None:
    [found] = read(file(b"./a/b", b"content", mode=0o4755, uid=1, gid=2, mtime=3) + END)
    assert found.content == b"content"
    member = found.member
    assert (member.path, member.kind, member.size) == (b"a/b", FILE, 7)
    assert (member.mode, member.uid, member.gid, member.mtime) == (0o4755, 1, 2, 3 * BILLION)


def test_content_that_is_not_asked_for_is_passed_over() -> None:
    data = file(b"a", b"x" * 5000) + file(b"b", b"y" * 512) + file(b"c") + END
    assert [member.path for member in reader_of(data)] == [b"a", b"b", b"c"]


def test_content_that_is_taken_by_halves() -> None:
    data = file(b"a", os.urandom(9_000_000)) + file(b"b", b"y") + END
    reader = reader_of(data)
    members = iter(reader)
    next(members)
    for _, _, parts in reader.runs():
        next(parts)
        break
    assert next(members).path == b"b"
    assert [b"".join(parts) for _, _, parts in reader.runs()] == [b"y"]


@pytest.mark.parametrize(
    ("flavour", "kind"),
    [
        (b"0", FILE),
        (b"\0", FILE),
        (b"7", FILE),
        (b"5", DIRECTORY),
        (b"6", FIFO),
        (b"3", CHARACTER),
        (b"4", BLOCK),
    ],
)
def test_kinds(flavour: bytes, kind: int) -> None:
    [found] = read(block(b"x", flavour=flavour, major=8, minor=300) + END)
    assert found.member.kind == kind
    device = DEVICE.pack(8, 300) if kind in (CHARACTER, BLOCK) else b""
    assert found.member.device == device


def test_only_a_file_has_runs() -> None:
    """Also behind one, and whatever listing is with a directory."""
    listing = block(b"d", flavour=b"D", size=4) + padded(b"Na\0\0")
    one, two, three = read(file(b"a", b"x" * 600) + listing + symlink(b"s", b"t") + END)
    assert [found.runs for found in (one, two, three)] == [[(0, 600)], [], []]
    assert (two.member.kind, two.member.dumpdir) == (DIRECTORY, b"Na\0\0")


def test_links() -> None:
    one, other = read(symlink(b"s", b"../some//where/") + hardlink(b"h", b"./a/./b") + END)
    assert (one.member.kind, one.member.target) == (SYMLINK, b"../some//where/")
    assert (other.member.kind, other.member.target) == (LINK, b"a/b")


def test_only_linux_knows_the_mode_of_a_symlink() -> None:
    [found] = read(block(b"s", flavour=b"2", target=b"t", mode=0o640) + END)
    assert found.member.mode == 0o777


@pytest.mark.parametrize("flavour", [b"1", b"2", b"3", b"5", b"6"])
def test_what_has_no_content_may_state_a_size(flavour: bytes) -> None:
    """Old programs give a hardlink the size of its file, and no data."""
    data = block(b"x", flavour=flavour, size=70_000, target=b"t") + file(b"next") + END
    assert [found.member.path for found in read(data)] == [b"x", b"next"]


def test_unix_v7() -> None:
    """No magic; a directory is a file whose name ends with a slash; blanks around numbers."""
    old = {"magic": b"", "flavour": b"\0"}
    data = (
        block(
            b"d/",
            size=7,
            mode=b"   755 ",
            uid=b"    12 \0",
            gid=b"     0 \0",
            mtime=b"14524770400 ",
            **old,
        )
        + block(b"d/f", size=b"          5 ", **old)
        + padded(b"five\n")
        + block(b"d/l", target=b"f", flavour=b"2", magic=b"")
        + END
    )
    one, two, three = read(data)
    assert (one.member.path, one.member.kind) == (b"d", DIRECTORY)
    assert (one.member.mode, one.member.uid, one.member.mtime) == (
        0o755,
        0o12,
        0o14524770400 * BILLION,
    )
    assert (two.member.path, two.content) == (b"d/f", b"five\n")
    assert (three.member.kind, three.member.target) == (SYMLINK, b"f")


def test_what_stands_behind_an_old_header_is_no_prefix() -> None:
    [found] = read(block(b"name", magic=b"", prefix=b"junk") + END)
    assert found.member.path == b"name"
    [found] = read(block(b"name", magic=GNU, prefix=octal_times()) + END)
    assert found.member.path == b"name"


def octal_times() -> bytes:
    return b"14524770400\0" * 2


def test_ustar_prefix() -> None:
    [found] = read(block(b"n" * 100, prefix=b"p" * 100 + b"/" + b"q" * 54) + END)
    assert found.member.path == b"p" * 100 + b"/" + b"q" * 54 + b"/" + b"n" * 100


def test_star_keeps_times_behind_the_prefix() -> None:
    tail = b"pre".ljust(131, b"\0") + b"14524770400 " * 2
    [found] = read(block(b"name", tail=tail) + END)
    assert found.member.path == b"pre/name"


@pytest.mark.parametrize("value", [0, 1, 2**21, 2**31, 2**32 - 2])
def test_owners_in_base_256(value: int) -> None:
    [found] = read(block(b"x", uid=base256(value, 8), gid=base256(value, 8)) + END)
    assert (found.member.uid, found.member.gid) == (value, value)


@pytest.mark.parametrize("seconds", [0, 2**33, 2**34 - 1, -1, -(2**33)])
def test_times_in_base_256(seconds: int) -> None:
    [found] = read(block(b"x", mtime=base256(seconds, 12)) + END)
    assert found.member.mtime == seconds * BILLION


def test_a_checksum_with_signs() -> None:
    data = block(b"\xff\xfe", signed=True)
    assert read(data + END)[0].member.path == b"\xff\xfe"


def test_long_names_of_gnu_tar() -> None:
    long, target = b"n" * 200 + b"/\xff", b"t" * 3000
    data = (
        gnu_long(target, b"K")
        + gnu_long(b"./" + long)
        + block(b"./" + long[:90], flavour=b"2", target=target[:100], magic=GNU)
        + file(b"next")
        + END
    )
    one, two = read(data)
    assert (one.member.path, one.member.target) == (long, target)
    assert (two.member.path, two.member.target) == (b"next", b"")


def test_pax_stands_above_gnu_and_both_above_the_header() -> None:
    data = gnu_long(b"gnu") + pax((b"path", b"pax")) + file(b"plain", b"x") + END
    assert read(data)[0].member.path == b"pax"
    data = pax((b"path", b"")) + gnu_long(b"gnu") + file(b"plain", b"x") + END
    assert read(data)[0].member.path == b"gnu"
    data = pax((b"path", b"")) + file(b"plain", b"x") + END
    assert read(data)[0].member.path == b"plain"


def test_pax_numbers() -> None:
    pairs = [
        (b"size", b"3"),
        (b"uid", b"4294967294"),
        (b"gid", b"3000000"),
        (b"mtime", b"-1.25"),
        (b"atime", b"nonsense"),
        (b"uname", b"root"),
        (b"some.other", b"thing"),
    ]
    [found] = read(pax(*pairs) + block(b"x", size=0) + padded(b"abc") + END)
    assert found.content == b"abc"
    member = found.member
    assert (member.uid, member.gid, member.mtime) == (2**32 - 2, 3_000_000, -1_250_000_000)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"1.", 1_000_000_000),
        (b"1700000000.123456789", 1_700_000_000_123_456_789),
        (b"1700000000.1234567899999", 1_700_000_000_123_456_789),
        (b"-0.000000001", -1),
        (b"-9223372036.5", -9_223_372_036_500_000_000),
    ],
)
def test_pax_times(text: bytes, nanoseconds: int) -> None:
    [found] = read(pax((b"mtime", text)) + file(b"x") + END)
    assert found.member.mtime == nanoseconds


def test_global_headers_hold_until_they_are_taken_back() -> None:
    data = (
        pax((b"mtime", b"5"), (b"comment", b"by git"), flavour=b"g")
        + file(b"a")
        + pax((b"mtime", b"6"))
        + file(b"b")
        + file(b"c")
        + pax((b"mtime", b""), flavour=b"g")
        + file(b"d", mtime=7)
        + END
    )
    assert [found.member.mtime // BILLION for found in read(data)] == [5, 6, 5, 7]


def test_attributes_as_gnu_tar_writes_them() -> None:
    pairs = [
        (b"SCHILY.xattr.user.b", b"\0binary\n="),
        (b"SCHILY.xattr.user.a%3Db%25", b""),
        (b"SCHILY.fflags", b"schg,nodump,dirsync"),
        (b"RHT.security.selinux", b"system_u:object_r:etc_t:s0"),
    ]
    [found] = read(pax(*pairs) + file(b"x") + END)
    assert found.member.xattrs == (
        (b"security.selinux", b"system_u:object_r:etc_t:s0\0"),
        (b"user.a=b%", b""),
        (b"user.b", b"\0binary\n="),
    )
    assert found.member.flags == 0x10 | 0x40 | 0x10000


def test_attributes_as_bsdtar_writes_them() -> None:
    """Twice, once cut at the first "="."""
    pairs = [
        (b"SCHILY.xattr.user.a", b"b=value"),
        (b"LIBARCHIVE.xattr.user.a%3Db", b"dmFsdWU"),
        (b"LIBARCHIVE.xattr.user.%25", b"AA=="),
    ]
    [found] = read(pax(*pairs) + file(b"x") + END)
    assert found.member.xattrs == ((b"user.%", b"\0"), (b"user.a=b", b"value"))


ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *line)
    for line in (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 6, 10),
        (0x02, 4, 2_000_000_000),
        (0x04, 5, 0xFFFFFFFF),
        (0x08, 1, 50),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)


@pytest.mark.parametrize(
    "text",
    [
        b"user::rwx,user:10:rw-,user:2000000000:r--,group::r-x,group:50:--x,mask::rw-,other::---",
        (
            b"u::rwx\nuser:2000000000:r--\nuser:lp:rw-:10\n\ngroup::r-x # effective: r--\n"
            b"group:x:--x:50,m::rw-,other::---\n"
        ),
    ],
)
def test_acls(text: bytes) -> None:
    assert acl.parse(text, acl.nobody) == ACL
    [found] = read(pax((b"SCHILY.acl.access", text)) + file(b"x", mode=0o4640) + END)
    assert found.member.xattrs == ((b"system.posix_acl_access", ACL),)
    assert found.member.mode == 0o4760  # the mask stands for the group


def test_names_in_acls_are_looked_up() -> None:
    text = b"user::rw-,user:lp:r--,group::r--,mask::r--,other::r--"
    asked = []

    def lookup(kind: bytes, name: bytes) -> int:
        asked.append((kind, name))
        return 7

    found = acl.parse(text, lookup)
    assert found == acl.parse(text.replace(b"lp", b"7"), acl.nobody) is not None
    assert asked == [(b"user", b"lp")]
    reader = reader_of(pax((b"SCHILY.acl.access", text)) + file(b"x") + END)
    assert [member.xattrs for member in reader] == [()]
    assert sum(reader.remarks.values()) == 1


def test_an_acl_that_says_no_more_than_the_mode_is_none() -> None:
    text = b"user::rwx,group::r-x,other::--x"
    both = [(b"SCHILY.acl.access", text), (b"SCHILY.acl.default", text)]
    [found] = read(pax(*both) + folder(b"x") + END)
    assert found.member.mode == 0o751
    assert [name for name, _ in found.member.xattrs] == [b"system.posix_acl_default"]


@pytest.mark.parametrize(
    "text",
    [
        b"user::rwx,group::rwx",
        b"user::rwx,user:1:rwx,group::rwx,other::rwx",
        b"user::rwx,group::rwx,other::rwz",
        b"user::rwx,group::rwx,other::rwx,other::r--",
        b"user::rwx,group::rwx,other::rwx,mask:1:rwx",
        b"user::rwx,group::rwx,other::rwx,user:4294967296:r--,mask::rwx",
        b":::",
        b"default:user::rwx",
    ],
)
def test_half_an_acl_is_none(text: bytes) -> None:
    assert acl.parse(text, acl.nobody) is None


def test_the_end() -> None:
    """One block of zeros is enough; what follows is looked at only to say that it is there."""
    whole = file(b"x", b"data")
    reader = reader_of(whole + bytes(512))
    assert [member.path for member in reader] == [b"x"]
    assert not reader.has_more
    reader = reader_of(whole + END + bytes(100_000) + file(b"y") + END)
    assert [member.path for member in reader] == [b"x"]
    assert reader.has_more


def test_an_archive_without_an_end_may_have_been_cut_short() -> None:
    with pytest.raises(Corrupt, match="cut short"):
        read(file(b"x", b"data"))
    with pytest.raises(Corrupt, match="cut short"):
        read(b"")


def test_what_is_no_part_of_an_image_is_left_out() -> None:
    data = (
        block(b"a label", flavour=b"V", magic=GNU)
        + folder(b"./.imgstore/")
        + file(b"./.imgstore/state", b"x" * 600)
        + file(b"./.imgstore2")
        + END
    )
    reader = reader_of(data)
    assert [member.path for member in reader] == [b".imgstore2"]
    assert sum(reader.remarks.values()) == 3


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b".", b""),
        (b"./", b""),
        (b"/", b""),
        (b"/etc/passwd", b"etc/passwd"),
        (b"///a//b///", b"a/b"),
        (b"./././a/./b/.", b"a/b"),
        (b"...", b"..."),
        (b"a/..b/c..", b"a/..b/c.."),
        (b"a\nb\\\xff ", b"a\nb\\\xff "),
        (b".imgstore.d/x", b".imgstore.d/x"),
        (b"a/.imgstore", b"a/.imgstore"),
    ],
)
def test_names(name: bytes, path: bytes) -> None:
    [found] = read(folder(name) + END)
    assert found.member.path == path

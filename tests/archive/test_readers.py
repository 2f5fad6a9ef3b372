"""Full archives of a tree with one of everything, unpacked by other people's readers."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chunkstore.archive.tar import TarWriter
from chunkstore.objects.entry import FILE, Entry

if TYPE_CHECKING:
    from tests.archive.conftest import Lab, Seen

BIG = 2**31
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
ACCESS = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *line)
    for line in (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 6, 1000),
        (0x02, 5, 2_000_000_000),
        (0x04, 5, 0xFFFFFFFF),
        (0x08, 4, 50),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)
DEFAULT = ACCESS.replace(struct.pack("<HHI", 0x02, 6, 1000), struct.pack("<HHI", 0x02, 1, 7))


def touch(place: bytes, mtime: int) -> None:
    os.utime(place, ns=(mtime, mtime), follow_symlinks=False)


def plain_zoo(tree: bytes) -> None:
    """What readers without PAX have to get right, whole seconds and small numbers."""

    def put(path: bytes, content: bytes = b"content\n", mode: int = 0o644) -> bytes:
        place = os.path.join(tree, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content)
        os.chmod(place, mode)
        return place

    put(b"empty", b"")
    put(b"block", b"x" * 512)
    put(b"odd", b"y" * 513)
    put(b"big", os.urandom(300_000))
    put(b"deep", b"".join(b"%07d\n" % number for number in range(400_000)))
    put(b"bin/su", mode=0o4755)
    put(b"bin/sg", mode=0o2711)
    put(b"bin/none", mode=0)
    os.chown(put(b"bin/other"), 1234, 2_000_000)
    os.mkdir(os.path.join(tree, b"tmp"))
    os.chmod(os.path.join(tree, b"tmp"), 0o1777)
    os.mkdir(os.path.join(tree, b"sealed"))
    os.chmod(os.path.join(tree, b"sealed"), 0o500)
    put(b"-rf")
    put(b"--help/-x")
    put(b"new\nline")
    put(b"tab\tand space ")
    put(b"bad\xff\xfeutf8")
    put("grüße/日本".encode())
    put(b"component/" + b"n" * 100)
    put(b"/".join([b"d" * 49] * 4) + b"/file")
    os.symlink(b"bin/su", os.path.join(tree, b"link"))
    os.symlink(b"/nowhere/\xff", os.path.join(tree, b"dangling"))
    os.symlink(b"t" * 100, os.path.join(tree, b"link100"))
    os.mkfifo(os.path.join(tree, b"fifo"))
    os.mknod(os.path.join(tree, b"null"), 0o20666, os.makedev(1, 3))
    os.mknod(os.path.join(tree, b"disk"), 0o60660, os.makedev(259, 1_048_575))
    os.link(os.path.join(tree, b"big"), os.path.join(tree, b"bin/big"))
    os.link(os.path.join(tree, b"big"), os.path.join(tree, b"zz-big"))
    os.link(os.path.join(tree, b"link"), os.path.join(tree, b"link-again"))
    os.link(os.path.join(tree, b"fifo"), os.path.join(tree, b"fifo-again"))
    # A second after the epoch: 0 is what a reader might set by mistake.
    settle(tree, 1_700_000_000)
    touch(os.path.join(tree, b"empty"), 10**9)
    touch(os.path.join(tree, b"odd"), (8**11 - 1) * 10**9)


def long_zoo(tree: bytes) -> None:
    """Long names, which take PAX or GNU's members."""
    for start in (b"", b"\xff", "ü".encode()):
        name = start + b"n" * (250 - len(start))
        os.mkdir(os.path.join(tree, name))
        place = os.path.join(tree, name, b"m" * 255)
        with open(place, "wb") as file:
            file.write(name)
        os.symlink(name + b"/" + b"m" * 255, os.path.join(tree, b"to" + start))
        os.link(place, os.path.join(tree, b"zz" + start))
        os.link(place, os.path.join(tree, b"zz" + start + b"long" * 40))
    settle(tree, 1_700_000_000)


def rich_zoo(tree: bytes) -> None:
    """What only PAX can say."""
    plain_zoo(tree)
    long_zoo(tree)
    place = os.path.join(tree, b"rich")
    os.mkdir(place)

    def put(name: bytes, content: bytes = b"rich\n") -> bytes:
        with open(os.path.join(place, name), "wb") as file:
            file.write(content)
        return os.path.join(place, name)

    os.chown(put(b"ids"), BIG, BIG + 1)
    os.chown(put(b"ids-max"), 2**32 - 2, 2**32 - 2)
    os.setxattr(put(b"capable"), "security.capability", CAPABILITY)
    os.setxattr(put(b"labelled"), "security.selinux", b"system_u:object_r:bin_t:s0\0")
    many = put(b"many")
    for name, value in (
        (b"user.text", b"value"),
        (b"user.empty", b""),
        (b"user.binary", bytes(range(256))),
        (b"user.lines", b"\n12 path=x\n\n"),
        (b"user.bad\xff", b"\xff"),
        (b"user.fifty%", b"percent"),
        (b"user.50% off", b"percent"),
        (b"trusted.overlay.opaque", b"y"),
    ):
        os.setxattr(many, name, value)
    os.setxattr(many, "user.large", b"z" * 1500)
    os.setxattr(put(b"listed"), "system.posix_acl_access", ACCESS)
    os.mkdir(os.path.join(place, b"folder"))
    os.setxattr(os.path.join(place, b"folder"), "system.posix_acl_access", ACCESS)
    os.setxattr(os.path.join(place, b"folder"), "system.posix_acl_default", DEFAULT)
    os.setxattr(os.path.join(place, b"folder"), "user.text", b"on a directory")
    put(b"folder/heir")
    os.removexattr(os.path.join(place, b"folder/heir"), "system.posix_acl_access")
    os.mkdir(os.path.join(place, b"folder/below"))
    os.symlink(b"capable", os.path.join(place, b"symlink"))
    os.setxattr(os.path.join(place, b"symlink"), "trusted.on", b"symlink", follow_symlinks=False)
    os.link(many, os.path.join(place, b"many-again"))
    settle(place, 1_700_000_000)
    for number, mtime in enumerate((1, 999_999_999, 1_700_000_000_123_456_789, 2**33 * 10**9 + 1)):
        touch(put(b"ns%d" % number), mtime)
    for number, seconds in enumerate((-1, -(2**31), 2**33, 2**33 + 7)):
        touch(put(b"s%d" % number), seconds * 10**9)
    touch(many, 1_600_000_000_000_000_001)
    touch(place, 1_500_000_000_000_000_001)
    touch(tree, 1_500_000_000_000_000_002)


def sparse_zoo(tree: bytes) -> None:
    def put(name: bytes, size: int, *runs: tuple[int, bytes]) -> None:
        with open(os.path.join(tree, name), "wb") as file:
            file.truncate(size)
            for offset, data in runs:
                file.seek(offset)
                file.write(data)

    put(b"start", 100_000, (65536, b"s" * (100_000 - 65536)))
    put(b"middle", 200_000, (0, b"a" * 4096), (131072, b"b" * (200_000 - 131072)))
    put(b"end", 1_000_001, (0, b"e" * 4096))
    put(b"all", 5_000_000)
    put(b"all-odd", 4097)
    put(b"many", 8_192_000, *((at, b"m" * 4096) for at in range(0, 8_192_000, 81_920)))
    put(b"huge", 3 * 2**33, (2**33, b"far"))
    put("lücke\xff".encode("latin-1"), 50_000, (0, b"l"))
    put(b"long" * 40, 50_000, (0, b"l"))
    put(b"\xff" + b"long" * 40, 50_000, (0, b"l"))
    os.chmod(os.path.join(tree, b"middle"), 0o4755)
    os.setxattr(os.path.join(tree, b"middle"), "user.note", b"sparse and more")
    os.link(os.path.join(tree, b"middle"), os.path.join(tree, b"middle-again"))
    settle(tree, 1_700_000_000)
    touch(os.path.join(tree, b"end"), 1_700_000_000_000_000_001)


def settle(tree: bytes, seconds: int) -> None:
    """Give everything a time of its own, directories last."""
    places = [os.path.join(folder, name) for folder, _, names in os.walk(tree) for name in names]
    folders = [folder for folder, _, _ in os.walk(tree, topdown=False)]
    linked = [
        os.path.join(folder, name)
        for folder in folders
        for name in os.listdir(folder)
        if os.path.islink(os.path.join(folder, name))
    ]
    for number, place in enumerate(dict.fromkeys(places + linked + folders)):
        touch(place, (seconds + number) * 10**9)


def same_by_rsync(one: Path, other: Path) -> None:
    done = subprocess.run(
        [
            *("rsync", "-aHAXnic", "--numeric-ids", "--delete", "--modify-window=-1"),
            *(f"{one}/", f"{other}/"),
        ],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b""


def dump(tool: list[str], tree: Path) -> bytes:
    return subprocess.run(tool, cwd=tree, capture_output=True, check=True).stdout


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", ["gnu", "bsdtar"])
def test_everything_comes_back(lab: Lab, reader: str) -> None:
    tree, into = lab.tree("tree"), lab.tree("into")
    rich_zoo(os.fsencode(tree))
    said = lab.unpack(reader, lab.archive(lab.read(tree)), into, quiet=False)
    if reader == "bsdtar":
        # It sets the time of a directory that exists, here the root, before it fills it.
        touch(os.fsencode(into), tree.lstat().st_mtime_ns)
    # GNU tar wonders about times before 1970 and in the future, and that is all.
    assert not [line for line in said.splitlines() if "time stamp" not in line]
    assert lab.see(into) == lab.see(tree)
    same_by_rsync(tree, into)
    for tool in (
        ["getfattr", "-d", "-m-", "-e", "hex", "-R", "-h", "."],
        ["getfacl", "-R", "-n", "-P", "."],
        ["getcap", "-r", "."],
    ):
        assert dump(tool, into) == dump(tool, tree)
    assert b"cap_net_bind_service=ep" in dump(["getcap", "-r", "."], into)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", ["gnu", "gnu-plain", "bsdtar", "busybox", "python"])
@pytest.mark.parametrize("zoo", [plain_zoo, long_zoo, rich_zoo])
def test_plain_things_come_back_in_every_reader(lab: Lab, reader: str, zoo: object) -> None:
    tree, into = lab.tree("tree"), lab.tree("into")
    assert callable(zoo)
    zoo(os.fsencode(tree))
    if reader == "python" and zoo is not long_zoo:
        # It sets the second name's mode on what the symlink leads to.
        os.unlink(tree / "link-again")
    said = lab.unpack(reader, lab.archive(lab.read(tree)), into, quiet=False)
    assert not [line for line in said.splitlines() if "time stamp" not in line]
    seen, wanted = (plainly(lab.see(place), reader) for place in (into, tree))
    assert list(seen) == list(wanted)
    for path, item in wanted.items():
        assert seen[path] == item, path


def plainly(seen: dict[bytes, Seen], reader: str) -> dict[bytes, Seen]:
    """What every reader restores, less what this one is known not to."""
    timeless = {
        # Sets a directory's time before it fills it.
        "busybox": (stat.S_IFDIR, stat.S_IFLNK),
        "python": (stat.S_IFLNK,),
    }.get(reader, ())
    plain = {
        path: item._replace(
            mtime=0 if item.kind in timeless else item.mtime // 10**9, xattrs=(), flags=0
        )
        for path, item in seen.items()
    }
    if reader == "bsdtar":
        # Sets the time of a directory that exists before it fills it: here that of the root.
        plain[b""] = plain[b""]._replace(mtime=0)
    return plain


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("reader", ["gnu", "bsdtar", "python"])
def test_holes_stay_holes(lab: Lab, reader: str) -> None:
    tree, into = lab.tree("tree"), lab.tree("into")
    sparse_zoo(os.fsencode(tree))
    if reader == "python":
        os.unlink(tree / "huge")  # a reader that reads holes as zeros takes minutes for 24 GiB
        touch(os.fsencode(tree), 10**18)
    archive = lab.archive(lab.read(tree))
    assert len(archive) < 1_500_000
    lab.unpack(reader, archive, into)
    seen, wanted = lab.see(into), lab.see(tree)
    if reader == "python":
        # Microseconds at best, and seeks over holes only where they end.
        seen = {p: i._replace(mtime=i.mtime // 1000, xattrs=()) for p, i in seen.items()}
        wanted = {p: i._replace(mtime=i.mtime // 1000, xattrs=()) for p, i in wanted.items()}
    if reader == "bsdtar":
        touch(os.fsencode(into), tree.lstat().st_mtime_ns)
        seen = lab.see(into)
    assert seen == wanted


@pytest.mark.parametrize("reader", ["gnu-plain", "bsdtar", "python"])
def test_data_that_begins_and_ends_anywhere(lab: Lab, reader: str) -> None:
    """File systems have holes in whole blocks; an imported archive may have had others."""
    runs = [(100, 1000), (2000, 48), (5000, 1), (30_000, 5000)]
    parts = [bytes((65 + number,)) * length for number, (_, length) in enumerate(runs)]
    content = bytearray(40_001)
    for (offset, length), part in zip(runs, parts, strict=True):
        content[offset : offset + length] = part
    out = io.BytesIO()
    writer = TarWriter(out)
    writer.add(Entry(b"file", FILE, 0o644, os.geteuid(), os.getegid(), 0, 40_001), parts, runs)
    writer.finish()
    into = lab.tree("into")
    lab.unpack(reader, out.getvalue(), into, quiet=False)
    assert (into / "file").read_bytes() == content


@pytest.mark.usefixtures("root")
def test_times_before_the_epoch_with_a_fraction(lab: Lab) -> None:
    tree, into = lab.tree("tree"), lab.tree("into")
    for name, mtime in (("a", -1), ("b", -1_500_000_000), ("c", -86_400_250_000_000)):
        (tree / name).write_bytes(b"old")
        os.utime(tree / name, ns=(mtime, mtime))
    os.utime(tree, ns=(0, 0))
    lab.unpack("gnu", lab.archive(lab.read(tree)), into, quiet=False)
    assert lab.see(into) == lab.see(tree)


@pytest.mark.usefixtures("root")
def test_inode_flags_by_bsdtar(lab: Lab) -> None:
    tree, into = lab.tree("tree"), lab.tree("into")
    (tree / "fixed").write_bytes(b"immutable")
    (tree / "log").write_bytes(b"append only")
    (tree / "cache").mkdir()
    if subprocess.run(["chattr", "+i", tree / "fixed"], check=False).returncode:
        pytest.skip("the file system of the temporary directory has no inode flags")
    try:
        subprocess.run(["chattr", "+a", tree / "log"], check=True)
        subprocess.run(["chattr", "+dA", tree / "cache"], check=True)
        archive = lab.archive(lab.read(tree))
        lab.unpack("bsdtar", archive, into)
        touch(os.fsencode(into), tree.lstat().st_mtime_ns)
        assert lab.see(into) == lab.see(tree)
        assert {item.flags for item in lab.see(into).values()} == {0, 0x10, 0x20, 0xC0}
        # GNU tar says that it does not know the word and goes on.
        other = lab.tree("other")
        assert "SCHILY.fflags" in lab.unpack("gnu", archive, other, quiet=False)
        assert (other / "fixed").read_bytes() == b"immutable"
    finally:
        subprocess.run(["chattr", "-R", "-ia", tree, into], check=False)


@pytest.mark.usefixtures("root")
def test_an_attribute_with_an_equals_sign(lab: Lab) -> None:
    """GNU tar's spelling, so GNU tar restores it; libarchive takes the spelling for the name."""
    tree, into = lab.tree("tree"), lab.tree("into")
    (tree / "file").write_bytes(b"")
    for name in ("user.a=b", "user.100%25", "user.%3D", "user.50%"):
        os.setxattr(tree / "file", name, name.encode())
    lab.unpack("gnu", lab.archive(lab.read(tree)), into)
    assert lab.see(into) == lab.see(tree)


@pytest.mark.parametrize("reader", ["gnu", "bsdtar", "busybox", "python"])
def test_an_archive_of_nothing(lab: Lab, reader: str) -> None:
    tree = lab.tree("tree")
    (tree / "file").write_bytes(b"stays")
    image = lab.read(tree)
    archive, sidecar, _ = lab.differential(image, image)
    assert archive == bytes(10240)
    assert sidecar == b""
    before = lab.see(tree)
    lab.unpack(reader, archive, tree)
    lab.remove(sidecar, tree)
    assert lab.see(tree) == before


def test_bytes_do_not_depend_on_how_content_was_cut(lab: Lab) -> None:
    tree = lab.tree("tree")
    (tree / "a").write_bytes(os.urandom(100_001))
    with (tree / "b").open("wb") as file:
        file.write(os.urandom(5000))
        file.truncate(100_000)
        file.seek(70_000)
        file.write(b"end")
    archives = {lab.archive(lab.read(tree, chunk)) for chunk in (1000, 4096, 2**20)}
    assert len(archives) == 1

"""Layered SPECs: the verbs that take them, those that don't, and what overlayfs makes."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import trees

if TYPE_CHECKING:
    from tests.cli.conftest import Run

ID = "[0-9a-f]{12}"


@pytest.fixture
def layers(done: Run, web: Path, tmp_path: Path) -> Path:
    """`rack7` and `node12` beside the two versions of `web`; the directory they are in."""
    rack = tmp_path / "rack7"
    (rack / "etc").mkdir(parents=True, mode=0o755)
    rack.chmod(0o700)
    (rack / "etc/resolv.conf").write_text("nameserver 10.7.0.1\n")
    (rack / "etc/motd").write_text("rack 7\n")
    (rack / "etc/.wh.fstab").touch()
    node = tmp_path / "node12"
    (node / "etc").mkdir(parents=True)
    (node / "etc/hostname").write_text("node12\n")
    (node / "etc/motd").write_text("node 12\n")
    (node / ".wh.usr").touch()
    for name in ("rack7", "node12"):
        done("commit", name, tmp_path / name)
    return tmp_path


def test_diff(done: Run, run: Run, layers: Path) -> None:
    assert done("diff", "web", "web+rack7").lines == [
        *("m\tetc", "D\tetc/fstab", "m\tetc/hard", "M\tetc/motd", "A\tetc/resolv.conf"),
    ]
    assert done("diff", "web+rack7", "web+node12").lines == [
        *("m\tetc", "A\tetc/fstab", "m\tetc/hard", "A\tetc/hostname", "M\tetc/motd"),
        *("D\tetc/resolv.conf", "D\tusr", "D\tusr/share", "D\tusr/share/data"),
        "D\tusr/share/sparse",
    ]
    assert done("diff", "web:base+rack7", "web~1+rack7:base", "--exit-code").out == ""
    assert run("diff", "web", "web+rack7", "--exit-code").code == 1
    assert re.search(
        rf"\n{ID} -> {ID}\+{ID}\+{ID}: ", done("diff", "web", "web+rack7+node12", "--stat").out
    )


def test_names_in_documents(done: Run, layers: Path) -> None:
    ids = [done("show", name, "--json").document["version"] for name in ("web", "rack7")]

    diff = done("diff", "web", "web+rack7", "--json").document
    listed = done("ls", "web+rack7", "--json").document
    shown = done("show", "web+rack7", "--json").document

    assert (diff["old"], diff["new"]) == (ids[0], "+".join(ids))
    for document in (listed, shown):
        assert (document["image"], document["version"]) == ("web+rack7", "+".join(ids))
    assert shown["layers"] == [done("show", name, "--json").document for name in ("web", "rack7")]
    assert shown["entries"] == len(done("ls", "-r", "web+rack7").lines)


def test_show(done: Run, layers: Path) -> None:
    lines = done("show", "web~1+rack7").lines

    assert lines[0] == "image    web+rack7"
    assert re.fullmatch(rf"layer    web {ID}, 20.*", lines[1])
    assert re.fullmatch(rf"layer    rack7 {ID}, 20.*", lines[2])
    assert [line.split()[0] for line in lines[3:]] == ["entries", "size", "root"]


def test_ls_and_cat(done: Run, run: Run, layers: Path) -> None:
    names = [line.split()[-1] for line in done("ls", "web+rack7+node12", "etc").lines]

    assert names == [
        *("etc/bad\\xff", "etc/hard", "etc/hostname", "etc/hosts", "etc/link"),
        *("etc/motd", "etc/new\\nline", "etc/resolv.conf"),
    ]
    assert done("cat", "web+rack7+node12", "etc/motd").out == "node 12\n"
    assert done("cat", "web+node12+rack7", "etc/motd").out == "rack 7\n"
    # Once linked to a file that rack7 deletes.
    assert done("cat", "web+rack7", "etc/hard").out == "proc /proc proc\n"
    assert run("cat", "web+rack7", "etc/fstab").code == 3
    assert run("ls", "web+node12", "usr").code == 3


def test_checkout(done: Run, layers: Path) -> None:
    copy, alone = layers / "copy", layers / "alone"
    ended = done("checkout", "web+rack7", copy)
    done("checkout", "web", alone)

    assert re.match(rf"{copy} is web\+rack7 {ID}\+{ID}: 13 entries, ", ended.out)
    for name in ("resolv.conf", "motd"):
        (alone / "etc" / name).write_bytes((layers / "rack7/etc" / name).read_bytes())
        times = (layers / "rack7/etc" / name).stat()
        os.utime(alone / "etc" / name, ns=(times.st_mtime_ns, times.st_mtime_ns))
    (alone / "etc/fstab").unlink()
    for one, like in (
        (alone / "etc", layers / "rack7/etc"),
        (alone, layers / "tree"),
    ):
        os.chmod(one, like.stat().st_mode & 0o7777)
        os.utime(one, ns=(like.stat().st_mtime_ns, like.stat().st_mtime_ns))
    trees.assert_same(alone, copy)


def test_checkout_of_more_than_what_fits_into_the_entry(done: Run, layers: Path) -> None:
    """A file whose chunks are listed in nodes of their own."""
    big = trees.pseudo_random("big", 20 << 20)
    (layers / "rack7/big").write_bytes(big)
    done("commit", "rack7")
    done("checkout", "web+rack7", layers / "copy")

    assert (layers / "copy/big").read_bytes() == big
    assert done("cat", "web+rack7", "big").raw == big


def test_export(done: Run, layers: Path) -> None:
    whole = done("export", "web+rack7", "-o", layers / "image.tar", "--json").document
    done("export", "web+rack7+node12", "--base", "web+rack7", "-o", layers / "diff.tar")
    done("checkout", "web+rack7+node12", layers / "copy")
    plain = layers / "plain"
    plain.mkdir()
    for command in (
        ["tar", "-xpf", layers / "image.tar", "-C", plain],
        ["sh", "-c", f"cd {plain} && xargs -0 -r rm -rf -- < ../diff.deletions"],
        ["tar", "-xpf", layers / "diff.tar", "-C", plain],
    ):
        subprocess.run(command, check=True)

    assert whole["image"] == "web+rack7"
    assert whole["version"].count("+") == 1
    assert trees.rsync_differences(layers / "copy", plain) == []
    with tarfile.open(layers / "image.tar") as archive:
        assert not [name for name in archive.getnames() if ".wh." in name]


def test_nothing_is_written_to_the_store(done: Run, store: Path, layers: Path) -> None:
    def held() -> list[tuple[str, int]]:
        return sorted(
            (str(path), path.stat().st_mtime_ns)
            for path in store.rglob("*")
            if "local" not in path.parts
        )

    before = held()
    done("diff", "web", "web+rack7+node12")
    done("checkout", "web+rack7", layers / "copy")
    assert held() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["tag", "web+rack7", "prod"],
        ["rm", "web+rack7"],
        ["log", "web+rack7"],
        ["commit", "web+rack7", "."],
        ["status", "web+rack7", "."],
        ["untag", "web+rack7", "latest"],
    ],
)
def test_verbs_of_one_image_take_no_layers(run: Run, shared: Path, arguments: list[str]) -> None:
    before = run("images", "--json").out

    ended = run(*arguments)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "imgstore: 'web+rack7' is layers of several images: name one of them\n"
    assert run("images", "--json").out == before


@pytest.mark.parametrize(
    ("spec", "code"),
    [("web+", 2), ("+web", 2), ("web+web:base", 2), ("web+" * 16 + "x", 2), ("web+nope", 3)],
)
@pytest.mark.parametrize("verb", ["show", "ls", "diff"])
def test_layers_that_are_none(run: Run, shared: Path, verb: str, spec: str, code: int) -> None:
    ended = run(verb, *(["web"] if verb == "diff" else []), spec)

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1


# overlayfs


def merge(place: Path, lower: Path, *options: str) -> Path:
    """Mount `place/upper` over `lower`, or skip the test; `place` is unmounted by its fixture."""
    for name in ("upper", "work", "merged"):
        (place / name).mkdir()
    folders = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", ",".join([folders, *options])]
    ended = subprocess.run([*command, place / "merged"], capture_output=True, check=False)
    if ended.returncode:
        pytest.skip(f"can't mount an overlay here: {ended.stderr.decode().strip()}")
    return place / "merged"


def edit(tree: Path) -> None:
    """What an administrator may do to the tree with everything in it."""
    # The first name of one hardlink group changes, that of another goes, and of a third a further.
    (tree / "links/one/again").write_text("changed")
    (tree / "links/linked empty").unlink()
    (tree / "links/two/linked fifo").unlink()
    os.link(tree / "plain/text", tree / "order/linked now")
    (tree / "plain/random").write_text("smaller")
    (tree / "plain/zeros").chmod(0o4711)
    os.setxattr(tree / "plain/one byte", "user.note", b"mine")
    for number in range(0, 300, 7):
        (tree / f"plain/many/file {number}").unlink()
    (tree / "plain/empty directory").rmdir()
    (tree / "plain/empty directory").symlink_to("many")
    (tree / "plain/copy 1").unlink()
    (tree / "plain/copy 1").mkdir()
    (tree / "new/deep").mkdir(parents=True)
    (tree / "new/deep/file").write_text("new")
    os.mknod(tree / "new/null", 0o20666, os.makedev(1, 3))
    subprocess.run(["cp", "-a", tree / "names", tree / "moved"], check=True)
    subprocess.run(["rm", "-rf", tree / "names", tree / "order/a"], check=True)
    (tree / "names").mkdir()
    (tree / "names/anew").write_text("anew")


@trees.needs("rsync")
def test_an_upper_directory_is_an_overlay_as_it_is(run: Run, variety: Path, place: Path) -> None:
    tree = merge(place, variety)
    edit(tree)
    assert os.getxattr(place / "upper/names", "trusted.overlay.opaque") == b"y"
    upper = [os.lstat(path) for path in (place / "upper").rglob("*")]
    assert [status.st_nlink > 1 for status in upper if is_whiteout(status)].count(True) > 1

    # The tree has sockets, which are warned of.
    assert run("commit", "web", variety).code == 0
    assert run("commit", "over", place / "upper").code == 0
    assert run("checkout", "web+over", place / "copy").code == 0

    # To overlayfs a whiteout is one also in the lowest layer; the other takes rsync long to read.
    left_out = ("/specials/whiteout", "/sparse/huge")
    found = trees.rsync_differences(tree, place / "copy", *left_out)
    assert found == [".d..t...... ./"]


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


@pytest.mark.parametrize("option", ["redirect_dir", "metacopy", "index"])
def test_an_upper_directory_that_leans_on_the_lower_is_refused(
    done: Run, run: Run, tmp_path: Path, place: Path, option: str
) -> None:
    lower = tmp_path / "lower"
    (lower / "folder").mkdir(parents=True)
    (lower / "folder/file").write_text("one")
    (lower / "file").write_text("two")
    os.link(lower / "file", lower / "link")
    tree = merge(place, lower, f"{option}=on")
    if option == "redirect_dir":
        (tree / "folder").rename(tree / "moved")
    elif option == "metacopy":
        (tree / "folder/file").chmod(0o600)
    else:
        (tree / "file").write_text("changed")
        assert (tree / "link").read_text() == "changed"
    done("commit", "web", lower)
    done("commit", "over", place / "upper")

    ended = run("ls", "web+over")

    assert (ended.code, ended.out) == (4, "")
    assert f"{option}=off" in ended.err

"""`import`: what it says, what it gives programs, how it fails."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.tarballs import END, file, folder, hardlink, pax

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Process, Run

IMAGE = folder() + file(b"./a", b"one") + hardlink(b"./b", b"./a") + END
DIFF = file(b"./a", b"two") + END


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar"
    path.write_bytes(IMAGE)
    return path


def test_a_whole_image_and_a_diff(done: Run, image: Path, tmp_path: Path) -> None:
    diff = tmp_path / "diff.tar"
    diff.write_bytes(DIFF)
    (tmp_path / "diff.deletions").write_bytes(b"b\0")

    first, second = done("import", "web", image, diff, "-m", "moved", "-t", "v1").lines

    assert first.startswith(f"{image}: 3 members; web ")
    assert ": 3 added; " in first
    assert second.startswith(f"{diff}: 1 member, 1 path to delete; web ")
    assert ": 1 changed, 1 removed; " in second
    assert done("cat", "web:v1", "a").out == "two"
    assert [line.split()[0] for line in done("log", "web").lines[1:]] == [
        line.split("; web ")[1].partition(":")[0] for line in (second, first)
    ]
    assert "moved" in done("log", "web").out


def test_what_programs_get(done: Run, image: Path, tmp_path: Path) -> None:
    ended = done("import", "web", image, image, "--json").document

    assert (ended["image"], ended["new"], ended["tags"]) == ("web", True, ["base", "latest"])
    one, two = ended["archives"]
    assert (one["file"], one["members"], one["layers"], one["deletions"]) == (
        str(image),
        3,
        0,
        None,
    )
    assert (one["new"], one["parent"], one["entries"], one["size"]) == (True, None, 3, 6)
    assert one["changes"] == {"A": 3, "D": 0, "M": 0, "m": 0, "T": 0}
    assert (two["new"], two["version"], two["new_chunks"]) == (False, one["version"], 0)
    assert ended["version"] == one["version"]


def test_nothing_changed(done: Run, image: Path) -> None:
    done("import", "web", image)

    [line] = done("import", "web", image).lines

    assert "; web: nothing changed since " in line


def test_over_a_version(done: Run, image: Path, tmp_path: Path) -> None:
    done("import", "web", image)
    diff = tmp_path / "diff.tar"
    diff.write_bytes(DIFF)

    done("import", "web", "--base", "web:base", diff)

    assert done("cat", "web", "a").out == "two"
    assert done("cat", "web", "b").out == "one"


def test_from_a_pipe(process: Callable[..., Process], image: Path, run: Run) -> None:
    with open(image, "rb") as stream:
        ended = process("import", "web", "-", stdin=stream).end()

    assert ended.code == 0, ended.err
    assert ended.out.startswith("standard input: 3 members; web ")
    assert run("import", "web", "-", "-").code == 2


def test_an_export_comes_back(done: Run, shared: Path, tmp_path: Path) -> None:
    archive, store = tmp_path / "image.tar.zst", tmp_path / "other"
    done("export", "web", "-o", archive)

    done("--store", store, "import", "copy", archive)

    wanted = done("show", "web", "--json").document
    assert done("--store", store, "show", "copy", "--json").document["root"] == wanted["root"]


def test_what_was_left_out_is_said(run: Run, image: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.tar"
    members = pax((b"SCHILY.fflags", b"uchg")) + file(b"x") + file(b".imgstore/state")
    odd.write_bytes(folder() + members + END + file(b"y") + END)

    ended = run("import", "web", odd)

    assert ended.code == 0
    assert ended.err.splitlines() == [
        f"imgstore: {odd}: left out inode flags that Linux does not have: 1 time",
        f"imgstore: {odd}: left out members that are no part of an image: 1 time",
        f"imgstore: {odd}: something follows the end of the archive, which was not looked at",
    ]
    assert run("import", "web", odd, "--json").document["archives"][0]["left_out"] == {
        "inode flags that Linux does not have": 1,
        "members that are no part of an image": 1,
    }


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (IMAGE[:-1024], 4, "cut short"),
        (file(b"../x") + END, 4, "../x"),
        (b"PK\x03\x04" + bytes(1000), 4, "zip"),
        (b"hello", 4, "ends"),
    ],
)
def test_bad_archives(run: Run, image: Path, data: bytes, code: int, says: str) -> None:
    image.write_bytes(data)

    ended = run("import", "web", image)

    assert ended.code == code
    [line] = ended.err.splitlines()
    assert str(image) in line
    assert says in line
    assert run("log", "web").code == 3


def test_wrong_usage(run: Run, image: Path, tmp_path: Path) -> None:
    assert run("import", "web").code == 2
    assert run("import", "we/b", image).code == 2
    assert run("import", "web", tmp_path).code == 2
    assert run("import", "web", image, "-t", "a b").code == 2
    assert run("import", "web", image, "--base", "web:nothing").code == 3
    assert run("import", "web", tmp_path / "missing").code == 7


def test_an_interrupted_import_leaves_nothing(process: Callable[..., Process], run: Run) -> None:
    started = process("import", "web", "-", stdin=subprocess.PIPE)
    stream = started.popen.stdin
    assert stream is not None
    stream.write(folder() + b"".join(file(b"%d" % i, os.urandom(100_000)) for i in range(30)))
    stream.flush()
    ended = started.signal(signal.SIGTERM)

    assert ended.code == 130
    assert run("log", "web").code == 3


def test_python_reads_what_was_imported(done: Run, tmp_path: Path) -> None:
    """The other way round: an archive of Python's, and back out through its reader."""
    archive = tmp_path / "py.tar"
    with tarfile.open(archive, "w") as made:
        info = tarfile.TarInfo("dir/ü")
        info.size = 5
        made.addfile(info, io.BytesIO(b"hello"))
    done("import", "web", archive)
    out = tmp_path / "out.tar"
    done("export", "web", "-o", out)
    with tarfile.open(out) as read:
        assert read.getnames() == [".", "./dir", "./dir/ü"]


def test_what_is_no_archive_is_none_of_the_stores_business(run: Run, store: Path) -> None:
    ended = run("import", "web", "/etc/passwd")
    assert ended.code == 4
    assert ended.err.endswith("its checksum is wrong; nothing was recorded\n")

"""`export`: what lands in the file, beside it, and what is left after a failure."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Process, Run


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    """The members of an archive by name."""
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def damage_packs(store: Path) -> None:
    """Flip bits in the content of every pack."""
    for path in (store / "packs").glob("*.pack"):
        data = bytearray(path.read_bytes())
        for place in range(40, len(data) // 2, 7):
            data[place] ^= 0xFF
        path.chmod(0o644)
        path.write_bytes(data)


def test_export_of_all(done: Run, shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "image.tar.gz"

    ended = done("export", "web", "-o", file)

    assert ended.out.startswith(f"{file}: 13 members, ")
    assert file.read_bytes()[:2] == b"\x1f\x8b"
    assert "./etc/motd" in members(file)
    assert list(tmp_path.iterdir()) == [file]


def test_export_of_the_difference(done: Run, shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "image-diff.tar.gz"

    ended = done("export", "web", "--base", "web:base", "-o", file, "--json").document

    held = members(file)
    assert {"./etc/motd", "./etc/hosts", "./usr/share/data"} <= set(held)
    assert "./usr/share/sparse" not in held
    assert ended["version"] == done("show", "web", "--json").document["version"]
    assert ended["base"] == done("show", "web:base", "--json").document["version"]
    assert ended["file"] == str(file)
    with tarfile.open(file) as archive:
        assert ended["members"] == len(archive.getnames())
    assert ended["size"] == file.stat().st_size
    assert ended["deletions"] > 0
    assert b"usr/pipe" in Path(ended["sidecar"]).read_bytes()


def test_export_without_a_list_of_deletions(done: Run, shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "diff.tar.gz"

    ended = done("export", "web", "--base", "web~1", "-o", file, "--deletions", "none")

    assert "told nowhere" in ended.out
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("deletions", "said"), [("gnu", "which 'tar --incremental' does"), ("oci", "whiteouts tell")]
)
def test_export_with_deletions_inside(
    done: Run, shared: Path, tmp_path: Path, deletions: str, said: str
) -> None:
    file = tmp_path / "diff.tar.gz"

    ended = done("export", "web", "--base", "web~1", "-o", file, "--deletions", deletions)

    assert said in ended.out
    assert list(tmp_path.iterdir()) == [file]
    with tarfile.open(file) as archive:
        lists = [member.name for member in archive if "GNU.dumpdir" in member.pax_headers]
    assert bool(lists) == (deletions == "gnu")
    assert ("./usr/.wh.pipe" in members(file)) == (deletions == "oci")


@pytest.mark.parametrize("deletions", ["gnu", "oci", "none"])
def test_export_of_the_difference_to_stdout(
    process: Callable[..., Process], done: Run, shared: Path, tmp_path: Path, deletions: str
) -> None:
    store = shared.parent / "store"
    arguments = ["export", "web", "--base", "web~1", "--deletions", deletions, "-o"]
    done(*arguments, tmp_path / "file.tar.gz")

    ended = process("--store", store, *arguments, "-").end()

    assert (ended.code, ended.err) == (0, "")
    assert ended.raw == (tmp_path / "file.tar.gz").read_bytes()


def test_export_of_no_difference_is_an_archive(done: Run, shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "empty.tar.gz"

    done("export", "web", "--base", "web", "-o", file)

    assert members(file) == {}


@pytest.mark.parametrize(
    ("arguments", "name", "magic"),
    [
        ([], "image.tar", b"./"),
        ([], "image.tar.zst", b"\x28\xb5\x2f\xfd"),
        ([], "image.tgz", b"\x1f\x8b"),
        ([], "image", b"\x1f\x8b"),
        (["--format", "tar"], "image.tar.gz", b"./"),
        (["--level", "1"], "image.tar.gz", b"\x1f\x8b"),
    ],
)
def test_format_is_given_or_follows_the_name(
    done: Run, shared: Path, tmp_path: Path, arguments: list[str], name: str, magic: bytes
) -> None:
    done("-q", "export", "web", "-o", tmp_path / name, *arguments)

    assert (tmp_path / name).read_bytes().startswith(magic)


def test_export_to_stdout_is_the_archive_alone(
    process: Callable[..., Process], done: Run, shared: Path, tmp_path: Path
) -> None:
    store = shared.parent / "store"
    done("export", "web", "-o", tmp_path / "file.tar.gz")

    ended = process("--store", store, "export", "web", "-o", "-").end()

    assert (ended.code, ended.err) == (0, "")
    assert ended.raw == (tmp_path / "file.tar.gz").read_bytes()


def test_export_does_not_garble_a_terminal(process: Callable[..., Process], shared: Path) -> None:
    master, slave = pty.openpty()
    started = process("--store", shared.parent / "store", "export", "web", "-o", "-", stdout=slave)
    ended = started.end()
    os.close(slave)
    os.close(master)

    assert ended.code == 2
    assert "terminal" in ended.err


def test_export_writes_into_a_pipe_and_leaves_it_there(
    process: Callable[..., Process], done: Run, shared: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = process("--store", shared.parent / "store", "export", "web", "-o", fifo)
    received = fifo.read_bytes()

    assert started.end().code == 0
    assert fifo.is_fifo()
    done("export", "web", "-o", tmp_path / "file.tar.gz")
    assert received == (tmp_path / "file.tar.gz").read_bytes()


def test_export_through_a_link_keeps_the_link(done: Run, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("there.tar.gz")
    (tmp_path / "there.tar.gz").write_bytes(b"old")

    done("export", "web", "-o", tmp_path / "here")

    assert (tmp_path / "here").is_symlink()
    assert "./etc/motd" in members(tmp_path / "there.tar.gz")


def test_export_into_the_current_directory(
    done: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    ended = done("export", "web", "--base", "web~1", "-o", "diff.tar.gz")

    assert ended.out.startswith("diff.tar.gz: ")
    assert (tmp_path / "diff.tar.gz").exists()


@pytest.mark.parametrize("old", [None, b"what was here before"])
def test_a_failed_export_leaves_no_part(
    run: Run, store: Path, web: Path, tmp_path: Path, old: bytes | None
) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    file = folder / "image.tar.gz"
    if old is not None:
        file.write_bytes(old)
    damage_packs(store)

    ended = run("export", "web", "-o", file)

    assert (ended.code, ended.out) == (4, "")
    assert ended.err.count("\n") == 1
    assert "imgstore verify" in ended.err
    assert [path.read_bytes() for path in folder.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nope", "-o", "FILE"], 3),
        (["web", "--base", "nope", "-o", "FILE"], 3),
        (["web", "-o", "."], 2),
        (["web", "-o", "/no/such/dir/image.tar.gz"], 7),
        (["web", "--base", "web~1", "-o", "/dev/null"], 2),
        (["web", "--level", "77", "-o", "FILE"], 2),
    ],
)
def test_export_refusals(
    run: Run, shared: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    file = tmp_path / "image.tar.gz"

    ended = run("export", *(str(file) if text == "FILE" else text for text in arguments))

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert not Path("/dev/null").is_file()


def test_the_archive_of_all_unpacks_to_the_tree(done: Run, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done("export", "web", "-o", tmp_path / "image.tar")

    subprocess.run(
        ["tar", "-xpf", tmp_path / "image.tar", "-C", tmp_path / "out"], check=True, timeout=60
    )

    subprocess.run(["diff", "-r", shared, tmp_path / "out"], check=True, timeout=60)


@pytest.mark.parametrize("name", ["layout", "layout.tar"])
def test_export_of_an_image_layout(done: Run, shared: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / name

    ended = done("export", "web", "--base", "web:base", "--format", "oci", "-o", place, "--json")

    if place.is_file():
        subprocess.run(["tar", "-xf", place, "-C", tmp_path], check=True)
        place = tmp_path
    [found] = json.loads((place / "index.json").read_text())["manifests"]
    assert ended.document["digest"] == found["digest"]
    assert ended.document["sidecar"] is None
    assert found["annotations"] == {"org.opencontainers.image.ref.name": "latest"}


@pytest.mark.parametrize(("spec", "name"), [("web:v1", "v1"), ("web~1", None)])
def test_an_image_layout_is_named_by_its_tag(
    done: Run, shared: Path, tmp_path: Path, spec: str, name: str | None
) -> None:
    ended = done("export", spec, "--format", "oci", "-o", tmp_path / "layout", "--json").document

    [found] = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    [named] = found["annotations"].values()
    assert named == (name or ended["version"][:12])


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "-"],
        ["-o", "/dev/null"],
        ["-o", "full"],
        ["-o", "layout", "--deletions", "sidecar"],
        ["-o", "layout", "--level", "77"],
    ],
)
def test_an_image_layout_is_refused(
    run: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    monkeypatch.chdir(tmp_path)

    ended = run("export", "web", "--format", "oci", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "full"]


def test_publish_and_rebase(run: Run, done: Run, web: Path, tmp_path: Path) -> None:
    place = tmp_path / "www"

    ended = run("publish", "web", place)

    assert ended.code == 0
    assert ended.out.startswith(f"{place}: web ")
    assert "image.tar.gz" in ended.out
    assert "'imgstore rebase web'" in ended.err
    assert "nothing changed" in run("publish", "web", place).out
    assert "stays" in done("rebase", "web", "--when-over", "300%").out
    moved = done("rebase", "web", "--when-over", "50", "--json").document
    assert moved["moved"]
    assert moved["base"] == done("show", "web", "--json").document["version"]
    assert 50 < moved["diff_percent"] <= 100
    written = done("publish", "web", place, "--json").document
    assert written["base"] == written["version"] == moved["base"]
    assert written["diff_percent"] < 5
    assert sorted(written["files"]) == sorted(
        path.name for path in place.iterdir() if path.name != "SHA256SUMS"
    )
    assert "already" in done("rebase", "web").out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["publish", "nope", "DIR"], 3),
        (["publish", "web:base", "DIR"], 2),
        (["publish", "web", "/dev/null"], 7),
        (["publish", "web", "DIR", "--level", "77"], 2),
        (["rebase", "nope"], 3),
        (["rebase", "web", "--when-over", "-1"], 2),
        (["rebase", "web", "--when-over", "much"], 2),
    ],
)
def test_publish_refusals(
    run: Run, shared: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    ended = run(*(str(tmp_path / "www") if text == "DIR" else text for text in arguments))

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "www/image.tar.gz").exists()


def test_export_from_an_archive(
    done: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done("export", "web~1", "-o", "image.tar.gz")
    done("export", "web", "--base", "web~1", "-o", "diff.tar.gz")
    for base in ("image.tar.gz", "./image.tar.gz", tmp_path / "image.tar.gz"):
        ended = done("export", "web", "--base", base, "-o", "other.tar.gz", "--json").document

        assert ended["base"] == str(base)
        assert (tmp_path / "other.tar.gz").read_bytes() == (tmp_path / "diff.tar.gz").read_bytes()
    assert (
        "from image.tar.gz to"
        in done("export", "web", "--base", "image.tar.gz", "-o", "other.tar.gz").out
    )


@pytest.mark.parametrize(
    ("base", "options", "code"),
    [
        ("nothing.tar.gz", [], 3),
        ("./nothing", [], 3),
        ("./text", [], 4),
        (".", [], 2),
        ("./", [], 7),
        ("image.tar", ["--format", "oci"], 2),
    ],
)
def test_export_from_what_is_no_base(
    run: Run,
    done: Run,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    options: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    done("export", "web~1", "-o", "image.tar")
    (tmp_path / "text").write_text("no archive\n" * 100)

    ended = run("export", "web", "--base", base, "-o", "out.tar", *options)

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "out.tar").exists()


def test_an_archive_where_there_is_no_directory(run: Run, shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere/image.tar.gz"
    ended = run("export", "web", "-o", path)
    assert ended.code == 7
    assert ended.err == f"imgstore: can't write the archive: No such file or directory ({path})\n"


def test_publishing_into_a_file(run: Run, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run("publish", "web", tmp_path / "file")
    assert ended.code == 7
    assert ended.err == f"imgstore: can't publish: Not a directory ({tmp_path / 'file'})\n"

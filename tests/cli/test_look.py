"""`images`, `log`, `show`, `ls`, `cat` and `diff`."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run

ID = "[0-9a-f]{12}"
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
UTC = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


def test_images(done: Run, web: Path) -> None:
    done("commit", "another", web)
    head, another, line = done("images").lines

    assert head.split() == ["IMAGE", "LATEST", "TIME", "ENTRIES", "SIZE"]
    assert re.fullmatch(rf"web +{ID}  {TIME} +13  3\.7 MB", line)
    assert another.startswith("another  ")


def test_images_as_document(done: Run, shared: Path) -> None:
    document = done("images", "--json").document
    latest = done("show", "web", "--json").document

    assert document["store"] == str(shared.parent / "store")
    [image] = document["images"]
    assert image["image"] == "web"
    assert image["latest"] == latest["version"]
    assert (image["time"], image["size"]) == (latest["time"], latest["size"])
    assert set(image["tags"]) == {"base", "latest", "v1"}


def test_images_of_an_empty_store(run: Run, done: Run) -> None:
    done("init")

    assert run("images").out == ""
    assert "imgstore commit" in run("images").err
    assert run("images", "-q").err == ""
    assert run("images", "--json").document["images"] == []


def test_images_shows_the_sound_ones_beside_a_damaged_one(
    run: Run, done: Run, store: Path, web: Path
) -> None:
    done("commit", "another", web)
    (store / "images/another/ref").write_bytes(b"damaged")

    text, document = run("images"), run("images", "--json")

    assert text.code == document.code == 4
    assert [line.split()[0] for line in text.lines] == ["IMAGE", "web"]
    assert [image["image"] for image in document.document["images"]] == ["web"]
    assert "another" in text.err
    assert text.err.count("\n") == 1


def test_log(done: Run, shared: Path) -> None:
    head, second, first = done("log", "web").lines

    assert head.split() == ["VERSION", "TIME", "ENTRIES", "SIZE", "TAGS", "MESSAGE"]
    assert re.fullmatch(rf"{ID}  {TIME} +13  3\.7 MB  latest +second", second)
    assert re.fullmatch(rf"{ID}  {TIME} +13  3\.7 MB  base,v1  first", first)
    assert len(done("log", "web", "-n", "1").lines) == 2
    assert len(done("log", "web:v1").lines) == 2


def test_log_as_document(done: Run, shared: Path) -> None:
    document = done("log", "web", "--json").document
    second, first = document["versions"]

    assert document["image"] == "web"
    assert second["parent"] == first["version"]
    assert second["message"] == "second\nwith more to say"
    assert first["parent"] is None
    assert first["tags"] == ["base", "v1"]
    assert re.fullmatch(UTC, first["time"])


def test_show(done: Run, shared: Path) -> None:
    lines = done("show", "web").lines
    keys = [line.split()[0] for line in lines]

    assert keys == [
        *("image", "version", "parent", "time", "tags", "entries", "size", "root"),
        *("pack", "pack", "message", "message"),
    ]
    assert lines[-1] == "message  with more to say"
    assert re.fullmatch(rf"time     {TIME}", lines[3])


def test_show_as_document(done: Run, shared: Path) -> None:
    document = done("show", "web", "--json").document
    by_prefix = done("show", f"web:{document['version'][:8]}", "--json").document

    assert document == by_prefix
    assert document["tags"] == ["latest"]
    assert len(document["root"]) == 64
    names = {f"{use['pack']}.pack": use["size"] for use in document["packs"]}
    there = {
        path.name: path.stat().st_size
        for path in (shared.parent / "store" / "packs").glob("*.pack")
    }
    assert names == there


def test_show_without_its_locate_hint(run: Run, store: Path, web: Path) -> None:
    for hint in (store / "locate").iterdir():
        hint.unlink()

    ended = run("show", "web", "--json")

    assert ended.code == 0
    assert ended.document["packs"] is None
    assert "locate" in ended.err


def test_messages_can_not_steer_the_terminal(done: Run, tree: Path) -> None:
    done("commit", "web", tree, "-m", "\x1b[2Jgone\a")

    assert "\x1b" not in done("log", "web").out + done("show", "web").out
    assert "\\x1b[2Jgone\\x07" in done("log", "web").out


def test_ls_lists_one_directory(done: Run, shared: Path) -> None:
    top, etc = done("ls", "web"), done("ls", "web", "/etc/")

    assert [line.split()[-1] for line in top.lines] == ["etc", "usr"]
    assert [line[:11] for line in etc.lines] == ["-rw-r--r-- "] * 4 + [
        *("drwxr-xr-x ", "-rw-r--r-- ", "-rw-r--r-- "),
    ]
    names = [line.split("+00:00 ")[1] for line in etc.lines]
    assert names == [
        "etc/bad\\xff",
        "etc/fstab",
        "etc/hard link to etc/fstab",
        "etc/hosts",
        "etc/link",
        "etc/motd",
        "etc/new\\nline",
    ]


def test_ls_of_one_file_and_of_all(done: Run, shared: Path) -> None:
    status = (shared / "usr/share/data").stat()
    [line] = done("ls", "web", "usr/share/data").lines
    everything = done("ls", "web", "-r").lines
    below = done("ls", "-r", "web", "usr").lines

    assert line.split()[:4] == ["-rw-------", str(status.st_uid), str(status.st_gid), "512000"]
    assert everything[0].endswith(" .")
    assert len(everything) == 13
    assert [item.split()[-1] for item in below] == [
        *("usr", "usr/share", "usr/share/data", "usr/share/sparse"),
    ]
    assert done("ls", "web:base", "etc/link").out.endswith(" etc/link -> fstab\n")
    assert done("ls", "web:base", "usr/pipe").out.startswith("prw")


def test_ls_as_document(done: Run, shared: Path) -> None:
    document = done("ls", "web:base", "etc", "--json").document
    entries = {entry["path"]: entry for entry in document["entries"]}

    assert document["image"] == "web"
    assert entries["etc/link"]["type"] == "symlink"
    assert entries["etc/link"]["target"] == "fstab"
    assert entries["etc/hard"]["link"] == "etc/fstab"
    assert entries["etc/fstab"]["mode"] == "0644"
    assert re.fullmatch(UTC, entries["etc/fstab"]["mtime"])
    assert os.fsencode("etc/bad\udcff") == b"etc/bad\xff"
    assert "etc/bad\udcff" in entries
    assert "etc/new\nline" in entries


def test_ls_tells_of_xattrs_and_devices(done: Run, tree: Path) -> None:
    try:
        os.setxattr(tree / "etc/hosts", b"user.note", b"\x00\xff")
        os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"can't be made here: {error}")
    done("commit", "web", tree)

    text = done("ls", "-r", "web").out
    entries = {item["path"]: item for item in done("ls", "-r", "web", "--json").document["entries"]}

    assert re.search(r"-rw-r--r--\+ .* etc/hosts\n", text)
    assert re.search(r"crw.* 1, 3 .* null\n", text)
    assert entries["null"]["device"] == [1, 3]
    assert base64.b64decode(entries["etc/hosts"]["xattrs"]["user.note"]) == b"\x00\xff"


def test_ls_of_an_empty_directory_is_an_empty_list(done: Run, shared: Path) -> None:
    assert done("ls", "web", "etc/link").out == ""
    assert done("ls", "web", "etc/link", "--json").document["entries"] == []


@pytest.mark.parametrize(
    "path", ["usr/share/data", "usr/share/sparse", "etc/hard", "etc/new\nline", "etc/bad\udcff"]
)
def test_cat_gives_the_bytes(done: Run, shared: Path, path: str) -> None:
    assert done("cat", "web", f"./{path}").raw == (shared / path).read_bytes()


def test_cat_gives_the_old_bytes(done: Run, shared: Path) -> None:
    assert done("cat", "web~1", "/etc/hosts").raw == b"127.0.0.1 localhost\n"


@pytest.mark.parametrize(
    ("path", "code"),
    [("etc", 2), ("etc/link", 2), ("usr/pipe", 2), (".", 2), ("etc/../etc/fstab", 2), ("nope", 3)],
)
def test_cat_needs_a_file(run: Run, shared: Path, path: str, code: int) -> None:
    ended = run("cat", "web:base", path)

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1


def test_diff(run: Run, done: Run, shared: Path) -> None:
    expected = [
        *("m\tetc", "M\tetc/hosts", "T\tetc/link", "A\tetc/motd"),
        *("m\tusr", "D\tusr/pipe", "m\tusr/share/data"),
    ]

    assert done("diff", "web~1", "web").lines == expected
    assert done("diff", "web", "web~1").lines == [
        line.translate(str.maketrans("AD", "DA")) if line[0] in "AD" else line for line in expected
    ]
    assert done("diff", "web", "web", "--exit-code").out == ""
    assert run("diff", "web:base", "web", "--exit-code").code == 1


def test_diff_as_document(done: Run, shared: Path) -> None:
    document = done("diff", "web~1", "web", "--json").document

    assert document["counts"] == {"A": 1, "D": 1, "M": 1, "m": 3, "T": 1}
    assert document["changes"][2] == {"letter": "T", "path": "etc/link"}
    assert document["new"] == done("show", "web", "--json").document["version"]
    assert done("diff", "web", "web", "--json").document["changes"] == []


def test_diff_in_numbers(run: Run, done: Run, shared: Path) -> None:
    *rows, total = done("diff", "web~1", "web", "--stat").lines
    document = run("diff", "web~1", "web", "--stat", "--json", "--exit-code")

    assert [row.split()[:2] for row in rows] == [
        *(["A", "1"], ["D", "1"], ["M", "1"], ["m", "3"], ["T", "1"]),
    ]
    assert re.fullmatch(rf"{ID} -> {ID}: 7 paths, 3\.7 MB -> 3\.7 MB", total)
    assert document.code == 1
    assert document.document["bytes"] == {"A": 8, "D": 0, "M": 24, "m": 0, "T": 0}
    assert done("diff", "web", "web", "--stat").lines[0].endswith(": 0 paths, 3.7 MB -> 3.7 MB")


def test_names_stay_on_one_line(done: Run, tree: Path) -> None:
    done("commit", "web", tree)
    (tree / "etc/new\nline").unlink()
    os.unlink(os.fsencode(tree) + b"/etc/bad\xff")
    (tree / "tab\tand \\").write_text("")
    done("commit", "web")

    assert done("diff", "web~1", "web").lines == [
        *("m\t.", "m\tetc", "D\tetc/bad\\xff", "D\tetc/new\\nline", "A\ttab\\tand \\\\"),
    ]
    document = done("diff", "web~1", "web", "--json").document
    assert [os.fsencode(change["path"]) for change in document["changes"]][2:] == [
        *(b"etc/bad\xff", b"etc/new\nline", b"tab\tand \\"),
    ]


@pytest.mark.parametrize("spec", ["nope", "web:nope", "web~9", "web:ffffffff", "web:00"])
@pytest.mark.parametrize("verb", ["log", "show", "ls"])
def test_what_is_not_there(run: Run, shared: Path, verb: str, spec: str) -> None:
    ended = run(verb, spec)

    assert (ended.code, ended.out) == (3, "")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("spec", ["../web", "web:", "web~", "web~x", "web:a/b", ""])
def test_what_is_no_spec(run: Run, shared: Path, spec: str) -> None:
    ended = run("show", spec)

    assert ended.code == 2
    assert ended.err.count("\n") == 1

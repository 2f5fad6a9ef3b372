"""`init`, `commit` and `status`."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Process, Run


def test_init_makes_a_store(done: Run, store: Path) -> None:
    ended = done("init", "--compression", "zstd:7")

    said, _, fingerprint = ended.out.rstrip("\n").rpartition(" ")
    assert said == f"made a store in {store}; its root key is"
    assert done("key", "list", "--json").document["keys"][0]["key"] == fingerprint
    assert json.loads((store / "store.json").read_text())["compression"] == "zstd:7"


def test_init_as_document(done: Run, store: Path) -> None:
    document = done("init", "--json").document

    assert document["store"] == str(store)
    assert document["id"] == json.loads((store / "store.json").read_text())["id"]
    assert document["compression"] == "auto"
    assert set(document["chunker"]) == {"minimum", "average", "maximum"}
    assert (document["signed"], document["lifetime"]) == (True, 7 * 86400)


def test_init_refuses_what_is_there(run: Run, done: Run, store: Path) -> None:
    done("init")

    again = run("init")

    assert (again.code, again.out) == (7, "")
    assert str(store) in again.err


def test_init_refuses_an_unknown_compression(run: Run, store: Path) -> None:
    assert run("init", "--compression", "rar").code == 2
    assert not store.exists()


def test_commit_says_what_it_recorded(done: Run, tree: Path) -> None:
    first = done("commit", "web", tree)
    again = done("commit", "web")
    (tree / "etc/motd").write_text("hi\n")
    (tree / "etc/hosts").unlink()
    second = done("commit", "web")

    assert first.out.startswith("web ")
    assert " 13 added; " in first.out
    assert " in 1 pack\n" in first.out
    assert again.out == f"web: nothing changed since {first.out.split()[1].rstrip(':')}\n"
    assert ": 1 added, 1 with new metadata, 1 removed; " in second.out


def test_commit_as_document(done: Run, tree: Path) -> None:
    first = done("commit", "web", tree, "-m", "text", "-t", "v1", "--json").document
    again = done("commit", "web", "--json").document

    assert first["image"] == "web"
    assert len(first["version"]) == 64
    assert first["new"] is True
    assert first["parent"] is None
    assert first["tags"] == ["base", "latest", "v1"]
    assert first["directory"] == str(tree)
    assert first["entries"] == first["changes"]["A"] == 13
    assert first["new_bytes"] > first["stored_bytes"] > 0
    assert first["time"].endswith("Z")
    assert (again["version"], again["new"], again["new_chunks"]) == (first["version"], False, 0)


def test_commit_without_a_directory_uses_the_last_one(run: Run, done: Run, tree: Path) -> None:
    missing = run("commit", "web")
    done("commit", "web", tree)
    done("commit", "web")

    assert missing.code in (2, 3)
    assert missing.err.count("\n") == 1


def test_commit_quiet_says_nothing(done: Run, tree: Path) -> None:
    assert done("-q", "commit", "web", tree).out == ""


def test_commit_warns_of_sockets_and_caps_the_lines(run: Run, tree: Path) -> None:
    here = os.getcwd()
    os.chdir(tree)
    for number in range(14):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"sock{number:02}")
    os.chdir(here)

    capped, whole = run("commit", "web", tree), run("commit", "other", tree, "-v")

    assert capped.code == 0
    assert capped.err.count("\n") == 11
    assert "and 4 more" in capped.err
    assert whole.err.count("socket") == 14


def test_commit_takes_excludes(done: Run, tree: Path, tmp_path: Path) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_bytes(b"# not these\n/usr/\n\nbad\xff\n")

    done("commit", "web", tree, "--exclude", "*.tmp", "--exclude=hosts", "--exclude-from", patterns)
    held = [entry["path"] for entry in done("ls", "-r", "web", "--json").document["entries"]]

    assert held == [".", "etc", "etc/fstab", "etc/hard", "etc/link", "etc/new\nline"]


def test_exclude_rules_count_in_the_order_given(done: Run, tree: Path, tmp_path: Path) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    first.write_bytes(b"+ /etc/hosts\n")
    last.write_bytes(b"+ /etc/fstab\n- /usr/\n")

    done(
        *("commit", "web", tree, "--exclude-from", first, "--exclude", "/etc/[fhln]*"),
        *("--exclude=bad*", "--exclude-from", last),
    )
    held = [entry["path"] for entry in done("ls", "-r", "web", "--json").document["entries"]]

    assert held == [".", "etc", "etc/hosts"]


def test_what_looks_like_a_comment_is_a_pattern_on_the_command_line(done: Run, tree: Path) -> None:
    (tree / "#x").write_text("")

    done("commit", "web", tree, "--exclude", "#x")

    assert "#x" not in done("ls", "web").out


def test_commit_needs_its_exclude_file(run: Run, tree: Path, store: Path) -> None:
    ended = run("commit", "web", tree, "--exclude-from", "/no/such/file")

    assert ended.code == 7
    assert "/no/such/file" in ended.err
    assert not store.exists()


@pytest.mark.parametrize("rule", ["+ *", "+ /var/store", "!"])
def test_no_rule_brings_the_store_in(run: Run, tree: Path, rule: str) -> None:
    inside = tree / "var/store"
    inside.parent.mkdir()
    (tree / ".imgstore").mkdir()
    (tree / ".imgstore/exclude").write_text(f"{rule}\n")

    ended = run("--store", inside, "commit", "web", tree, "--exclude", rule)

    assert ended.code == 0
    assert "store" not in run("--store", inside, "ls", "-r", "web", "var").out


def test_commit_leaves_the_store_itself_out(run: Run, tree: Path) -> None:
    inside = tree / "var [x]/store"
    inside.parent.mkdir()

    first = run("--store", inside, "commit", "web", tree)
    again = run("--store", inside, "commit", "web", "-q")
    (tree / "var [x]/other").write_text("")
    held = run("--store", inside, "ls", "-r", "web", "var [x]")

    assert (first.code, again.code, again.err) == (0, 0, "")
    assert first.err == "imgstore: leaving out var [x]/store: it is the store itself\n"
    assert [line.split(" ")[-1] for line in held.lines] == ["[x]"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["../web", "TREE"],
        ["web", "TREE", "-t", "no good"],
        ["web", "TREE", "-m", "\udcff"],
        ["web", "TREE", "-m", "x" * 20_000],
        ["web", "TREE", "--exclude", "/"],
    ],
)
def test_commit_refuses_nonsense(run: Run, tree: Path, arguments: list[str]) -> None:
    ended = run("commit", *(str(tree) if text == "TREE" else text for text in arguments))

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert run("log", "web").code == 3


def test_commit_of_a_missing_directory(run: Run, tmp_path: Path) -> None:
    ended = run("commit", "web", tmp_path / "nowhere")

    assert ended.code == 7
    assert str(tmp_path / "nowhere") in ended.err


def test_commit_says_who_it_waits_for(
    process: Callable[..., Process], done: Run, store: Path, tree: Path
) -> None:
    done("init")
    with (store / "local/lock").open("w") as lock:
        lock.write('{"pid": 1, "purpose": "a long night", "since": 0}')
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = process("commit", "web", tree)
        waiting.await_error("waiting for")
        fcntl.flock(lock, fcntl.LOCK_UN)
        ended = waiting.end()

    assert ended.code == 0
    assert "waiting for process 1 (a long night" in ended.err
    assert ended.err.count("\n") == 1


def test_commit_reports_a_file_that_would_not_hold_still(
    run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imgstore.commands.commit as module

    real = module.commit

    def restless(*arguments: object, **options: object) -> object:
        report = real(*arguments, **options)  # type: ignore[arg-type]
        report.unsteady.append(b"var/log/syslog")
        return report

    monkeypatch.setattr(module, "commit", restless)
    text = run("commit", "web", tree)
    document = run("commit", "web", "--json")

    assert text.code == document.code == 1
    assert text.err == "imgstore: var/log/syslog: kept changing while it was read\n"
    assert document.document["unsteady"] == ["var/log/syslog"]


def test_status_shows_what_a_commit_would_record(run: Run, done: Run, web: Path) -> None:
    clean = done("status", "web", "--exit-code")
    (web / "etc/motd").write_text("other\n")
    (web / "etc-more").write_text("")
    (web / "etc/hosts").unlink()
    text, strict = done("status", "web"), run("status", "web", "--exit-code")
    document = done("status", "web", web, "--json").document
    done("commit", "web")
    same = done("diff", "web~1", "web")

    assert clean.out == ""
    # By the bytes of the path: '-' comes before '/'.
    expected = ["m\t.", "m\tetc", "A\tetc-more", "D\tetc/hosts", "M\tetc/motd"]
    assert text.lines == strict.lines == same.lines == expected
    assert strict.code == 1
    assert document["counts"] == {"A": 1, "D": 1, "M": 1, "m": 2, "T": 0}
    assert document["changes"][2] == {"letter": "A", "path": "etc-more"}
    assert document["directory"] == str(web)
    assert len(document["version"]) == 64


def test_status_of_a_new_image_adds_everything(done: Run, store: Path, tree: Path) -> None:
    done("init")

    document = done("status", "web", tree, "--json").document

    assert document["version"] is None
    assert document["counts"]["A"] == len(document["changes"]) == 13
    assert list((store / "packs").iterdir()) == []

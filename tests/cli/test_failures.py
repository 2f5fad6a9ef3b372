"""What every verb has in common when things go wrong: one line, the exit code, nothing else."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import imgstore.commands.images as verb
import pytest

from chunkstore import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Process, Run


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `imgstore images` raise."""

    def run(*_: object) -> int:
        raise error

    monkeypatch.setattr(verb, "run", run)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.Usage("what a wish"), 2, "what a wish\n"),
        (errors.NotFound("gone", name="images/web/ref"), 3, "gone; 'imgstore images' lists"),
        (errors.NotFound("gone", name="web:x"), 3, "gone; 'imgstore log web' lists"),
        (errors.NotFound("gone"), 3, "gone\n"),
        (errors.Corrupt("pack 12: broken"), 4, "pack 12: broken; run 'imgstore verify'"),
        (errors.Unsupported("format 9"), 4, "format 9\n"),
        (errors.Untrusted("no signature"), 5, "no signature\n"),
        (errors.TransferError("cut"), 6, "cut\n"),
        (errors.Unreachable("nobody"), 6, "nobody; check that the server runs there"),
        (errors.Unreachable("nobody", amiss="name"), 6, "nobody; check the name\n"),
        (errors.LocalError("no room", errno=errno.ENOSPC), 7, "no room; make room"),
        (errors.Conflict("store is locked by process 7"), 7, "locked by process 7\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 7, "/x: Permission denied; run"),
        (OSError("strange"), 7, "strange\n"),
        (MemoryError(), 7, "out of memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ModuleNotFoundError("x", name="zstandard"), 7, "package zstandard is missing"),
        (ZeroDivisionError("oops"), 7, "fault in imgstore: ZeroDivisionError: oops; -vv shows"),
    ],
)
def test_each_kind_of_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    fail_with(monkeypatch, error)

    ended = run("images")

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert ended.err.startswith("imgstore: ")
    assert ended.err.count("\n") == 1


def test_every_declared_error_has_an_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [errors.ChunkstoreError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    for kind in kinds[1:]:
        if kind.__module__ != errors.__name__:
            continue
        more = {"stage": "pre-apply", "hook": "name"} if kind is errors.HookFailed else {}
        fail_with(monkeypatch, kind("text", **more))
        ended = run("images")
        assert 2 <= ended.code <= 7, kind
        assert "fault" not in ended.err


def test_a_traceback_only_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errors.Corrupt("broken"))

    assert "Traceback" not in run("-v", "images").err
    assert "Traceback" in run("-vv", "images").err
    assert run("-v", "images", "-v").err.startswith("imgstore: broken")


def test_a_message_stays_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errors.Corrupt("a\nb\x1b[2J\udcff\ud800 \\ ü"))

    assert run("images").err.startswith("imgstore: a\\nb\\x1b[2J\\xff? \\ ü; run")


def test_no_store(run: Run, store: Path) -> None:
    for arguments in (["images"], ["log", "web"], ["tag", "web", "x"], ["status", "web", "."]):
        ended = run(*arguments)
        assert (ended.code, ended.out) == (3, "")
        assert f"no store in {store}: 'commit' or 'init' makes one" in ended.err
    assert not store.exists()


def test_a_directory_that_is_no_store(run: Run, tmp_path: Path) -> None:
    assert run("--store", tmp_path, "images").code == 3
    assert run("--store", "/dev/null/x", "images").code in (3, 7)


@pytest.mark.parametrize("text", [b"", b"{", b'{"imgstore": 99}', b"[]"])
def test_a_damaged_store(run: Run, store: Path, web: Path, text: bytes) -> None:
    (store / "store.json").write_bytes(text)

    ended = run("log", "web")

    assert (ended.code, ended.out) == (4, "")
    assert "store.json" in ended.err
    assert ended.err.count("\n") == 1


def test_a_store_without_its_settings(run: Run, store: Path, web: Path) -> None:
    (store / "store.json").unlink()

    assert "store.json" in run("log", "web").err
    assert run("commit", "web", web).code == 7


def test_damaged_content(run: Run, store: Path, web: Path) -> None:
    for path in (store / "packs").glob("*.pack"):
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))

    assert run("cat", "web", "etc/motd").code == 4
    assert run("ls", "web").code == 4
    assert run("diff", "web~1", "web").code == 4


def test_lost_content(run: Run, store: Path, web: Path) -> None:
    for path in (store / "packs").glob("*.pack"):
        path.unlink()

    ended = run("cat", "web", "etc/motd")

    assert ended.code in (3, 4)
    assert ended.err.count("\n") == 1


def test_a_store_that_can_only_be_read(
    run: Run, done: Run, mount: Callable[..., None], store: Path, web: Path, tmp_path: Path
) -> None:
    (web / "etc/motd").write_text("changed\n")
    mount(store, "--bind", str(store))
    mount(store, "-o", "remount,bind,ro")

    refused = run("commit", "web")

    assert (refused.code, refused.out) == (7, "")
    assert "Read-only file system" in refused.err
    assert refused.err.count("\n") == 1
    assert run("tag", "web", "x").code == run("gc").code == 7
    assert len(done("log", "web").lines) == 3
    assert done("cat", "web", "etc/motd").raw == b"welcome\n"
    done("export", "web", "-o", tmp_path / "image.tar.gz")
    done("checkout", "web", tmp_path / "out")


def test_a_full_disk(
    run: Run, done: Run, mount: Callable[..., None], web: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount(small, "-t", "tmpfs", "-o", "size=200k", "tmpfs")
    (web / "noise").write_bytes(os.urandom(1 << 20))
    done("commit", "web")

    archive = run("export", "web", "-o", small / "image.tar.gz")
    out = run("checkout", "web", small / "out")
    commit = run("--store", small / "store", "commit", "web", web)

    for ended in (archive, out, commit):
        assert (ended.code, ended.out) == (7, "")
        assert "No space left on device" in ended.err
        assert ended.err.endswith("; make room and run it again\n")
        assert ended.err.count("\n") == 1
    assert not (small / "image.tar.gz").exists()


def test_stdout_that_is_full(environment: dict[str, str], shared: Path) -> None:
    command = [sys.executable, "-m", "imgstore", "--store", shared.parent / "store", "ls", "web"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, env=environment, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )

    assert ended.returncode == 7
    assert ended.stderr == b"imgstore: No space left on device; make room and run it again\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["ls", "-r", "web"],
        ["ls", "-r", "web", "--json"],
        ["cat", "web", "usr/share/sparse"],
        ["export", "web", "-o", "-"],
    ],
)
def test_a_reader_that_has_seen_enough(
    process: Callable[..., Process], shared: Path, arguments: list[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    started = process("--store", shared.parent / "store", *arguments, stdout=writer)
    os.close(writer)

    ended = started.end()

    assert ended.err == ""
    assert ended.code == (0 if arguments == ["--help"] else 141)


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated")],
)
def test_signals_unwind(
    process: Callable[..., Process],
    done: Run,
    store: Path,
    tree: Path,
    number: signal.Signals,
    word: str,
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("ignored here, as under nohup, and so by what is started here")
    done("init")
    with (store / "local/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = process("commit", "web", tree)
        started.await_error("waiting for")

        ended = started.signal(number)

    assert ended.code == 130
    assert ended.err.splitlines()[1:] == [f"imgstore: {word}"]
    assert ended.out == ""


def test_an_ignored_signal_stays_ignored(
    process: Callable[..., Process], done: Run, store: Path, tree: Path
) -> None:
    done("init")
    with (store / "local/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            started = process("commit", "web", tree, restore_signals=False)
        finally:
            signal.signal(signal.SIGHUP, before)
        started.await_error("waiting for")
        started.popen.send_signal(signal.SIGHUP)
        fcntl.flock(lock, fcntl.LOCK_UN)

    assert started.end().code == 0


def test_a_locale_that_knows_few_letters(
    environment: dict[str, str], store: Path, tree: Path, done: Run
) -> None:
    (tree / "etc/日本").write_text("")
    done("commit", "web", tree)
    command = [
        sys.executable,
        "-X",
        "utf8=0",
        "-m",
        "imgstore",
        "--store",
        store,
        "ls",
        "web",
        "etc",
    ]
    plain = {**environment, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}

    ended = subprocess.run(command, env=plain, capture_output=True, check=False, timeout=60)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"etc/\\u65e5\\u672c\n" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--forget"], "say which directory is to forget"),
        (["--forget", "http://head:8730", "/srv/node"], "'imgstore trust --forget DIR'"),
        (["--first"], "say which store to believe"),
        (["http://head:8730"], "takes one of --key, --first and --forget"),
    ],
)
def test_trust_used_wrongly_tells_what_it_takes(
    run: Run, store: Path, arguments: list[str], said: str
) -> None:
    ended = run("trust", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_trust_shows_its_three_uses(run: Run) -> None:
    [uses] = run("trust", "--help").out.split("\n\n")[:1]

    assert [line.rpartition("[OPTION]... ")[2] for line in uses.splitlines()] == [
        "--key FILE|FINGERPRINT REMOTE [DIR]",
        "--first REMOTE [DIR]",
        "--forget DIR",
    ]

"""`checkout`, `pull` and `serve`: whole trees, locally and over HTTP."""

from __future__ import annotations

import re
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chunkstore.storage.backends.http import HttpReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Process, Run


def same(one: Path, other: Path) -> None:
    """Have `diff` compare content, and compare the metadata that it does not look at."""
    command = ["diff", "-r", "--no-dereference", "--exclude=.imgstore", one, other]
    subprocess.run(command, check=True, timeout=60)
    for path in sorted(one.rglob("*")):
        if ".imgstore" not in path.parts and path != one:
            mine, yours = path.lstat(), (other / path.relative_to(one)).lstat()
            assert stat.filemode(mine.st_mode) == stat.filemode(yours.st_mode), path
            assert mine.st_mtime_ns == yours.st_mtime_ns, path


@pytest.fixture
def url(process: Callable[..., Process], store: Path, web: Path) -> str:
    """The URL of a server of this test's store, on a port of its own choice."""
    server = process("--store", store, "serve", "--listen", "127.0.0.1:0")
    assert server.popen.stdout is not None
    line = server.popen.stdout.readline().decode()
    found = re.fullmatch(rf"serving {store} at (http://127\.0\.0\.1:\d+)\n", line)
    assert found, line
    return found[1]


def test_checkout(done: Run, shared: Path, tmp_path: Path) -> None:
    text = done("checkout", "web", tmp_path / "new/out")
    document = done("checkout", "web:base", tmp_path / "base", "--json").document

    same(shared, tmp_path / "new/out")
    assert re.fullmatch(
        rf"{tmp_path}/new/out is web [0-9a-f]{{12}}: 13 entries, 3.7 MB\n", text.out
    )
    assert document["entries"] == 13
    assert document["shortfalls"] == []
    assert (tmp_path / "base/etc/link").is_symlink()


def test_checkout_needs_an_empty_directory(run: Run, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")

    ended = run("checkout", "web", tmp_path / "out")

    assert (ended.code, ended.out) == (7, "")
    assert "mine" in ended.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_checkout_names_what_could_not_be_set(
    run: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)

    text = run("checkout", "web", tmp_path / "one")
    document = run("checkout", "web", tmp_path / "two", "--json")

    assert text.code == document.code == 0
    assert text.err.count("\n") == 1
    assert "owners could not be set on " in text.err
    [shortfall] = document.document["shortfalls"]
    assert shortfall["kind"] == "owners"
    assert shortfall["count"] > 5
    assert shortfall["reason"] == "Operation not permitted"


def test_pull_over_http_and_again(done: Run, url: str, web: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"

    first = done("pull", f"{url}/web~1", node)
    update = done("pull", f"{url}/web", node, "--json").document
    nothing = done("pull", node)

    assert re.match(rf"{node} is web [0-9a-f]{{12}}: 13 entries; needed \d+ chunks \(", first.out)
    assert re.search(r" received in \d+ requests\n$", first.out)
    assert (update["changed"], update["first"]) == (True, False)
    assert update["remote"] == url
    assert update["fetched"]["bytes"] < 10_000
    assert update["received_bytes"] > 0
    assert update["requests"] > 0
    for part in ("needed", "found", "fetched"):
        assert min(update[part].values()) >= 0
    assert update["needed"]["chunks"] == update["found"]["chunks"] + update["fetched"]["chunks"]
    assert re.match(rf"{node} is web [0-9a-f]{{12}} already; ", nothing.out)
    same(web, node)


def test_pull_goes_on_with_what_the_directory_remembers(
    done: Run, url: str, web: Path, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    done("pull", f"{url}/web", node)
    (web / "etc/motd").write_text("third\n")
    done("commit", "web")

    done("pull", node)

    assert (node / "etc/motd").read_text() == "third\n"
    same(web, node)


def test_pull_from_a_path(
    done: Run, store: Path, web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done("pull", "store/web:base", "node")
    monkeypatch.chdir("/")
    document = done("pull", tmp_path / "node", "--json").document

    assert document["remote"] == str(store)
    assert document["changed"] is False
    assert (tmp_path / "node/etc/link").is_symlink()


@pytest.mark.parametrize(
    ("remote", "code"),
    [
        ("STORE/nope", 3),
        ("STORE/web:nope", 3),
        ("STORE/", 2),
        ("STORE/../web", 3),
        ("web", 2),
        ("http://127.0.0.1:8730", 2),
        ("gopher://host/web", 2),
        ("/no/such/store/web", 3),
    ],
)
def test_pull_refusals(run: Run, shared: Path, tmp_path: Path, remote: str, code: int) -> None:
    ended = run("pull", remote.replace("STORE", str(shared.parent / "store")), tmp_path / "node")

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1


def test_pull_from_nobody_is_a_failed_transfer(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It asks again a few times; nobody has to wait for that here.
    monkeypatch.setitem(HttpReader.__init__.__kwdefaults__, "sleep", lambda _: None)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    ended = run("pull", f"http://127.0.0.1:{port}/web", tmp_path / "node")

    assert (ended.code, ended.out) == (6, "")
    assert f"nothing listens at 127.0.0.1:{port} " in ended.err
    assert "check that the server runs there" in ended.err
    assert ended.err.count("\n") == 1


def test_pull_tells_when_it_is_the_proxy_that_is_not_there(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HttpReader.__init__.__kwdefaults__, "sleep", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        proxy = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("http_proxy", f"http://{proxy}")
    monkeypatch.delenv("no_proxy", raising=False)

    ended = run("pull", "http://head.example:8730/web", tmp_path / "node")

    assert ended.code == 6
    assert f"http://head.example:8730/roots/1: nothing listens at proxy {proxy} " in ended.err
    assert ended.err.endswith("; check the proxy, and $http_proxy and $https_proxy\n")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("web:nope", "no tag 'nope'; its tags are base, latest, v1; 'imgstore log web' on the re"),
        ("web:beef12", "no tag or version 'beef12'; its tags are base, latest, v1; 'imgstore log"),
        ("web~7", "does not go back that far; 'imgstore log web' on the remote's store lists"),
        ("nope", "; 'imgstore images' on the remote's store lists what there is"),
    ],
)
def test_pull_of_what_there_is_not_tells_what_there_is(
    run: Run, shared: Path, tmp_path: Path, spec: str, said: str
) -> None:
    ended = run("pull", f"{shared.parent}/store/{spec}", tmp_path / "node")

    assert ended.code == 3
    assert said in ended.err


def test_of_many_tags_the_first_are_told(run: Run, done: Run, web: Path) -> None:
    for number in range(9):
        done("tag", "web", f"many{number}")

    ended = run("show", "web:nope")

    assert "its tags are base, latest, many0, many1, many2, many3, many4, many5 and 4 more;" in (
        ended.err
    )


def test_pull_of_a_directory_that_was_never_pulled(run: Run, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")

    alone = run("pull", tmp_path / "mine")
    named = run("pull", f"{shared.parent}/store/web", tmp_path / "mine")

    assert alone.code == 2
    assert "REMOTE/SPEC" in alone.err
    assert named.code == 7
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_verify_of_a_pulled_directory(run: Run, done: Run, shared: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    done("pull", f"{shared.parent}/store/web", node)
    clean = done("verify", node)
    (node / "mine\n").write_text("mine")
    (node / "usr/share/data").write_text("other")
    (node / "etc/hosts").unlink()
    (node / "etc/motd").chmod(0o600)
    text, document = run("verify", node), run("verify", node, "--json")

    assert re.fullmatch(
        rf"{node} is web [0-9a-f]{{12}}: all 13 entries are as they should be\n", clean.out
    )
    assert (text.code, text.err) == (1, "")
    assert text.lines[:-1] == [
        *("m\t.", "m\tetc", "D\tetc/hosts", "m\tetc/motd", "?\tmine\\n", "M\tusr/share/data"),
    ]
    assert text.lines[-1].endswith(": 5 of 13 paths differ")
    assert document.code == 1
    assert document.document["sound"] is False
    assert document.document["unknown"] == ["mine\n"]
    assert document.document["counts"] == {"A": 0, "D": 1, "M": 1, "m": 3, "T": 0}
    assert document.document["changes"][-1] == {"letter": "M", "path": "usr/share/data"}


def test_verify_of_a_directory_that_was_never_pulled(run: Run, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        ended = run("verify", place)
        assert (ended.code, ended.out) == (3, "")
        assert ended.err.count("\n") == 1


def test_serve_where_this_machine_is_not(process: Callable[..., Process], shared: Path) -> None:
    """The seed, which would listen there as well, does not complain first."""
    store = shared.parent / "store"

    ended = process("--store", store, "serve", "--listen", "192.0.2.1:8730").end()

    assert (ended.code, ended.raw) == (7, b"")
    assert ended.err.startswith("imgstore: can't serve at 192.0.2.1:8730: Cannot assign requested")
    assert ended.err.endswith(
        "; name one of this machine ('ip address' lists them), or 0.0.0.0 for all\n"
    )
    assert ended.err.count("\n") == 1


def test_serve_at_a_port_that_is_taken(process: Callable[..., Process], shared: Path) -> None:
    store = shared.parent / "store"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = process("--store", store, "serve", "--listen", place).end()

    assert (ended.code, ended.raw) == (7, b"")
    assert ended.err.startswith(f"imgstore: can't serve at {place}: Address already in use; ")
    assert "'ss -ltnp'" in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_until_a_signal(
    process: Callable[..., Process], shared: Path, number: signal.Signals
) -> None:
    server = process("--store", shared.parent / "store", "serve", "--listen", "127.0.0.1:0")
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline().startswith(b"serving ")

    ended = server.signal(number)

    assert (ended.code, ended.err) == (0, "")


def test_serve_logs_requests_when_asked(
    process: Callable[..., Process], done: Run, shared: Path, tmp_path: Path
) -> None:
    store = shared.parent / "store"
    server = process("--store", store, "serve", "-v", "--json", "--listen", "127.0.0.1:0")
    assert server.popen.stdout is not None
    lines = [server.popen.stdout.readline() for _ in range(6)]
    url = re.search(rb"http://[^\"]+", b"".join(lines))
    assert url
    done("pull", f"{url[0].decode()}/web", tmp_path / "node")

    ended = server.signal(signal.SIGTERM)

    assert re.search(r" 127\.0\.0\.1 20[06] \d+ \d\.\d{3}s GET /images/web/ref\n", ended.err)


@pytest.mark.parametrize(
    "listen", ["8730", "127.0.0.1", "host:port", "::1:8730", "127.0.0.1:99999", "127.0.0.1:²"]
)
def test_serve_needs_an_address(run: Run, shared: Path, listen: str) -> None:
    assert run("serve", "--listen", listen).code == 2


def test_serve_at_a_taken_address(run: Run, shared: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run("serve", "--listen", address)

    assert (ended.code, ended.out) == (7, "")
    assert address in ended.err
    assert ended.err.count("\n") == 1


def test_serve_without_a_store(run: Run, store: Path) -> None:
    assert run("serve", "--listen", "127.0.0.1:0").code == 3


def test_serve_without_its_library(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("chunkstore.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    ended = run("serve")

    assert ended.code == 7
    assert "pip install 'imgstore[serve]'" in ended.err

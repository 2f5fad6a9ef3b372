"""The verbs of swarms, as a person uses them: serve, pull, swarm, seed."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from support.live import Ended, imgstore
from support.trees import assert_same

from chunkstore.swarm import fetch as fetching

PEERS = ("--peer-listen", "127.0.0.1", "--peer-port", "30000-39999")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    pytest.importorskip("libtorrent", reason="needs libtorrent: pip install imgstore[swarm]")
    chance = random.Random(9)
    (tmp_path / "image").mkdir()
    for number in range(30):
        (tmp_path / "image" / f"f{number}").write_bytes(chance.randbytes(200_000))
    place = tmp_path / "store"
    assert imgstore("--store", place, "-q", "commit", "web", tmp_path / "image").code == 0
    return place


@contextmanager
def served(store: Path, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "imgstore", "--store", str(store), "serve", *options, *PEERS]
    command += ["--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            said = b""
            while not said.endswith(b"}\n"):
                said += server.stdout.readline()
            yield json.loads(said)["urls"][0]
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture
def pulled(tmp_path: Path) -> Iterator[Callable[..., Ended]]:
    """Pull into a node by swarm; whoever gives on from it is ended after the test."""
    nodes: list[Path] = []

    def run(url: str, name: str, *options: str) -> Ended:
        nodes.append(tmp_path / name)
        ended = imgstore("pull", f"{url}/web", tmp_path / name, "--json", *options, *PEERS)
        assert ended.code == 0, ended.err
        assert_same(tmp_path / "image", tmp_path / name)
        return ended

    yield run
    for node in nodes:
        imgstore("seed", "--stop", node)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with much to do, a pull by swarm would rather turn to the server."""
    for name in ("NOBODY_SECONDS", "FIRST_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(fetching, name, 10 * getattr(fetching, name))


def cached(node: Path) -> list[Path]:
    return list((node / ".imgstore/swarm").glob("*.pack"))


@pytest.mark.usefixtures("_patient")
def test_a_node_gives_on_after_its_pull_and_is_stopped(
    store: Path, tmp_path: Path, pulled: Callable[..., Ended]
):
    with served(store, "--limit-upload", "8M") as url:
        first = pulled(url, "first", "--transport", "swarm").document
        assert first["swarm"]["packs"] == 1
        assert first["swarm"]["from_seed"] > 5_000_000
        assert first["received_bytes"] < 1_000_000
        assert cached(tmp_path / "first")
        for _ in range(100):
            rows = imgstore("swarm", url, "--json").document["packs"]
            if rows and rows[0]["seeds"] == 2:
                break
            time.sleep(0.1)
        assert (rows[0]["seeds"], rows[0]["leechers"]) == (2, 0)
        assert rows[0]["server_sent"] >= first["swarm"]["from_seed"]
        table = imgstore("swarm", url).lines
        assert table[0].split()[:3] == ["PACK", "SEEDS", "LEECHERS"]
        assert table[1].split()[:3] == [rows[0]["pack"][:12], "2", "0"]
        second = pulled(url, "second", "--transport", "swarm", "--no-seed").document
        assert second["swarm"]["from_peers"] > 0
        assert not cached(tmp_path / "second")
        stopped = imgstore("seed", "--stop", tmp_path / "first", "--json").document
        assert stopped["stopped"] is True
        assert not cached(tmp_path / "first")
        assert imgstore("seed", "--stop", tmp_path / "first", "--json").document["stopped"] is False
        assert imgstore("swarm", url).err == f"imgstore: nobody is in a swarm of {url}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.usefixtures("_patient")
def test_who_goes_on_giving_has_no_powers(
    store: Path, tmp_path: Path, pulled: Callable[..., Ended]
):
    """Below a directory that root can't pass without them. It gives and is stopped as ever."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 12_345, 12_345)
    node = theirs / "node"
    with served(store, "--limit-upload", "8M") as url:
        pulled(url, "theirs/node", "--transport", "swarm")
        threads: list[Path] = []
        for _ in range(300):
            # Until it has taken the cache over, this is the process that pulled.
            giver = int((node / ".imgstore/swarm/lock").read_text() or os.getpid())
            if giver != os.getpid():
                threads = list(Path(f"/proc/{giver}/task").iterdir())
            if len(threads) > 2:
                break
            time.sleep(0.1)
        assert len(threads) > 2
        for thread in threads:
            lines = (thread / "status").read_text().splitlines()
            said = dict(line.split(":\t", 1) for line in lines)
            kinds = [said[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
            assert set(kinds) == {"0" * 16}, thread.name
            assert said["NoNewPrivs"] == "1"
        second = pulled(url, "second", "--transport", "swarm", "--no-seed").document
        assert second["swarm"]["from_peers"] > 0
        assert imgstore("seed", "--stop", node, "--json").document["stopped"] is True
        assert not cached(node)


@pytest.mark.usefixtures("_patient")
def test_a_store_with_a_token_has_a_tracker_with_the_same(
    store: Path, tmp_path: Path, pulled: Callable[..., Ended]
):
    token = tmp_path / "token"
    token.write_text("open-sesame\n")
    with served(store, "--token-file", str(token)) as url:
        found = pulled(
            *(url, "node", "--transport", "swarm", "--token-file", str(token)),
        ).document
        assert found["swarm"]["from_seed"] > 5_000_000
        for place in ("announce", "scrape", "swarm"):
            with pytest.raises(HTTPError) as caught:
                urlopen(f"{url}/{place}")
            assert caught.value.code == 401
            caught.value.close()


def on_terminal(columns: int, *arguments: object) -> tuple[str, str]:
    """Run it with its stderr on a terminal; what it printed there, and its result."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    shown = bytearray()

    def watch() -> None:
        with suppress(OSError):  # how the end of a terminal is told
            while data := os.read(master, 1 << 16):
                shown.extend(data)

    reader = threading.Thread(target=watch)
    with subprocess.Popen(
        [sys.executable, "-m", "imgstore", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=slave,
    ) as program:
        reader.start()
        os.close(slave)
        assert program.stdout is not None
        result = program.stdout.read().decode()
    reader.join()
    os.close(master)
    assert program.returncode == 0, shown
    return shown.decode(), result


def test_progress_tells_where_bytes_come_from(
    store: Path, tmp_path: Path, pulled: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
):
    """An update of which another node gives something, the server something, and this node too."""
    monkeypatch.chdir(tmp_path)
    image, node = tmp_path / "image", tmp_path / "node"
    with served(store, "--limit-upload", "8M") as url:
        pulled(url, "node", "--transport", "http")
        chance = random.Random(10)
        for number in range(20):
            (image / f"g{number}").write_bytes(chance.randbytes(200_000))
            (image / f"h{number}").write_bytes((image / f"f{number}").read_bytes())
        assert imgstore("--store", store, "-q", "commit", "web").code == 0
        pulled(url, "first", "--transport", "swarm")
        options = ("--transport", "swarm", "--limit-rate", "2M", "--no-seed", *PEERS)
        shown, result = on_terminal(80, "pull", *options, "node")
    assert_same(image, node)
    last = [line for line in shown.split("\r") if "from peers" in line][-1]
    assert "4.0 MB here" in last
    assert re.search(r"found [0-9]+ here \(4\.0 MB\)", result)
    assert 0 < amount(last, "from peers") <= amount(result, "from peers")
    # With what the server sent by HTTP.
    assert 0 < amount(last, "from server") <= amount(result, "from the server's seed") + 0.1


def amount(text: str, what: str) -> float:
    """How many megabytes a line tells of."""
    found = re.search(rf"([0-9.]+) (KB|MB) {what}", text)
    assert found is not None, text
    return float(found[1]) / (1 if found[2] == "MB" else 1000)


def test_remarks_are_for_those_who_ask(store: Path, tmp_path: Path, pulled: Callable[..., Ended]):
    with served(store, "--no-seed") as url:
        quiet = pulled(url, "quiet", "--transport", "swarm")
        assert quiet.err == ""
        loud = pulled(url, "loud", "--transport", "swarm", "-v")
        assert "nobody has it; from the server" in loud.err
        assert loud.document["swarm"]["from_peers"] == 0
        assert pulled(url, "plain", "--transport", "http", "-v").err == ""


def test_without_libtorrent_everything_goes_over_http(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pulled: Callable[..., Ended]
):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "libtorrent.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    with served(store) as url:
        ended = pulled(url, "node", "-v")
        assert "imgstore[swarm]" in ended.err
        assert ended.document["swarm"]["packs"] == 0


def test_a_service_waits_for_a_cache_that_is_in_use(
    store: Path, tmp_path: Path, pulled: Callable[..., Ended]
):
    """`seed DIR` gives until a signal, and a pull in between takes its place."""
    node = tmp_path / "node"
    with served(store) as url:
        pulled(url, "node", "--transport", "swarm")
        command = [sys.executable, "-m", "imgstore", "seed", str(node), "--json", *PEERS]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as waiting:
            try:
                assert waiting.stdout is not None
                os.set_blocking(waiting.stdout.fileno(), False)
                time.sleep(0.5)
                assert waiting.stdout.read() is None  # what the pull left behind is giving
                os.set_blocking(waiting.stdout.fileno(), True)
                assert imgstore("seed", "--stop", node).code == 0
                ready = b""
                while not ready.endswith(b"}\n"):
                    ready += waiting.stdout.readline()
                assert json.loads(ready)["directory"] == str(node)
                waiting.terminate()
                assert waiting.wait(20) == 0
            finally:
                waiting.kill()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("swarm", "somewhere"), 2),
        (("swarm", "http://127.0.0.1:9"), 6),
        (("seed", "nothing-here"), 3),
        (("seed", "--stop", "nothing-here"), 3),
        (("pull", "http://127.0.0.1:9/web", "x", "--peer-port", "9-1"), 2),
        (("pull", "http://127.0.0.1:9/web", "x", "--peer-net", "10.0.0.1/8"), 2),
        (("pull", "http://127.0.0.1:9/web", "x", "--peer-listen", "host"), 2),
        (("pull", "http://127.0.0.1:9/web", "x", "--seed-ratio", "0"), 2),
        (("pull", "http://127.0.0.1:9/web", "x", "--seed-time", "1d"), 2),
        (("pull", "http://127.0.0.1:9/web", "x", "--cache-size", "big"), 2),
        (("pull", "http://127.0.0.1:9/web", "x", "--transport", "ftp"), 2),
    ],
)
def test_what_makes_no_sense(
    arguments: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    ended = imgstore(*arguments)
    assert ended.code == code
    assert ended.err.startswith("imgstore: ") or "usage" in ended.err

"""The command line itself: help, options in any place, what is loaded, which store is meant."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from imgstore import __version__
from imgstore.app import module_of
from imgstore.parser import build, parse, verbs
from imgstore.stores import store_path

from chunkstore.errors import Usage

if TYPE_CHECKING:
    from tests.cli.conftest import Process, Run

VERBS = list(verbs(build()))
HEAVY = {
    *("aiohttp", "asyncio", "blake3", "concurrent", "ctypes", "fastcdc", "http", "isal", "json"),
    *("lz4", "msgpack", "shtab", "socket", "sqlite3", "tqdm", "zstandard"),
}
SHOW_MODULES = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from imgstore.app import main, module_of
sys.exit(main(sys.argv[1:]))
"""


def loaded(environment: dict[str, str], *arguments: str) -> set[str]:
    """The modules a process has loaded by its end."""
    command = [sys.executable, "-c", SHOW_MODULES, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    return set(ended.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["pull", "--help"]])
def test_help_loads_nothing_heavy(environment: dict[str, str], arguments: list[str]) -> None:
    modules = loaded(environment, *arguments)

    assert {module.partition(".")[0] for module in modules} & HEAVY == set()
    assert not any(module.startswith("imgstore.commands.") for module in modules)


def test_a_quick_verb_loads_no_server_no_bar_and_no_other_verb(
    environment: dict[str, str], store: Path, web: Path
) -> None:
    modules = loaded({**environment, "IMGSTORE_STORE": str(store)}, "images")

    assert {module.partition(".")[0] for module in modules} & {"aiohttp", "tqdm", "shtab"} == set()
    assert [module for module in modules if module.startswith("imgstore.commands.")] == [
        "imgstore.commands.images"
    ]


def test_a_commit_of_nothing_loads_only_what_looks(
    environment: dict[str, str], done: Run, store: Path, web: Path
) -> None:
    """Half of its time would go into what it has no use for."""
    done("commit", "web", web)
    time.sleep(0.1)  # until the files are older than what could change unseen
    done("commit", "web", web)
    modules = loaded({**environment, "IMGSTORE_STORE": str(store)}, "commit", "web", str(web))

    assert "chunkstore.worktree.scan" in modules
    assert {module.partition(".")[0] for module in modules} & {
        *("concurrent", "cryptography", "dataclasses", "fastcdc", "hashlib", "inspect", "isal"),
        *("logging", "lz4", "platform", "shutil", "sqlite3", "subprocess", "tempfile"),
        *("tqdm", "urllib", "zstandard"),
    } == set()
    assert {
        *("chunkstore.commit.recording", "chunkstore.storage.writer", "chunkstore.storage.chunks"),
        *("chunkstore.worktree.capture", "chunkstore.objects.delta"),
    }.isdisjoint(modules)


def test_a_pull_of_nothing_loads_only_what_asks(
    environment: dict[str, str],
    run: Run,
    process: Callable[..., Process],
    store: Path,
    web: Path,
    tmp_path: Path,
) -> None:
    """Nodes ask every few minutes and mostly find nothing: that is all they pay for."""
    server = process("--store", store, "serve", "--listen", "127.0.0.1:0")
    assert server.popen.stdout is not None
    url = server.popen.stdout.readline().decode().split()[-1].rstrip("/")
    node = str(tmp_path / "node")
    assert run("pull", "--no-seed", f"{url}/web", node).code == 0
    modules = loaded(environment, "pull", node)

    assert "chunkstore.storage.backends.http" in modules
    assert {module.partition(".")[0] for module in modules} & {
        *("concurrent", "cryptography", "dataclasses", "fastcdc", "hashlib", "inspect"),
        *("libtorrent", "logging", "lz4", "shutil", "subprocess", "tempfile", "tqdm", "zstandard"),
    } == set()
    ours = {module for module in modules if module.startswith("chunkstore.")}
    assert {module for module in ours if module.startswith("chunkstore.pull.")} == {
        f"chunkstore.pull.{name}" for name in ("context", "crowd", "recovery", "remote", "report")
    }
    assert {module for module in ours if module.startswith("chunkstore.swarm.")} == {
        "chunkstore.swarm.reader",
        "chunkstore.swarm.settings",
    }
    assert (
        ours
        & {
            *("chunkstore.commit", "chunkstore.objects.delta", "chunkstore.objects.torrent"),
            *(
                "chunkstore.storage.catalog",
                "chunkstore.storage.chunks",
                "chunkstore.storage.stage",
            ),
            *("chunkstore.storage.store", "chunkstore.storage.backends.local"),
            *(
                "chunkstore.worktree.apply",
                "chunkstore.worktree.aside",
                "chunkstore.worktree.baseline",
            ),
            *(
                "chunkstore.worktree.hooks",
                "chunkstore.worktree.planner",
                "chunkstore.worktree.swap",
            ),
        }
        == set()
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_line_makes_the_parser_of_its_verb_alone(verb: str) -> None:
    alone, whole = verbs(build(verb)), verbs(build())

    assert list(alone) == list(whole)
    assert alone[verb].format_help() == whole[verb].format_help()
    assert [name for name in alone if vars(alone[name])] == [verb]


def test_help_is_the_same_whatever_verb_is_meant() -> None:
    assert build("").format_help() == build("log").format_help() == build().format_help()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(run: Run, verb: str) -> None:
    ended = run(verb, "--help")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"usage: imgstore {verb} ")
    assert f"examples:\n  imgstore {verb}" in ended.out.replace("--store /srv/imgstore ", "")
    assert "--store STORE" in ended.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_module(verb: str) -> None:
    module = importlib.import_module(module_of(verb))

    assert callable(module.run)
    assert f"`imgstore {verb}`" in module.__doc__


def test_help_names_every_verb_and_exit_code(run: Run) -> None:
    out = run("--help").out

    assert all(f"\n    {verb} " in out for verb in VERBS)
    assert "130  interrupted" in out


def test_version(run: Run) -> None:
    assert run("--version").out == f"imgstore {__version__}\n"


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("imgstore")
    except PackageNotFoundError:
        pytest.skip("imgstore is not installed, it runs from its sources")
    assert installed == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["--store", "S", "--json", "-v", "log", "web"],
        ["log", "--store", "S", "--json", "-v", "web"],
        ["log", "web", "--store=S", "--json", "--verbose"],
        ["--json", "log", "--store", "S", "web", "-v"],
        ["--store", "other", "-v", "log", "web", "--json", "--store", "S"],
    ],
)
def test_options_of_every_verb_stand_anywhere(arguments: list[str]) -> None:
    options = parse(arguments)

    assert (options.store, options.json, options.quiet, options.verbose) == ("S", True, False, 1)
    assert (options.verb, options.spec) == ("log", "web")


def test_verbosity_adds_up_from_both_places() -> None:
    assert parse(["-v", "log", "web", "-v"]).verbose == 2
    assert parse(["-vv", "log", "web"]).verbose == 2
    assert parse(["log", "-vv", "web"]).verbose == 2
    assert parse(["log", "web"]).verbose == 0


def test_options_and_names_mix() -> None:
    options = parse(["commit", "web", "-m", "text", "-t", "a", "DIR", "-t", "b"])

    assert (options.image, options.directory) == ("web", "DIR")
    assert (options.message, options.tag) == ("text", ["a", "b"])
    assert parse(["commit", "-m", "text", "web"]).directory is None
    assert parse(["commit", "web", "DIR", "-m", "text"]).directory == "DIR"


def test_pull_with_one_name_means_the_directory() -> None:
    alone, both = parse(["pull", "DIR"]), parse(["pull", "R/web", "-q", "DIR"])

    assert (alone.remote, alone.directory) == (None, "DIR")
    assert (both.remote, both.directory) == ("R/web", "DIR")


def test_names_with_a_dash_follow_the_marker() -> None:
    assert parse(["cat", "web", "--", "-x"]).path == "./-x"
    assert parse(["cat", "--", "web", "-x"]).path == "./-x"
    assert parse(["commit", "web", "-m", "text", "--", "-dir"]).directory == "./-dir"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "VERB"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["commit"], "IMAGE"),
        (["diff", "web"], "NEW"),
        (["ls", "web", "a", "b"], "unrecognized arguments: b"),
        (["log", "web", "-n", "0"], "invalid number value: '0'"),
        (["gc", "--grace", "-1"], "--grace"),
        (["log", "web", "--nosuch"], "unrecognized arguments: --nosuch"),
        (["--jso", "images"], "--jso"),
        (["export", "web"], "-o"),
        (["export", "web", "-o", "f", "--format", "zip"], "invalid choice: 'zip'"),
        (["-q", "images", "-v"], "contradict"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)
def test_a_wrong_command_line_is_one_line(run: Run, arguments: list[str], said: str) -> None:
    ended = run(*arguments)

    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.startswith("imgstore: ")
    assert ended.err.endswith("--help'\n")
    assert ended.err.count("\n") == 1


def test_store_is_the_option_then_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSTORE_STORE", "/from/variable")

    assert store_path(Namespace(store="/from/option")) == "/from/option"
    assert store_path(Namespace(store=None)) == "/from/variable"


@pytest.mark.parametrize("unset", [None, ""])
def test_store_of_root_and_of_others(monkeypatch: pytest.MonkeyPatch, unset: str | None) -> None:
    nothing = Namespace(store=None)
    if unset is None:
        monkeypatch.delenv("IMGSTORE_STORE", raising=False)
    else:
        monkeypatch.setenv("IMGSTORE_STORE", unset)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert store_path(nothing) == "/var/lib/imgstore"

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert store_path(nothing) == "/home/anna/.local/share/imgstore"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert store_path(nothing) == "/data/imgstore"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert store_path(nothing) == "/home/anna/.local/share/imgstore"


def test_store_has_to_be_a_directory_here() -> None:
    for wrong in ("", "http://head:8730"):
        with pytest.raises(Usage):
            store_path(Namespace(store=wrong))


def test_store_option_wins_over_the_variable_in_a_verb(
    run: Run, done: Run, store: Path, tmp_path: Path
) -> None:
    done("init", "--store", tmp_path / "other")

    assert (tmp_path / "other/store.json").exists()
    assert not store.exists()
    assert run("images").code == 3

"""`docs/cli.md`: its tour is run, and its tables are held against the parser and the documents."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from imgstore.parser import build, verbs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run

DOCS = Path(__file__).parents[2] / "docs/cli.md"
TEXT = DOCS.read_text()


def tour() -> Iterator[tuple[str, str]]:
    """Each command of the tour and what is printed below it."""
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL):
        for step in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, output = step.partition("\n")
            yield command, output


def alike(text: str) -> str:
    """Text without what differs from run to run: ids, times, places and stored sizes."""
    text = re.sub(r"\b([0-9a-f]{12}|[0-9a-f]{64})\b", "ID", text)
    text = re.sub(r"20\d\d-\d\d-\d\dT[\d:]+[+-]\d\d:\d\d", "TIME", text)
    text = re.sub(r"/\S*/store\b", "STORE", text)
    text = re.sub(r"\b\d+\.\d%", "PERCENT", text)
    return re.sub(r"[\d.]+ ([KMG]B|bytes?)|[\d,]+ requests?", "SIZE", text)


def test_the_tour(environment: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "bin/imgstore"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m imgstore "$@"\n')
    program.chmod(0o755)
    place = tmp_path / "tour"
    place.mkdir()
    surroundings = {
        **environment,
        "PATH": f"{program.parent}:{environment['PATH']}",
        "IMGSTORE_STORE": str(place / "store"),
    }
    for command, expected in tour():
        ended = subprocess.run(
            ["sh", "-c", command],
            cwd=place,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )
        printed = ended.stdout.decode()
        if "imgstore: " not in expected:
            # A note about what happened is not part of the tour.
            printed = re.sub(r"(?m)^imgstore: no tag reaches .*\n", "", printed)
        assert alike(printed) == alike(expected), command


@pytest.mark.parametrize("verb", list(verbs(build())))
def test_every_verb_and_option_is_in_the_tables(verb: str) -> None:
    row = " ".join(
        line
        for line in TEXT.splitlines()
        if re.match(rf"\| `{verb}\b", line) and "`new_" not in line and line.count(" | ") == 1
    )
    shared = {"--store", "--json", "-q", "--quiet", "-v", "--verbose", "-h", "--help"}
    for action in verbs(build())[verb]._actions:
        names = set(action.option_strings) - shared
        if names and action.help != argparse.SUPPRESS:
            assert any(f"{name}" in row for name in names), names


def documented(verb: str) -> set[str]:
    """The names in the row about a verb's document."""
    [row] = re.findall(rf"(?m)^\| `{verb}` \| (`.*) \|$", TEXT)
    return set(re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("images", []),
        ("log", ["web"]),
        ("show", ["web"]),
        ("diff", ["web~1", "web"]),
        ("status", ["web"]),
        ("verify", []),
        ("gc", ["--dry-run"]),
        ("verify DIR", ["PULLED"]),
        ("checkout", ["web", "OUT"]),
        ("export", ["web", "-o", "OUT"]),
        ("publish", ["-q", "web", "OUT"]),
        ("rebase", ["web"]),
        ("pull", ["STORE/web", "OUT"]),
        ("commit", ["web"]),
        ("import", ["web", "ARCHIVE"]),
        ("refresh", []),
        ("key list", ["list"]),
        ("key export", ["export", "document", "-o", "OUT"]),
        ("key rotate", ["rotate", "online"]),
        ("key generate", ["generate", "OUT"]),
        ("trust", ["--first", "STORE", "OUT"]),
        ("tag", ["web", "base"]),
    ],
)
def test_every_member_is_documented(
    done: Run, web: Path, tmp_path: Path, verb: str, arguments: list[str]
) -> None:
    store = str(tmp_path / "store")
    places = {"OUT": str(tmp_path / "out"), "STORE/web": f"{store}/web", "STORE": store}
    if "PULLED" in arguments:
        done("pull", tmp_path / "store/web", tmp_path / "node")
        places["PULLED"] = str(tmp_path / "node")
    if "ARCHIVE" in arguments:
        done("export", "web", "-o", tmp_path / "image.tar")
        places["ARCHIVE"] = str(tmp_path / "image.tar")
    given = [places.get(argument, argument) for argument in arguments]

    document = done(verb.partition(" ")[0], *given, "--json").document

    assert set(document) <= documented(verb)
    if verb == "log":
        assert set(document["versions"][0]) <= documented("show")

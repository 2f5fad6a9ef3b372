"""`docs/security.md`: the tests it names are there, and its commands are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from imgstore.parser import parse

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs/security.md").read_text()


def rows() -> list[str]:
    table = TEXT.split("## Who can do what")[1].split("## Keys")[0]
    return [line for line in table.splitlines() if line.startswith("|")][2:]


def test_every_row_names_a_test_that_is_there() -> None:
    assert len(rows()) > 15
    for row in rows():
        shown = row.split("|")[4]
        named = re.findall(r"`([\w/]+/test_\w+\.py)`", shown)
        assert named or "not a matter of code" in shown, row
        for name in named:
            assert (PROJECT / "tests" / name).is_file(), name


def commands() -> list[str]:
    """The lines of its examples, less what explains them, and what is quoted in its text."""
    lines = re.findall(r"(?m)^    (imgstore .*?)(?:  .*)?$", TEXT)
    return [*lines, *re.findall(r"`(imgstore [^`]*)`", TEXT)]


def test_there_are_commands() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_its_commands_are_understood(command: str) -> None:
    words = shlex.split(command)[1:]
    if words in (["log"], ["trust", "--forget"]):
        words += ["x"]  # named without what they are about
    parse(words)

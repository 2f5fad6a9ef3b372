"""What the parts of a line look like, when progress is shown, and what shells are given."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from imgstore.output import Output, one_line, utc
from imgstore.readable import counted, human, local_time, table

from chunkstore.progress import Unwatched

if TYPE_CHECKING:
    from tests.cli.conftest import Run

SECOND = 1_000_000_000
SHOW_PROGRESS = """
import sys
import imgstore.progress as progress
from imgstore.output import Output
progress._PATIENCE = progress._REDRAW = -1
with Output().progress("commit web") as bar:
    if "total" in sys.argv:
        bar.expect(files=3, size=4_000_000)
    bar.advance(files=1, size=900_000)
    bar.advance(size=100_000)
with Output(quiet=True).progress("quiet") as bar:
    bar.advance(size=1)
"""


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (1234, "1.2 KB"),
        (99_949, "99.9 KB"),
        (99_950, "100 KB"),
        (410_400, "410 KB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (2**63, "9.2 EB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text


def test_numbers_of_things() -> None:
    assert [counted(n, "path") for n in (0, 1, 2, 12345)] == [
        *("0 paths", "1 path", "2 paths", "12,345 paths"),
    ]


def test_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert utc(0) == "1970-01-01T00:00:00.000000000Z"
    assert utc(-1) == "1969-12-31T23:59:59.999999999Z"
    assert utc(-(2**63)) == "1677-09-21T00:12:43.145224192Z"
    assert utc(2**64 - 1) == "2554-07-21T23:34:33.709551615Z"
    monkeypatch.setenv("TZ", "IST-5:30")
    import time

    time.tzset()
    try:
        assert local_time(0) == "1970-01-01T05:30:00+05:30"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_line_is_a_line() -> None:
    assert one_line("plain \\ text ü") == "plain \\ text ü"
    assert one_line("a\nb\tc\x1b\x7f\u2028") == "a\\nb\\tc\\x1b\\x7f\\xe2\\x80\\xa8"


def test_tables() -> None:
    assert table([]) == []
    assert table([("A", "B"), ("xyz", "1"), ("x", "22")], right=(1,)) == [
        *("A     B", "xyz   1", "x    22"),
    ]


def test_long_documents_are_documents(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (0, 1, 3):
        items = [{"path": f"\udcff{number}"} for number in range(count)]
        Output(as_json=True).long_document({"a": {"b": [1]}}, "items", iter(items))
        text = capsys.readouterr().out
        assert json.loads(text) == {"a": {"b": [1]}, "items": items}
        assert text.isascii()
        assert text.endswith("}\n")


def test_no_progress_without_a_terminal() -> None:
    with Output().progress("title") as progress:
        assert isinstance(progress, Unwatched)


@pytest.mark.parametrize("arguments", [[], ["total"]])
def test_progress_on_a_terminal(environment: dict[str, str], arguments: list[str]) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-c", SHOW_PROGRESS, *arguments]
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=slave, check=True, timeout=60
    )
    shown = os.read(master, 1 << 16).decode()
    os.close(slave)
    os.close(master)

    assert ended.stdout == b""
    assert "commit web: " in shown
    assert "B/s" in shown
    assert "quiet" not in shown
    if arguments:
        assert "commit web: 25%, " in shown
        assert "1.0 MB of 4.0 MB, 1 of 3 files, " in shown
        assert " left" in shown
    else:
        assert "commit web: 1.0 MB, 1 file," in shown


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_verbs_and_options(done: Run, shell: str) -> None:
    script = done("completion", shell).out

    for word in ("commit", "--exclude-from", "--store", "checkout"):
        assert word in script


def complete(done: Run, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(words)
    ask = (
        f"COMP_WORDS=({' '.join(word or repr('') for word in words)}); COMP_CWORD={len(words) - 1};"
        f"COMP_LINE={line!r}; COMP_POINT={len(line)};"
        "_shtab_imgstore imgstore; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    script = done("completion", "bash").out + ask
    ended = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, check=False, timeout=60, text=True
    )
    assert ended.stderr == ""
    return ended.stdout.split()


def test_bash_completes(done: Run, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    os.mkdir("directory")
    with open("document", "w"):
        pass

    assert complete(done, "imgstore", "che") == ["checkout"]
    assert complete(done, "imgstore", "diff", "--st") == ["--store", "--stat"]
    assert complete(done, "imgstore", "completion", "b") == ["bash"]
    assert complete(done, "imgstore", "verify", "d") == ["directory"]
    assert complete(done, "imgstore", "commit", "--exclude-from", "do") == ["document"]

"""`verify` and `gc` of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def packs(store: Path) -> set[str]:
    """The packs that are there."""
    return {path.name for path in (store / "packs").glob("*.pack")}


def test_verify_of_a_sound_store(done: Run, shared: Path) -> None:
    text = done("verify")
    document = done("verify", "--json").document

    assert text.out.startswith(f"{shared.parent}/store is sound: 2 packs with ")
    assert text.out.endswith(", 2 versions\n")
    assert done("verify", "-q").out == ""
    assert document["sound"] is True
    assert (document["packs"], document["versions"]) == (2, 2)
    assert document["problems"] == document["notes"] == []


def test_verify_names_what_a_flipped_bit_affects(run: Run, store: Path, web: Path) -> None:
    pack = max((store / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    flip(pack, pack.stat().st_size // 3)

    text, document = run("verify"), run("verify", "--json")

    assert text.code == document.code == 1
    assert text.err == document.err == ""
    assert f"packs/{pack.name}: " in text.out
    assert "    affects web:" in text.out
    assert text.lines[-1].startswith("1 problem in 2 packs with ")
    [problem] = document.document["problems"]
    assert problem["name"] == f"packs/{pack.name}"
    assert problem["affected_count"] >= len(problem["affected"]) > 0
    assert document.document["sound"] is False


def test_verify_caps_the_paths_it_names(run: Run, store: Path, web: Path) -> None:
    for pack in (store / "packs").iterdir():
        pack.unlink()

    few, all_of_them = run("verify"), run("verify", "-v")

    assert few.code == all_of_them.code == 1
    assert len(few.lines) <= len(all_of_them.lines)


def test_verify_of_a_missing_store(run: Run, store: Path) -> None:
    assert run("verify").code == 3


def test_gc_with_nothing_to_do(done: Run, web: Path) -> None:
    ended = done("gc")

    assert ended.out == (
        "dropped 0 versions of 2, given up 0 packs, repacked 0 into 0; freed 0 bytes\n"
    )
    assert done("-q", "gc").out == ""


def test_gc_drops_what_no_tag_reaches(run: Run, done: Run, store: Path, web: Path) -> None:
    before = packs(store)
    run("rm", "web:latest")

    said = done("gc", "--grace", "0", "--dry-run", "--json").document
    untouched = packs(store)
    did = done("gc", "--grace", "0", "--json").document

    assert untouched == before
    assert said["dry_run"] is True
    assert did["dry_run"] is False
    assert said["versions_dropped"] == did["versions_dropped"] == 1
    assert did["versions_kept"] == 1
    assert said["freed"] == did["freed"] > 0
    assert packs(store) < before
    assert done("verify").code == 0


def test_gc_keeps_what_it_gave_up_for_a_while(run: Run, done: Run, store: Path, web: Path) -> None:
    before = packs(store)
    run("rm", "web:latest")

    ended = done("gc")

    assert " more 24 h after they were given up\n" in ended.out
    assert packs(store) == before


def test_gc_of_history(done: Run, store: Path, web: Path) -> None:
    done("untag", "web", "v1")
    done("untag", "web", "base")
    kept = done("gc", "--grace", "0", "--json").document
    done("gc", "--keep", "1", "--grace", "0")

    assert kept["versions_dropped"] == 0
    assert len(done("log", "web").lines) == 2
    assert done("cat", "web", "etc/motd").raw == (web / "etc/motd").read_bytes()
    assert done("verify").code == 0


def test_gc_of_a_damaged_store_changes_nothing(run: Run, store: Path, web: Path) -> None:
    for path in (store / "packs").glob("*.pack"):
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
    before = packs(store)

    ended = run("gc", "--grace", "0")

    assert (ended.code, ended.out) == (4, "")
    assert ended.err.count("\n") == 1
    assert packs(store) == before


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["--keep", "x"], ["--grace", "soon"]])
def test_gc_refusals(run: Run, shared: Path, arguments: list[str]) -> None:
    assert run("gc", *arguments).code == 2

"""`tag`, `untag` and `rm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def tags(done: Run) -> dict[str, str]:
    """What each tag of `web` names, shortened."""
    [image] = done("images", "--json").document["images"]
    return {name: version[:12] for name, version in image["tags"].items()}


def test_tag_names_and_moves(done: Run, web: Path) -> None:
    before = tags(done)

    made = done("tag", "web~1", "prod")
    again = done("tag", "web:v1", "prod")
    moved = done("tag", "web", "prod", "--json")
    back = done("tag", "web:base", "prod")

    first, second = before["base"], before["latest"]
    assert made.out == f"web:prod is {first}\n"
    assert again.out == f"web:prod is {first} already\n"
    assert back.out == f"web:prod moved from {second} to {first}\n"
    assert moved.document["tag"] == "prod"
    assert moved.document["before"].startswith(first)
    assert moved.document["version"].startswith(second)
    assert tags(done) == {**before, "prod": first}


def test_tag_says_when_a_version_is_left_behind(run: Run, done: Run, web: Path) -> None:
    second = tags(done)["latest"]

    ended = run("tag", "web~1", "latest")

    assert ended.code == 0
    assert ended.err == f"imgstore: no tag reaches {second} now: 'imgstore gc' will drop it\n"
    assert tags(done)["latest"] == tags(done)["base"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tag", "nope", "x"], 3),
        (["tag", "web:nope", "x"], 3),
        (["tag", "web", "no good"], 2),
        (["tag", "web", "-x"], 2),
        (["untag", "web", "nope"], 3),
        (["untag", "nope", "v1"], 3),
        (["untag", "web", "latest"], 2),
        (["untag", "web:v1", "v1"], 2),
        (["rm", "nope"], 3),
        (["rm", "web:nope"], 3),
        (["rm", "web~5"], 3),
    ],
)
def test_refusals_change_nothing(run: Run, shared: Path, arguments: list[str], code: int) -> None:
    before = run("images", "--json").out

    ended = run(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1
    assert run("images", "--json").out == before


def test_untag(done: Run, web: Path) -> None:
    first = tags(done)["v1"]

    text = done("untag", "web", "v1")
    document = done("untag", "web", "base", "--json").document

    assert text.out == f"web:v1 is gone, it was {first}\n"
    assert document["version"].startswith(first)
    assert set(tags(done)) == {"latest"}


def test_rm_of_an_image(run: Run, done: Run, store: Path, web: Path) -> None:
    done("commit", "another", web)

    ended = done("rm", "web", "--json")

    assert ended.document["tags"] == ["base", "latest", "v1"]
    assert ended.document["version"] is None
    assert run("log", "web").code == 3
    assert [image["image"] for image in done("images", "--json").document["images"]] == ["another"]
    assert not (store / "images/web").exists()
    assert (store / "packs").exists()


def test_rm_of_the_latest_makes_its_parent_that(run: Run, done: Run, web: Path) -> None:
    before = tags(done)
    done("tag", "web", "prod")

    ended = run("rm", "web:prod")

    assert ended.code == 0
    assert ended.out == (
        f"web {before['latest']} is no longer latest, prod; the latest is {before['base']} now\n"
    )
    assert f"no tag reaches {before['latest']} now" in ended.err
    assert tags(done) == {**before, "latest": before["base"]}


def test_rm_of_a_tagged_version_in_history(done: Run, web: Path) -> None:
    before = tags(done)

    ended = done("rm", f"web:{before['v1']}")

    assert ended.out == (
        f"web {before['v1']} is no longer base, v1; it stays as history of later versions\n"
    )
    assert tags(done) == {"latest": before["latest"]}
    assert len(done("log", "web").lines) == 3


def test_rm_of_untagged_history_points_to_gc(run: Run, done: Run, web: Path) -> None:
    done("untag", "web", "v1")
    done("untag", "web", "base")

    ended = run("rm", "web~1")

    assert ended.code == 2
    assert "imgstore gc --keep" in ended.err


def test_rm_of_the_only_version_removes_the_image(run: Run, done: Run, tree: Path) -> None:
    done("commit", "web", tree)

    ended = done("rm", "web:latest")

    assert ended.out.endswith("is no longer base, latest; it had no parent, so web is gone\n")
    assert run("images").out == ""


def test_rm_of_the_first_version_while_a_later_one_is_tagged(
    run: Run, done: Run, web: Path
) -> None:
    done("tag", "web", "prod")
    done("tag", "web~1", "latest")
    before = tags(done)

    ended = run("rm", "web:latest")

    assert ended.code == 2
    assert "prod" in ended.err
    assert tags(done) == before


def test_quiet_names(done: Run, web: Path) -> None:
    for arguments in (["tag", "web", "x"], ["untag", "web", "x"], ["rm", "web:v1"], ["rm", "web"]):
        assert done("-q", *arguments).out == ""

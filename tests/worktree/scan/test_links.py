"""Hardlinks: the first path leads its group."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.scanner import Scanner
from support.stores import settle


def test_the_first_path_leads_its_group(tree: Path, scanner: Scanner) -> None:
    os.link(tree / "b/4", tree / "a/link")
    os.link(tree / "b/4", tree / "z")
    settle()
    assert {path: link for path, link in scanner().items() if link not in ("found",)} == {
        b"b/4": "a/link",
        b"z": "a/link",
    }
    assert scanner() == {}


def test_a_link_joined_and_broken(tree: Path, scanner: Scanner) -> None:
    scanner()
    os.link(tree / "b/4", tree / "c/joined")
    assert scanner() == {b"b/4": "found", b"c": "found", b"c/joined": "b/4"}
    settle()
    scanner()
    (tree / "b/4").unlink()
    assert scanner() == {b"b": "found", b"b/4": "gone", b"c/joined": "found"}
    settle()
    scanner()
    assert scanner() == {}


def test_a_new_leader_changes_all_of_the_group(tree: Path, scanner: Scanner) -> None:
    os.link(tree / "b/4", tree / "b/6")
    settle()
    scanner()
    os.link(tree / "b/4", tree / "a/0")
    assert scanner() == {
        b"a": "found",
        b"a/0": "found",
        b"b/4": "a/0",
        b"b/6": "a/0",
    }


def test_a_renamed_directory_with_links_in_it(tree: Path, scanner: Scanner) -> None:
    os.link(tree / "a/1", tree / "b/linked")
    os.link(tree / "a/deep/2", tree / "a/deep/er/linked")
    settle()
    scanner()
    os.rename(tree / "a", tree / "d")
    assert scanner() == {
        b"": "found",
        b"a": "gone",
        b"b/linked": "found",
        b"d": "found",
        b"d/1": "b/linked",
        b"d/deep": "found",
        b"d/deep/2": "found",
        b"d/deep/er": "found",
        b"d/deep/er/3": "found",
        b"d/deep/er/linked": "d/deep/2",
    }


def test_a_link_to_outside_is_a_file_of_its_own(place: Path, tree: Path, scanner: Scanner) -> None:
    os.link(tree / "top", place / "outside")
    settle()
    assert scanner()[b"top"] == "found"
    assert scanner() == {}
    (place / "outside").unlink()
    assert scanner() == {b"top": "found"}


def test_many_links_in_one_directory_take_no_square_of_time(place: Path, tree: Path) -> None:
    scanner = Scanner(tree, place / "cache")
    for number in range(10_000):
        os.link(tree / "top", tree / "c" / f"{number}")
    settle()
    scanner()
    began = time.process_time()
    assert scanner() == {}
    assert time.process_time() - began < 1.5

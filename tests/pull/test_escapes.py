"""Nothing outside the directory is written, whatever a manifest says: names, links, types.

Each hostile version meets a node in five states: new, installed, half installed, half updated, and
half updated with only `recover` to finish it. It is refused, and refused before anything changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from support import fuse, trees
from support.canary import Canary
from support.forge import Forge
from support.stores import bring

from chunkstore.errors import ChunkstoreError
from chunkstore.objects import entry as entries
from chunkstore.objects.entry import DEVICE, Entry
from chunkstore.pull import recover

PASSED = "installed"
"""Nothing is wrong with it: honest images hold such things."""
HARMLESS = "installed or refused"


def device(path: bytes, kind: int, major: int, minor: int) -> Entry:
    return Entry(path, kind, 0o666, 0, 0, 10**18, 0, DEVICE.pack(major, minor))


class Case(NamedTuple):
    items: list[Entry]
    outcome: str = ""


def bad_names(forge: Forge) -> dict[str, Case]:
    names = {
        "dots": b"..",
        "above": b"../canary/new",
        "far above": b"../" * 40 + b"etc/new",
        "above and back": b"../tree/new",
        "down and up": b"a/../../canary/new",
        "ends above": b"a/..",
        "dot": b".",
        "ends with dot": b"a/.",
        "begins with dot": b"./new",
        "dot inside": b"a/./new",
        "absolute": b"/etc/new",
        "slash": b"/",
        "two slashes": b"a//new",
        "leading slashes": b"//a",
        "trailing slash": b"new/",
        "NUL": b"a\0b",
        "only NUL": b"\0",
        "NUL in a folder": b"a\0/new",
        "256 bytes": b"x" * 256,
        "256 bytes below": b"a/" + b"x" * 256,
        "4096 bytes": b"/".join([b"d" * 250] * 17),
        "state": b".imgstore",
        "state's file": b".imgstore/state.sqlite",
        "state's journal": b".imgstore/journal",
        "new in state": b".imgstore/new/0",
        "hook": b".imgstore/hooks/pre-apply.d/evil",
        "excludes": b".imgstore/exclude",
        "odd way to the state": b"./.imgstore/exclude",
        "roundabout way to the state": b"a/../.imgstore/exclude",
    }
    cases: dict[str, Case] = {}
    root = forge.directory(b"")
    for name, path in names.items():
        items = [forge.file(path, b"evil"), forge.directory(path), forge.symlink(path, b"x")]
        for item, what in zip(items, ("file", "directory", "symlink"), strict=True):
            cases[f"{what} at {name}"] = Case([root, forge.directory(b"a"), item])
        linked = forge.file(b"zz", b"evil", link=path)
        cases[f"link to {name}"] = Case([root, linked])
    return cases


def bad_wholes(forge: Forge, outside: bytes) -> dict[str, Case]:
    """Each path is honest, but not all of them together."""
    file, directory, symlink, fifo = forge.file, forge.directory, forge.symlink, forge.fifo
    evil = b"evil"
    root, a = directory(b""), directory(b"a")
    linked: dict[str, list[Entry]] = {
        "to itself": [file(b"b", evil, link=b"b")],
        "forward": [file(b"b", evil, link=b"c"), file(b"c", evil)],
        "in a circle": [file(b"b", evil, link=b"c"), file(b"c", evil, link=b"b")],
        "to a further link": [
            *(file(b"b", evil), file(b"c", evil, link=b"b"), file(b"d", evil, link=b"c")),
        ],
        "to nothing": [file(b"b", evil, link=b"a/nothing")],
        "to a directory": [file(b"b", evil, link=b"a")],
        "to a fifo": [fifo(b"b"), file(b"c", evil, link=b"b", flags=0x10)],
        "to a symlink": [
            symlink(b"b", outside + b"/file"),
            file(b"c", evil, link=b"b", mode=0o4777, uid=5, flags=0x10),
        ],
        "below a symlink": [
            symlink(b"l", outside),
            file(b"m", evil, link=b"l/file", mode=0o4777, flags=0x10),
        ],
        "of directories": [directory(b"b"), directory(b"c", link=b"b")],
        "fifo to a file": [file(b"b", evil), fifo(b"c", link=b"b")],
        "device to a file": [
            file(b"b", evil),
            device(b"c", entries.CHARACTER, 1, 3)._replace(link=b"b"),
        ],
    }
    cases = {f"hardlink {name}": Case(items) for name, items in linked.items()}
    cases["hardlink to a further link"] = Case(linked["to a further link"], HARMLESS)
    below: dict[str, Entry] = {
        "a symlink": symlink(b"l", outside),
        "a symlink to the root": symlink(b"l", b"/"),
        "a relative symlink": symlink(b"l", b"../canary"),
        "a symlink to here": symlink(b"l", b"."),
        "a symlink to a directory inside": symlink(b"l", b"a"),
        "a symlink loop": symlink(b"l", b"l"),
        "a dangling symlink": symlink(b"l", b"nowhere"),
        "a magic link": symlink(b"l", b"/proc/self/root" + outside),
        "a file": file(b"l", b"a file"),
        "a fifo": fifo(b"l"),
        "a device": device(b"l", entries.CHARACTER, 1, 3),
    }
    for name, item in below.items():
        for what, inner in {
            "file": file(b"l/new", evil),
            "known file": file(b"l/file", evil),
            "directory": directory(b"l/private"),
            "directory with files": directory(b"l/sub"),
            "fifo": fifo(b"l/new"),
            "symlink": symlink(b"l/new", b"x"),
        }.items():
            more = [file(b"l/sub/new", evil)] if what == "directory with files" else []
            cases[f"{what} below {name}"] = Case([item, inner, *more])
    always = {b"s": file(b"s", b"always the same"), b"u": symlink(b"u", b"a")}
    for path, item in always.items():
        shown = path.decode()
        cases[f"file below {shown}, which stays"] = Case([item, file(path + b"/new", evil)])
        cases[f"directory below {shown}, which stays"] = Case([item, directory(path + b"/new")])
    for what, inner in (("file", file(b"n/new", evil)), ("directory", directory(b"n/new"))):
        link = symlink(b"n", outside)
        cases[f"{what} below a link where a directory stands"] = Case([link, inner])
    whole = {name: Case([root, a, *case.items], case.outcome) for name, case in cases.items()}
    cases = {
        "file without a directory": Case([file(b"nowhere/new", evil)]),
        "file without directories": Case([file(b"no/where/new", evil)]),
        "directory without a directory": Case([directory(b"nowhere/new")]),
        "two files of one path": Case([file(b"b", b"one"), file(b"b", b"two")]),
        "file and directory of one path": Case([file(b"b", b"one"), directory(b"b")]),
        "symlink and directory of one path": Case(
            [symlink(b"b", outside), directory(b"b"), file(b"b/new", evil)]
        ),
        "two roots": Case([directory(b""), file(b"b", evil)]),
        "out of order": Case([file(b"c", evil), file(b"b", evil)]),
        "root that is a symlink": Case([symlink(b"", outside)]),
        "unknown kind": Case([file(b"b", evil, kind=77)]),
        "mode beyond": Case([file(b"b", evil, mode=0o104755)]),
        "owner that means none": Case([file(b"b", evil, uid=2**32 - 1)]),
        "negative size": Case([file(b"b", evil)._replace(size=-1)]),
        "more content than size": Case([file(b"b", evil)._replace(size=3)]),
        "symlink to nothing": Case([symlink(b"b", b"")]),
        "symlink with NUL": Case([symlink(b"b", outside + b"\0")]),
        "device without numbers": Case([Entry(b"b", entries.BLOCK, 0o666, 0, 0, 0, 0, b"12")]),
        "flags on a fifo": Case([fifo(b"b", flags=0x10)], PASSED),
        "flags on a symlink": Case([symlink(b"b", outside + b"/file", flags=0x10)], PASSED),
        "symlink of an odd mode": Case([symlink(b"b", outside + b"/file", mode=0o4777)], PASSED),
        "names like the state's": Case(
            [directory(b"a/.imgstore"), file(b"a/.imgstore/x", b"1"), file(b"b.imgstore", b"2")],
            PASSED,
        ),
    }
    for name, case in cases.items():
        is_rootless = any(not item.path for item in case.items)
        above = [] if is_rootless and name != "two roots" else [root]
        whole[name] = Case([*above, a, *case.items], case.outcome)
    whole["no root"] = Case([file(b"b", evil)])
    return whole


def all_cases(forge: Forge, outside: bytes) -> dict[str, Case]:
    return {**bad_names(forge), **bad_wholes(forge, outside)}


NAMES = list(all_cases(Forge(), b"/canary"))


def honest(forge: Forge, salt: bytes) -> list[Entry]:
    """What the node holds before: where the hostile version has links, these are directories."""
    return [
        *(forge.directory(b""), forge.directory(b"a"), forge.file(b"a/old", b"old " + salt)),
        *(forge.directory(b"l"), forge.file(b"l/file", b"file " + salt)),
        *(forge.directory(b"l/private"), forge.file(b"l/private/key", b"key " + salt)),
        *(forge.file(b"s", b"always the same"), forge.symlink(b"u", b"a")),
    ]


def new(forge: Forge, node: Path) -> None:
    """Nothing was ever pulled."""


def installed(forge: Forge, node: Path) -> None:
    forge.publish(*honest(forge, b"one"))
    bring(forge.backend, "web", node)


def half_installed(forge: Forge, node: Path) -> None:
    forge.publish(*honest(forge, b"one"))
    assert fuse.cut_off(12, lambda: bring(forge.backend, "web", node))
    assert (node / "l").is_dir()
    assert not (node / "l/private/key").exists()


def half_updated(forge: Forge, node: Path) -> None:
    forge.publish(*honest(forge, b"one"))
    bring(forge.backend, "web", node)
    forge.publish(*honest(forge, b"two"))
    assert fuse.cut_off(18, lambda: bring(forge.backend, "web", node))
    assert (node / "a/old").read_bytes() == b"old two"
    assert (node / "l/private/key").read_bytes() == b"key one"


STATES: dict[str, Callable[[Forge, Path], None]] = {
    state.__name__: state for state in (new, installed, half_installed, half_updated)
}


@pytest.mark.parametrize("state", STATES)
def test_what_no_honest_image_holds_is_refused(quick: Path, state: str) -> None:
    """All cases in one test: a node of its own for each costs next to nothing."""
    canary = Canary(quick / "canary")
    problems: list[str] = []
    for name in NAMES:
        forge, node = Forge(), quick / "tree"
        STATES[state](forge, node)
        if state in ("installed", "half_updated"):
            (node / "n").mkdir()  # of the node's own
        case = all_cases(forge, os.fsencode(canary.path))[name]
        problems += [f"{name}: {problem}" for problem in meet(forge, node, case, state)]
        assert not {path.lstat().st_ino for path in node.rglob("*")} & canary.inodes(), name
        canary.check()
        trees.remove_tree(node)
    assert not problems, "\n".join(problems)


def meet(forge: Forge, node: Path, case: Case, state: str) -> Iterator[str]:
    """Let a node meet a version; what went wrong with it."""
    before = trees.facts(node) if state == "installed" else None
    forge.publish(*case.items)
    try:
        bring(forge.backend, "web", node)
        if not case.outcome:
            yield "was not refused"
    except ChunkstoreError as error:
        if case.outcome == PASSED:
            yield f"was refused: {error}"
    if not case.outcome and before is not None and trees.facts(node) != before:
        yield "was not refused before the tree was changed"
    with suppress(ChunkstoreError):
        recover(str(node))
    # The node is not stuck with it: an honest version brings it back to order.
    forge.publish(*honest(forge, b"three"))
    try:
        bring(forge.backend, "web", node, mirror=True)
        if (node / "l/private/key").read_bytes() != b"key three":
            yield "the node was not made right afterwards"
    except ChunkstoreError as error:
        yield f"the node is stuck: {error}"

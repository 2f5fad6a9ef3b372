"""A replaced or removed file with powers keeps none of them under a link somebody made to it."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
from support import trees
from support.live import Live

pytestmark = trees.needs_root

CAPABILITY = struct.pack("<5I", 0x02000001, 0x2400, 0, 0, 0)
POWERS = stat.S_ISUID | stat.S_ISGID


def has_powers(path: Path) -> bool:
    if path.stat().st_mode & POWERS:
        return True
    return "security.capability" in os.listxattr(path)


def arm(path: Path, kind: str) -> None:
    if kind == "capability":
        path.chmod(0o755)
        os.setxattr(path, "security.capability", CAPABILITY)
    else:
        path.chmod(0o4755 if kind == "setuid" else 0o2755)


@pytest.mark.parametrize("kind", ["setuid", "setgid", "capability"])
@pytest.mark.parametrize("what", ["replaced", "removed", "becomes a directory", "in a directory"])
def test_an_old_file_kept_by_a_link_is_harmless(place: Path, kind: str, what: str) -> None:
    live = Live(place)
    tool = live.tree / "bin/tool"
    tool.parent.mkdir()
    tool.write_bytes(b"#!/bin/sh\necho old\n")
    arm(tool, kind)
    live.install()
    os.link(live.node / "bin/tool", place / "outside")
    os.link(live.node / "bin/tool", live.node / "kept")
    tool.unlink()
    match what:
        case "replaced":
            tool.write_bytes(b"#!/bin/sh\necho new\n")
            arm(tool, kind)
        case "becomes a directory":
            tool.mkdir()
        case "in a directory":
            tool.parent.rmdir()
    live.commit()
    assert has_powers(place / "outside")
    live.pull()
    live.is_image(but=(b"kept", b""))
    assert not has_powers(place / "outside")
    assert (place / "outside").read_bytes() == b"#!/bin/sh\necho old\n"
    assert not has_powers(live.node / "kept")
    if what == "replaced":
        assert has_powers(live.node / "bin/tool")


def test_what_the_image_goes_on_using_keeps_its_powers(place: Path) -> None:
    live = Live(place)
    for name in ("a", "b", "c"):
        path = live.tree / name
        if name == "a":
            path.write_bytes(b"tool")
            path.chmod(0o4755)
        else:
            os.link(live.tree / "a", path)
    live.install()
    (live.tree / "b").unlink()
    (live.tree / "b").write_bytes(b"another")
    live.commit()
    live.pull()
    live.is_image()
    assert has_powers(live.node / "a")
    # The first name goes; the others are made anew, and a link of somebody's is not one of them.
    os.link(live.node / "a", place / "outside")
    (live.tree / "a").unlink()
    live.commit()
    live.pull()
    live.is_image()
    assert has_powers(live.node / "c")
    assert not has_powers(place / "outside")

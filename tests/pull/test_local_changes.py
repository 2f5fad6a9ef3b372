"""What was changed on a node, against what its image changes: a table of every combination.

The rules are those of `docs/cli.md`: what the image changes it changes, content of the node's own
is never lost, what the image does not change stays as it is here.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import trees
from support.live import Live, remove, rewrite_unseen, saved

OLD, NEW, OWN, INNER = b"the old file", b"the new file", b"the node's !", b"inside it all"
PAST = 10**18


def put(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(PAST, PAST))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    put(path / "mine", OWN)


def replace_by_link(path: Path) -> None:
    remove(path)
    os.symlink("elsewhere", path)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    put(path / "inside", INNER)


def done(*_: object) -> None:
    """Several steps in one expression."""


HERE: dict[str, Callable[[Path], None]] = {
    "unchanged": lambda _: None,
    "content": lambda path: put(path, OWN + b" and longer"),
    "unseen": lambda path: rewrite_unseen(path, OWN),
    "as the image": lambda path: put(path, NEW),
    "metadata": lambda path: path.chmod(0o4711),
    "deleted": lambda path: path.unlink(),
    "directory": replace_by_directory,
    "symlink": replace_by_link,
    "fifo": replace_by_fifo,
}
IMAGE: dict[str, Callable[[Path], None]] = {
    "unchanged": lambda _: None,
    "content": lambda path: put(path, NEW, mode=0o600),
    "metadata": lambda path: path.chmod(0o600),
    "deleted": lambda path: path.unlink(),
    "directory": make_directory,
    "symlink": lambda path: done(path.unlink(), os.symlink("the image's", path)),
}


def look(path: Path) -> str:
    """What stands at a path, in words."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "nothing"
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)}"
    if stat.S_ISDIR(status.st_mode):
        return "directory of " + ", ".join(sorted(os.listdir(path)))
    if stat.S_ISFIFO(status.st_mode):
        return "fifo"
    return f"{path.read_bytes().decode()} {status.st_mode & 0o7777:o}"


ITSELF = {
    "unchanged": "the old file 644",
    "content": "the node's ! and longer 644",
    "unseen": "the node's ! 644",
    "as the image": "the new file 644",
    "metadata": "the old file 4711",
    "deleted": "nothing",
    "directory": "directory of mine",
    "symlink": "link to elsewhere",
    "fifo": "fifo",
}
BY_IMAGE = {
    "content": "the new file 600",
    "metadata": "the old file 600",
    "deleted": "nothing",
    "directory": "directory of inside",
    "symlink": "link to the image's",
}
WRITTEN = {"content", "unseen", "as the image"}


def expected(here: str, image: str) -> tuple[str, bool, bool]:
    """What stands there in the end, whether what stood there is saved, whether it was kept."""
    if image == "unchanged":
        return ITSELF[here], False, False
    if image == "metadata" and here in WRITTEN:
        return ITSELF[here], False, True
    if image == "deleted" and here == "directory":
        return ITSELF[here], False, False
    if image == "directory" and here == "directory":
        return "directory of inside, mine", False, False
    is_own = here in WRITTEN | {"directory", "symlink", "fifo"}
    if here == "as the image" and image == "content":
        is_own = False
    return BY_IMAGE[image], is_own, False


def damage(node: Path, baseline: str) -> None:
    path = node / ".imgstore/baseline.sqlite"
    if baseline == "lost":
        path.unlink()
    elif baseline == "damaged":
        data = path.read_bytes()
        path.write_bytes(data[:1024] + b"\xff" * 2048 + data[3072:])
    elif baseline == "garbage":
        path.write_bytes(b"no database")


BASELINES = ("kept", "lost", "damaged", "garbage")


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_change_here_against_every_change_of_the_image(quick: Path, baseline: str) -> None:
    live = Live(quick)
    cases = list(itertools.product(HERE, IMAGE))
    for here, image in cases:
        folder = live.tree / f"{here} here, {image} there"
        folder.mkdir()
        put(folder / "f", OLD)
    live.install()
    damage(live.node, baseline)
    for here, image in cases:
        name = f"{here} here, {image} there/f"
        IMAGE[image](live.tree / name)
        HERE[here](live.node / name)
    live.commit()
    dry = live.pull("--dry-run", "--json").document
    report = live.pull("--json").document

    wanted = {case: expected(*case) for case in cases}
    found = {
        (here, image): look(live.node / f"{here} here, {image} there/f") for here, image in cases
    }
    assert found == {case: line for case, (line, _, _) in wanted.items()}
    named = {item["path"]: item["place"] for item in report["saved"]}
    assert set(named) == {
        f"{here} here, {image} there/f" for (here, image), (_, own, _) in wanted.items() if own
    }
    for path, where in named.items():
        here = path.partition(" here")[0]
        assert look(live.node / where) == ITSELF[here]
        assert where.startswith(".imgstore/saved/")
        assert where.endswith(path)
    assert set(report["kept"]) == {
        f"{here} here, {image} there/f" for (here, image), (_, _, kept) in wanted.items() if kept
    }
    assert {item["path"] for item in dry["saved"]} == set(named)
    assert dry["kept"] == report["kept"]
    for key in ("entries_changed", "entries_removed", "needed", "found"):
        assert dry[key] == report[key]


def test_all_of_it_is_named_in_text(quick: Path) -> None:
    live = Live(quick)
    put(live.tree / "kept", OLD)
    put(live.tree / "saved\nfile", OLD)
    live.install()
    put(live.node / "kept", OWN)
    put(live.node / "saved\nfile", OWN)
    put(live.tree / "saved\nfile", NEW)
    (live.tree / "kept").chmod(0o600)
    live.commit()
    dry = live.pull("--dry-run")
    assert dry.err.splitlines() == [
        "imgstore: saved\\nfile: was changed here, and would be moved to .imgstore/saved/",
        "imgstore: kept: was changed here, left alone (the image changes its metadata)",
    ]
    ended = live.pull()
    (shelf,) = (live.node / ".imgstore/saved").iterdir()
    assert ended.err.splitlines() == [
        (
            "imgstore: saved\\nfile: was changed here, kept as "
            f".imgstore/saved/{shelf.name}/saved\\nfile"
        ),
        "imgstore: kept: was changed here, left alone (the image changes its metadata)",
    ]
    assert shelf.stat().st_mode & 0o777 == 0o700
    assert (shelf / "saved\nfile").read_bytes() == OWN


# Directories


def folder_of(path: Path) -> None:
    path.mkdir()
    put(path / "known", OLD)
    (path / "sub").mkdir()
    put(path / "sub/deep", OLD)


FOLDER_HERE: dict[str, Callable[[Path], None]] = {
    "unchanged": lambda _: None,
    "changed inside": lambda path: put(path / "known", OWN),
    "more inside": lambda path: put(path / "sub/mine", OWN),
    "metadata": lambda path: path.chmod(0o711),
    "less inside": lambda path: remove(path / "sub"),
    "deleted": remove,
    "file": lambda path: done(remove(path), put(path, OWN)),
    "symlink": replace_by_link,
}


def grow(path: Path) -> None:
    put(path / "sub/new", NEW)


FOLDER_IMAGE: dict[str, Callable[[Path], None]] = {
    "unchanged": lambda _: None,
    "metadata": lambda path: path.chmod(0o700),
    "less inside": lambda path: remove(path / "known"),
    "more below": grow,
    "deleted": remove,
    "file": lambda path: done(remove(path), put(path, NEW)),
    "symlink": lambda path: done(remove(path), os.symlink("the image's", path)),
}
FOLDER_ITSELF = {
    "unchanged": "directory of known, sub",
    "changed inside": "directory of known, sub",
    "more inside": "directory of known, sub",
    "metadata": "directory of known, sub",
    "less inside": "directory of known",
    "deleted": "nothing",
    "file": "the node's ! 644",
    "symlink": "link to elsewhere",
}
FOLDER_RESULTS = {
    # Of what is not there any more, nothing comes back that the image does not need.
    ("deleted", "metadata"): ("nothing", None),
    ("deleted", "less inside"): ("nothing", None),
    ("deleted", "more below"): ("directory of sub", None),
    ("file", "more below"): ("directory of sub", ""),
    # What somebody put in a directory's place stays, until something else has to be there.
    ("file", "metadata"): ("the node's ! 644", None),
    ("file", "less inside"): ("the node's ! 644", None),
    ("symlink", "metadata"): ("link to elsewhere", None),
    ("symlink", "less inside"): ("link to elsewhere", None),
    ("file", "deleted"): ("the node's ! 644", None),
    ("symlink", "deleted"): ("link to elsewhere", None),
    ("changed inside", "less inside"): ("directory of sub", "/known"),
    ("changed inside", "deleted"): ("nothing", "/known"),
    ("changed inside", "file"): ("the new file 644", "/known"),
    ("changed inside", "symlink"): ("link to the image's", "/known"),
    ("more inside", "deleted"): ("directory of sub", None),
    ("more inside", "file"): ("the new file 644", ""),
    ("more inside", "symlink"): ("link to the image's", ""),
    ("file", "file"): ("the new file 644", ""),
    ("file", "symlink"): ("link to the image's", ""),
    ("symlink", "file"): ("the new file 644", ""),
    ("symlink", "symlink"): ("link to the image's", ""),
    ("less inside", "less inside"): ("directory of ", None),
    ("less inside", "more below"): ("directory of known, sub", None),
}
FOLDER_BY_IMAGE = {
    "metadata": None,
    "less inside": "directory of sub",
    "more below": None,
    "deleted": "nothing",
    "file": "the new file 644",
    "symlink": "link to the image's",
}


def folder_expected(here: str, image: str) -> tuple[str, str | None]:
    if image == "unchanged":
        return FOLDER_ITSELF[here], None
    default = (FOLDER_BY_IMAGE[image] or FOLDER_ITSELF[here], None)
    return FOLDER_RESULTS.get((here, image), default)


@pytest.mark.parametrize("baseline", BASELINES)
def test_directories_here_against_those_of_the_image(quick: Path, baseline: str) -> None:
    live = Live(quick)
    # A directory in whose place there is a symlink, and the image changes something below, is
    # refused: a test of its own.
    cases = [
        case
        for case in itertools.product(FOLDER_HERE, FOLDER_IMAGE)
        if case != ("symlink", "more below")
    ]
    names = {(here, image): f"{here} here, {image} there" for here, image in cases}
    for name in names.values():
        (live.tree / name).mkdir()
        folder_of(live.tree / name / "d")
    live.install()
    damage(live.node, baseline)
    for (here, image), name in names.items():
        FOLDER_IMAGE[image](live.tree / name / "d")
        FOLDER_HERE[here](live.node / name / "d")
    live.commit()
    dry = live.pull("--dry-run", "--json").document
    report = live.pull("--json").document
    wanted = {case: folder_expected(*case) for case in cases}
    assert {case: look(live.node / name / "d") for case, name in names.items()} == {
        case: line for case, (line, _) in wanted.items()
    }
    named = {item["path"] for item in report["saved"]}
    assert named == {
        f"{names[case]}/d{below}" for case, (_, below) in wanted.items() if below is not None
    }
    assert {item["path"] for item in dry["saved"]} == named
    assert (live.node / "more inside here, deleted there/d/sub/mine").read_bytes() == OWN
    for image in ("file", "symlink"):
        assert saved(live.node)[f"more inside here, {image} there/d/sub/mine"] == OWN
    assert os.listdir(live.node / "deleted here, more below there/d/sub") == ["new"]


@pytest.mark.parametrize("how", ["own metadata", "below alone"])
def test_a_directory_moved_elsewhere_is_refused_if_the_image_changes_it(
    quick: Path, how: str
) -> None:
    """/var/www is on another disk here, and a symlink leads there: nothing is written there."""
    live = Live(quick)
    folder_of(live.tree / "www")
    put(live.tree / "other", OLD)
    live.install()
    (live.node / "www").rename(quick / "disk")
    os.symlink(quick / "disk", live.node / "www")
    put(live.tree / "other", NEW)
    put(live.tree / "www/sub/deep", NEW)
    if how == "own metadata":
        put(live.tree / "www/new", NEW)
    live.commit()
    before = trees.facts(live.node, skip=()), trees.facts(quick / "disk")
    for dry in (["--dry-run"], []):
        ended = live.pull(*dry, code=7)
        assert ended.err == (
            "imgstore: www is a symbolic link here and a directory in the image: "
            "put the directory back, or leave it out with --exclude /www\n"
        )
    after = trees.facts(live.node), trees.facts(quick / "disk")
    assert after == ({k: v for k, v in before[0].items() if k in after[0]}, before[1])
    live.pull("--exclude", "/www")
    assert look(live.node / "www") == f"link to {quick / 'disk'}"
    assert (live.node / "other").read_bytes() == NEW
    assert trees.facts(quick / "disk") == before[1]


def test_what_lies_below_a_moved_directory_may_go_from_the_image(quick: Path) -> None:
    live = Live(quick)
    folder_of(live.tree / "www")
    live.install()
    (live.node / "www").rename(quick / "disk")
    os.symlink(quick / "disk", live.node / "www")
    before = trees.facts(quick / "disk")
    remove(live.tree / "www/sub")
    live.commit()
    live.pull()
    assert trees.facts(quick / "disk") == before
    assert look(live.node / "www") == f"link to {quick / 'disk'}"


def test_saved_twice_under_one_stamp_is_there_twice(quick: Path) -> None:
    """Within a second two pulls save the same path: neither is lost."""
    from support import stores

    live = Live(quick)
    put(live.tree / "f", OLD)
    live.install()
    remote = stores.in_memory(live.store)
    for number in range(3):
        put(live.node / "f", b"own %d" % number)
        put(live.tree / "f", b"image %d" % number)
        live.commit()
        remote = stores.in_memory(live.store)
        stores.bring(remote, "web", live.node, stamp="one")
    assert sorted(live.saved().values()) == [b"own 0", b"own 1", b"own 2"]


def test_a_new_file_that_somebody_made_here_already(quick: Path) -> None:
    live = Live(quick)
    put(live.tree / "old", OLD)
    live.install()
    put(live.node / "same", NEW, mode=0o600)
    put(live.node / "other", OWN)
    (live.node / "folder").mkdir(mode=0o711)
    put(live.node / "folder/mine", OWN)
    put(live.tree / "same", NEW)
    put(live.tree / "other", NEW)
    (live.tree / "folder").mkdir()
    put(live.tree / "folder/theirs", NEW)
    live.commit()
    report = live.pull("--json").document
    assert [item["path"] for item in report["saved"]] == ["other"]
    assert live.saved() == {"other": OWN}
    assert look(live.node / "folder") == "directory of mine, theirs"
    remove(live.node / "folder/mine")
    os.utime(live.node / "folder", ns=(0, (live.tree / "folder").stat().st_mtime_ns))
    live.is_image()

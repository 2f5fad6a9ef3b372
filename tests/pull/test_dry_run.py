"""`pull --dry-run` says exactly what the pull then does, and does nothing itself."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import stores, trees
from support.live import Live, remove, rewrite_unseen, state_facts
from support.trees import Facts, needs
from support.variety import make_variety

KINDS = ("file", "empty", "directory", "full", "symlink", "fifo")
NAMES = ("a", "b", "c", "d/a", "d/b", "d/e/a", "e", "e/a", "e/b", "f.log", "odd\nname")


def make(path: Path, kind: str, salt: int) -> None:
    match kind:
        case "file":
            path.write_bytes(trees.pseudo_random(salt, 3000))
        case "empty":
            path.write_bytes(b"")
        case "directory":
            path.mkdir()
        case "full":
            path.mkdir()
            (path / "a").write_bytes(trees.pseudo_random(salt + 1, 2000))
            (path / "deep").mkdir()
            (path / "deep/b").write_bytes(b"same everywhere")
        case "symlink":
            os.symlink(f"nowhere {salt % 3}", path)
        case "fifo":
            os.mkfifo(path)


def edit(tree: Path, chance: random.Random, steps: int, *, kinds: int = 8) -> None:
    """Any edits, below links not; `kinds` 7 makes no hardlinks."""
    for _ in range(steps):
        path = tree / chance.choice(NAMES)
        above = [parent for parent in path.parents if parent != tree and tree in parent.parents]
        if any(parent.is_symlink() or not parent.is_dir() for parent in above):
            if any(os.path.lexists(parent) for parent in above):
                continue
            path.parent.mkdir(parents=True)
        match chance.randrange(kinds):
            case 0 | 1 | 2:
                remove(path)
                make(path, chance.choice(KINDS), chance.randrange(6))
            case 3:
                remove(path)
            case 4 if path.is_file() and not path.is_symlink():
                rewrite_unseen(path, os.urandom(path.stat().st_size))
            case 5 if os.path.lexists(path) and not path.is_symlink():
                path.chmod(chance.choice((0o600, 0o755, 0o711)))
            case 6 if os.path.lexists(path):
                os.utime(path, ns=(1, 10**18), follow_symlinks=False)
            case 7:
                other = tree / chance.choice(NAMES)
                if path.is_file() and not path.is_symlink() and not os.path.lexists(other):
                    other.parent.mkdir(parents=True, exist_ok=True) if _is_free(
                        tree, other
                    ) else None
                    if _is_free(tree, other):
                        os.link(path, other)


def _is_free(tree: Path, path: Path) -> bool:
    above = [parent for parent in path.parents if parent != tree and tree in parent.parents]
    return all(
        parent.is_dir() and not parent.is_symlink() for parent in above if os.path.lexists(parent)
    )


def letters(before: dict[bytes, Facts], after: dict[bytes, Facts]) -> dict[bytes, str]:
    """What has changed, as `diff` would say it."""
    found = {}
    for path in before.keys() | after.keys():
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old is None or new is None:
            found[path] = "A" if old is None else "D"
        elif old.form != new.form:
            found[path] = "T"
        elif (old.content, old.target) != (new.content, new.target):
            found[path] = "M"
        else:
            found[path] = "m"
    return found


def is_below(path: bytes, folder: bytes) -> bool:
    return path.startswith(folder + b"/")


def times_alone(old: Facts | None, new: Facts | None) -> bool:
    """Whether a directory has only other times: they move with what comes and goes in it."""
    if old is None or new is None or old.form != "directory":
        return False
    return new == Facts(**{**vars(old), "mtime": new.mtime})


def compare(live: Live, options: list[str]) -> None:
    """Hold what the dry run says against what the pull does."""
    before, state = trees.facts(live.node), state_facts(live.node)
    dry = live.run("pull", live.node, "--dry-run", "--json", *options, code=None)
    text = live.run("pull", live.node, "--dry-run", *options, code=None)
    assert state_facts(live.node) == state
    ended = live.run("pull", live.node, "--json", *options, code=None)
    assert dry.code == text.code == ended.code
    if ended.code:
        assert dry.err == ended.err
        assert trees.facts(live.node) == before
        return
    said, report = dry.document, ended.document
    announced = {
        os.fsencode(item["path"].removeprefix("./") if item["path"] != "." else ""): item["letter"]
        for item in said["changes"]
    }
    assert text.changes == [
        f"{letter}\t{_shown(path)}" for path, letter in sorted(announced.items())
    ]
    after = trees.facts(live.node)
    # A directory that has to give way goes with what is in it, which is not listed.
    whole = [os.fsencode(item["path"]) for item in report["saved"]]
    happened = letters(before, after)
    for path in happened.keys() | announced.keys():
        if path in happened and path in announced:
            # A file that is made anew as it was, such as a link of a group, is announced `M`.
            assert announced[path] == happened[path] or (
                {announced[path], happened[path]} <= {"M", "m"}
            ), (path, announced[path], happened[path])
        elif any(is_below(path, moved) for moved in whole):
            assert happened[path] == "D"
        elif path in happened:
            # Another path of its group of links may have left it; that is a change of that one.
            old, new = before[path], dataclasses.replace(after[path], group=before[path].group)
            assert new == old or times_alone(old, new), (path, "not announced")
        else:
            old = before.get(path)
            assert old is not None, (path, "announced and not done")
            assert announced[path] in ("M", "m"), (path, announced[path], "and the same as before")
    assert [item["path"] for item in said["saved"]] == sorted(
        (item["path"] for item in report["saved"]), key=lambda path: path.split("/")
    )
    for key in ("kept", "entries_changed", "entries_removed", "needed", "found", "fetched"):
        assert said[key] == report[key], key
    assert said["moving_bytes"] == report["moving_bytes"]


def _shown(path: bytes) -> str:
    return os.fsdecode(path).replace("\n", "\\n") or "."


def tried(place: Path, seed: int) -> None:
    chance = random.Random(seed)
    live = Live(place)
    edit(live.tree, chance, 25)
    live.commit()
    live.pull()
    for _ in range(2):
        edit(live.tree, chance, chance.choice((0, 2, 15)))
        # What is linked here changes with what it is linked to, whatever it was in the image.
        edit(live.node, chance, chance.choice((0, 2, 10)), kinds=7)
        live.commit()
        options = [
            *(["--mirror"] if chance.random() < 0.4 else []),
            *(["--exclude", chance.choice(("*.log", "/d", "a", "e/"))] * (chance.random() < 0.4)),
        ]
        compare(live, options)


def in_memory(seed: int) -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        tried(Path(folder), seed)


def test_what_it_says_is_what_happens() -> None:
    for seed in range(40):
        in_memory(seed)


@pytest.mark.campaign
@pytest.mark.timeout(3000)
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 40))
def test_what_it_says_is_what_happens_for_long(seed: int) -> None:
    in_memory(seed)


def test_of_a_first_installation(place: Path) -> None:
    live = Live(place)
    make_variety(live.tree)
    live.commit()
    dry = live.run("pull", live.remote, live.node, "--dry-run", "--json").document
    assert not live.node.exists(), "nothing is made, not even the directory"
    assert not (live.place / "deeper").exists()
    live.run("pull", live.remote, live.place / "deeper/node", "--dry-run")
    assert not (live.place / "deeper").exists()
    report = live.run("pull", live.remote, live.node, "--json").document
    assert {item["letter"] for item in dry["changes"]} == {"A"}
    paths = {os.fsencode(item["path"]) for item in dry["changes"]}
    assert {b"" if path == b"." else path for path in paths} == set(trees.facts(live.node))
    assert dry["needed"]["bytes"] == pytest.approx(report["needed"]["bytes"], rel=0.01)
    # What moves besides: the ref, the version, indexes and the manifest.
    assert 0 < report["received_bytes"] - dry["moving_bytes"] < 300_000
    (live.place / "empty").mkdir()
    live.run("pull", live.remote, live.place / "empty", "--dry-run")
    assert os.listdir(live.place / "empty") == []


def test_bytes_that_would_move(quick: Path) -> None:
    live = Live(quick)
    for number in range(6):
        (live.tree / f"{number}").write_bytes(trees.pseudo_random(number, 400_000))
    live.install()
    (live.tree / "new").write_bytes(trees.pseudo_random("new", 700_000))
    shutil.copy(live.tree / "1", live.tree / "copy")
    live.commit()
    said = live.run("pull", live.node, "--dry-run", "--json").document
    again = live.run("pull", live.node, "--dry-run")
    report = live.run("pull", live.node, "--json").document
    assert said["fetched"] == report["fetched"]
    assert said["fetched"]["bytes"] == 700_000
    assert said["found"]["bytes"] == 400_000
    assert said["moving_bytes"] == report["moving_bytes"] >= 700_000
    assert 0 <= report["received_bytes"] - said["moving_bytes"] < 50_000
    assert re.search(r"would fetch \d+ \(700 KB\), 70\d KB over the network; ", again.lines[-1])


MUTATING = (
    "open,openat,openat2,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,"
    "linkat,symlink,symlinkat,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat,"
    "truncate,ftruncate,setxattr,fsetxattr,lsetxattr,removexattr,mknod,mknodat,write,pwrite64"
)


WRITING = re.compile(rb"O_(WRONLY|RDWR|CREAT|TRUNC|TMPFILE)")


@needs("strace")
@pytest.mark.parametrize("options", [[], ["--mirror"], ["--exclude", "f"]])
def test_no_call_changes_anything(place: Path, options: list[str]) -> None:
    """As the system saw it: nothing below DIR is made, written, renamed or given other times."""
    live = Live(place)
    make_variety(live.tree)
    live.install()
    (live.tree / "plain/new").write_bytes(trees.pseudo_random("new", 100_000))
    remove(live.tree / "names")
    (live.node / "plain/large").write_bytes(b"own")
    (live.node / "unknown").write_bytes(b"")
    live.commit()
    log = live.place / "calls"
    script = "from imgstore.app import main; import sys; sys.exit(main(sys.argv[1:]))"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(stores.PROJECT), str(stores.PROJECT / "cli")]),
    }
    done = subprocess.run(
        [
            *("strace", "-f", "-y", "-o", str(log), "-e", f"trace={MUTATING}"),
            *(sys.executable, "-c", script),
            *("pull", str(live.node), "--dry-run", *options),
        ],
        env={**environment, "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    if b"PTRACE" in done.stderr:
        pytest.skip("can't trace here")
    assert done.returncode == 0, done.stderr
    node = os.fsencode(live.node)
    bad = Counter()
    for line in log.read_bytes().splitlines():
        call = line.split(b" ", 1)[1].lstrip().partition(b"(")[0]
        if node not in line or b") = -1" in line:
            continue
        if call.startswith(b"open") and not WRITING.search(line):
            continue
        if b" write(1<" in line:
            continue  # what it says
        if b"O_RDWR" in line and re.search(rb"\.imgstore/(lock|state\.sqlite)\"", line):
            continue  # locked, or opened by a library that would write if it were told to
        bad[line] += 1
    assert not bad

"""Which paths a scan yields, with and without a cache."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import stores, trees
from support.mounted import mounted
from support.stores import record, settle
from support.variety import ODD_NAMES

from chunkstore.errors import LocalError
from chunkstore.fsio import Directory
from chunkstore.worktree import listing
from chunkstore.worktree import scan as scanning
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.scan import Found, Scan, ScanReport

IDENTITY: list[bytes | int] = [b"the same worktree"]


class Scanner:
    """Scans one tree again and again with its cache."""

    def __init__(self, tree: Path, cache: Path) -> None:
        self.tree = tree
        self.cache = cache
        self.report = ScanReport()

    def __call__(self, *excludes: bytes, now: int | None = None) -> dict[bytes, str]:
        """Path to `found`, `gone` or the first path of its group."""
        cache = WorktreeCache(str(self.cache), spool=str(self.cache.parent))
        cache.load(IDENTITY)
        with Directory(str(self.tree)) as directory:
            now = time.time_ns() if now is None else now
            scan = Scan(directory, cache, Patterns(excludes), now=now)
            items = [
                (item.path, item.link if isinstance(item, Found) else b"gone") for item in scan
            ]
        cache.save(IDENTITY, scan.links, identity_changed=False)
        self.report = scan.report
        keys = [path.replace(b"/", b"\0") for path, _ in items]
        assert keys == sorted(set(keys)), "paths come once, in entry order"
        return {path: link.decode() or "found" for path, link in items}


@pytest.fixture
def tree(place: Path) -> Path:
    path = place / "tree"
    for folder in ("a/deep/er", "b", "c"):
        (path / folder).mkdir(parents=True)
    for name in ("a/1", "a/deep/2", "a/deep/er/3", "b/4", "b/5", "top"):
        (path / name).write_bytes(name.encode())
    settle()
    return path


@pytest.fixture
def scanner(place: Path, tree: Path) -> Scanner:
    return Scanner(tree, place / "cache")


def everything(tree: Path) -> set[bytes]:
    top = os.fsencode(tree)
    found = {b""}
    for above, folders, names in os.walk(top):
        found |= {os.path.relpath(os.path.join(above, name), top) for name in folders + names}
    return found


def test_the_first_scan_finds_everything(tree: Path, scanner: Scanner) -> None:
    assert scanner().keys() == everything(tree)
    assert scanner.report.paths == len(everything(tree))


def test_an_unchanged_tree_yields_nothing_and_leaves_the_cache_alone(
    place: Path, scanner: Scanner
) -> None:
    scanner()
    before = (place / "cache").stat()
    assert scanner() == {}
    assert scanner() == {}
    after = (place / "cache").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(os.listdir(place)) == ["cache", "tree"]


def test_only_what_changed_is_found(tree: Path, scanner: Scanner) -> None:
    scanner()
    (tree / "a/deep/2").write_bytes(b"other")
    (tree / "b/5").chmod(0o700)
    os.utime(tree / "top", ns=(7, 7))
    assert scanner() == {b"a/deep/2": "found", b"b/5": "found", b"top": "found"}


def test_what_goes_while_it_is_looked_at_is_gone(
    tree: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner()
    (tree / "b/new").write_bytes(b"")
    listdir = os.listdir

    def list_and_remove(folder: int) -> list[str]:
        names = listdir(folder)
        if "5" in names:
            (tree / "b/5").unlink()
        return names

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", list_and_remove)
        found = scanner()
    assert found == {b"b": "found", b"b/5": "gone", b"b/new": "found"}
    assert scanner.report.errors == []


def test_what_goes_from_an_unchanged_directory_while_it_is_looked_at_is_gone(
    tree: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner()
    stat = os.stat

    def look_and_remove(path: Any, **options: Any) -> os.stat_result:
        if path == b"4":
            (tree / "b/5").unlink(missing_ok=True)
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_and_remove)
        found = scanner()
    assert found == {b"b/5": "gone"}
    assert scanner.report.errors == []
    assert scanner() == {b"b": "found"}


# Directories whose times say that they are as they were


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were listed."""
    found: list[str] = []
    listdir = os.listdir

    def note(folder: Any) -> list[str]:
        if isinstance(folder, int):
            found.append(os.readlink(f"/proc/self/fd/{folder}"))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", note)
    return found


def test_only_changed_directories_are_listed(
    tree: Path, scanner: Scanner, lists: list[str]
) -> None:
    scanner()
    assert len(lists) == 6
    lists.clear()
    (tree / "b/4").write_bytes(b"other")
    assert scanner() == {b"b/4": "found"}
    assert lists == []
    (tree / "a/deep/new").write_bytes(b"")
    (tree / "c").chmod(0o700)
    assert scanner().keys() == {b"a/deep", b"a/deep/new", b"b/4", b"c"}
    assert lists == [str(tree / "a/deep"), str(tree / "c")]
    settle()
    scanner()
    lists.clear()
    (tree / "new").write_bytes(b"")
    assert scanner() == {b"": "found", b"new": "found"}
    assert lists == [str(tree)]


def test_a_directory_that_may_still_change_unseen_is_listed(
    tree: Path, scanner: Scanner, lists: list[str]
) -> None:
    (tree / "b/new").write_bytes(b"")
    scanner()
    lists.clear()
    assert scanner() == {b"b": "found", b"b/new": "found"}
    assert lists == [str(tree / "b")]


def test_a_name_that_comes_while_the_tree_is_walked_is_found_by_the_next_scan(
    tree: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the look at its directory, whose status is then kept as it was before."""
    scanner()
    stat = os.stat

    def look_and_add(path: Any, **options: Any) -> os.stat_result:
        if path == b"4":
            (tree / "b/late").write_bytes(b"")
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_and_add)
        assert scanner() == {}
    assert scanner() == {b"b": "found", b"b/late": "found"}


def test_where_times_of_directories_tell_little_all_are_listed(
    tree: Path, scanner: Scanner, lists: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "keeps_times", lambda _: False)
    scanner()
    lists.clear()
    assert scanner() == {}
    assert len(lists) == 6


@trees.needs_root
def test_a_lower_layer_that_changed_while_it_was_not_mounted(place: Path) -> None:
    """The times of an overlay's directory are those of its upper one."""
    trees.mount_tmpfs(place / "layers", "size=4m,mode=755")
    for name in ("lower/both", "upper/both", "work"):
        (place / "layers" / name).mkdir(parents=True)
    (place / "layers/lower/both/old").write_bytes(b"")
    (place / "layers/upper/both/own").write_bytes(b"")
    tree = place / "tree"
    tree.mkdir()
    options = ",".join(
        f"{kind}={place}/layers/{name}"
        for kind, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
    )
    command = ["mount", "-t", "overlay", "-o", options, "overlay", str(tree)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("overlays can't be mounted here")
    scanner = Scanner(tree, place / "cache")
    try:
        for _ in range(2):  # the first look at a merged directory leaves a mark on its upper one
            scanner()
            settle()
        scanner()
        assert scanner() == {}
        trees.unmount(tree)
        (place / "layers/lower/both/new").write_bytes(b"")
        subprocess.run(command, check=True)
        assert b"both/new" in scanner()
    finally:
        trees.unmount(tree)


def test_new_and_removed_paths(tree: Path, scanner: Scanner) -> None:
    scanner()
    (tree / "a/new").write_bytes(b"")
    shutil.rmtree(tree / "a/deep")
    (tree / "b/4").unlink()
    assert scanner() == {
        b"a": "found",
        b"a/deep": "gone",
        b"a/new": "found",
        b"b": "found",
        b"b/4": "gone",
    }
    settle()
    scanner()  # what was young
    assert scanner() == {}


@pytest.mark.parametrize("last", [False, True])
def test_a_removed_directory_wherever_it_stood(tree: Path, scanner: Scanner, last: bool) -> None:
    scanner()
    shutil.rmtree(tree / ("c" if last else "a"))
    assert scanner() == {b"": "found", b"c" if last else b"a": "gone"}


def test_changed_types(tree: Path, scanner: Scanner) -> None:
    scanner()
    shutil.rmtree(tree / "a/deep")
    (tree / "a/deep").write_bytes(b"a file now")
    (tree / "b/4").unlink()
    (tree / "b/4").mkdir()
    (tree / "b/4/inside").write_bytes(b"")
    found = scanner()
    assert found.keys() == {b"a", b"a/deep", b"b", b"b/4", b"b/4/inside"}
    assert set(found.values()) == {"found"}


def test_a_file_replaced_by_one_that_looks_alike(tree: Path, scanner: Scanner) -> None:
    scanner()
    status = (tree / "top").stat()
    (tree / "top.new").write_bytes(b"TOP")
    os.utime(tree / "top.new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(tree / "top.new", tree / "top")
    assert b"top" in scanner()


def test_a_change_hidden_behind_an_old_mtime(tree: Path, scanner: Scanner) -> None:
    scanner()
    status = (tree / "top").stat()
    (tree / "top").write_bytes(b"TOP")
    os.utime(tree / "top", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert b"top" in scanner()


def test_swapped_directories(tree: Path, scanner: Scanner) -> None:
    (tree / "c/4").write_bytes(b"b/4")
    (tree / "c/5").write_bytes(b"b/5")
    settle()
    scanner()
    os.rename(tree / "b", tree / "x")
    os.rename(tree / "c", tree / "b")
    os.rename(tree / "x", tree / "c")
    assert scanner().keys() >= {b"b", b"b/4", b"b/5", b"c", b"c/4", b"c/5"}


# Timestamps that can't be told apart


def coarse(monkeypatch: pytest.MonkeyPatch, tick: int = 10_000_000) -> None:
    """Timestamps as from a kernel that stamps files with the time of the last clock tick."""
    real = os.stat

    class Coarse:
        def __init__(self, status: os.stat_result) -> None:
            self._status = status

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._status, name)
            return value - value % tick if name in ("st_mtime_ns", "st_ctime_ns") else value

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        @staticmethod
        def stat(*arguments: Any, **options: Any) -> Any:
            return Coarse(real(*arguments, **options))

    monkeypatch.setattr(listing, "os", Os())


def test_a_second_write_within_one_tick_is_seen(
    monkeypatch: pytest.MonkeyPatch, tree: Path, scanner: Scanner
) -> None:
    tick = 1_000_000_000_000  # every test happens within one
    coarse(monkeypatch, tick)
    monkeypatch.setattr(scanning, "_RACY_NS", tick + 40_000_000)
    (tree / "top").write_bytes(b"one")
    scanner()
    (tree / "top").write_bytes(b"two")
    assert scanner()[b"top"] == "found"
    assert scanner()[b"top"] == "found", "it may still change"


def test_files_made_in_one_tick_are_told_apart_when_their_directories_are_swapped(
    monkeypatch: pytest.MonkeyPatch, tree: Path, scanner: Scanner
) -> None:
    tick = 1_000_000_000_000
    coarse(monkeypatch, tick)
    (tree / "c/4").write_bytes(b"c/4")
    later = time.time_ns() + 10 * tick
    scanner(now=later)
    os.rename(tree / "b", tree / "x")
    os.rename(tree / "c", tree / "b")
    os.rename(tree / "x", tree / "c")
    found = scanner(now=later)
    assert found[b"b/4"] == found[b"c/4"] == "found"


@trees.needs_root
@trees.needs("mkfs.ext4")
def test_a_second_write_within_a_second_is_seen_where_only_seconds_are_kept(place: Path) -> None:
    image = place / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", str(image)], check=True, capture_output=True)
    with mounted(place, "-o", "loop", str(image)) as tree:
        file = tree / "file"
        file.write_bytes(b"one")
        scanner = Scanner(tree, place / "cache")
        while True:
            time.sleep(1 - time.time() % 1)
            file.write_bytes(b"one")
            settle()
            scanner()
            file.write_bytes(b"two")
            status = file.stat()
            assert status.st_ctime_ns % 10**9 == 0, "it keeps whole seconds"
            if time.time_ns() < status.st_ctime_ns + 10**9 * 9 // 10:
                break
        assert scanner()[b"file"] == "found"


def test_racing_writes_are_seen_by_the_next_commit(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    contents = [b"%05d" % number for number in range(12)]
    for content in contents:
        (tree / "top").write_bytes(content)
        report = record(store, tree)
        root = report.version.version.root
        (entry,) = [item for item in stores.entries_of(store, root) if item.path == b"top"]
        with store.chunks() as chunks:
            assert chunks.get(entry.content[:32]) == content


def test_young_files_are_looked_at_again_and_then_no_more(tree: Path, scanner: Scanner) -> None:
    (tree / "a/1").write_bytes(b"young")
    assert b"a/1" in scanner()
    settle()
    assert scanner() == {b"a/1": "found"}
    assert scanner() == {}


def test_files_from_the_future_are_never_believed(tree: Path, scanner: Scanner) -> None:
    early = time.time_ns() - 3600 * 10**9
    scanner(now=early)
    assert scanner(now=early).keys() == everything(tree)


# Hardlinks


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


# Excludes


def test_excludes(tree: Path, scanner: Scanner) -> None:
    (tree / "b/x.log").write_bytes(b"")
    (tree / "x.log").write_bytes(b"")
    (tree / "b/deep").write_bytes(b"a file, not a directory")
    found = scanner(b"*.log", b"deep/", b"/c")
    assert found.keys() == everything(tree) - {
        *(b"b/x.log", b"x.log", b"c", b"a/deep", b"a/deep/2", b"a/deep/er", b"a/deep/er/3"),
    }


def test_the_state_directory_is_left_out_at_the_top_only(tree: Path, scanner: Scanner) -> None:
    (tree / ".imgstore").mkdir()
    (tree / ".imgstore/state").write_bytes(b"")
    (tree / "b/.imgstore").mkdir()
    found = scanner()
    assert b"b/.imgstore" in found
    assert not any(path.startswith(b".imgstore") for path in found)


# What can't or must not be entered


@trees.needs_root
def test_a_mount_point_is_recorded_without_what_is_mounted(
    place: Path, tree: Path, scanner: Scanner
) -> None:
    trees.mount_tmpfs(tree / "mounted", "size=1m,mode=755")
    (tree / "mounted/inside").write_bytes(b"")
    found = scanner()
    assert b"mounted" in found
    assert b"mounted/inside" not in found
    assert [path for path, _ in scanner.report.warnings] == [b"mounted"]


@trees.needs_root
def test_what_a_mount_hides_is_gone_until_it_is_unmounted(tree: Path, scanner: Scanner) -> None:
    scanner()
    trees.mount_tmpfs(tree / "a", "size=1m,mode=755")
    assert scanner() == {b"a": "found", b"a/1": "gone", b"a/deep": "gone"}
    settle()
    scanner()
    assert scanner() == {}
    trees.unmount(tree / "a")
    found = scanner()
    assert found.keys() == {b"a", b"a/1", b"a/deep", b"a/deep/2", b"a/deep/er", b"a/deep/er/3"}


def test_sockets_are_warned_of_and_left_out(tree: Path, scanner: Scanner) -> None:
    os.mknod(tree / "b/s.sock", 0o140600)
    assert scanner()[b"b/s.sock"] == "gone"
    assert [path for path, _ in scanner.report.warnings] == [b"b/s.sock"]


def test_a_path_that_is_too_long_is_an_error(quick: Path) -> None:
    tree = quick / "tree"
    longest = trees.deep(tree, component=b"d" * 200, length=4095)
    folder = os.open(tree, os.O_RDONLY)
    for name in longest.split(b"/")[:-1]:
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    too_long = longest + b"f"
    os.close(os.open(too_long.rpartition(b"/")[2], os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    scanner = Scanner(tree, quick / "cache")
    assert longest in scanner()
    assert [path for path, _ in scanner.report.errors] == [too_long]
    with pytest.raises(LocalError, match="longer than 4095"):
        record(stores.make_store(quick / "store"), tree)


def test_the_longest_paths_are_found(quick: Path) -> None:
    for number, (component, length) in enumerate(((b"d" * 255, 4095), (b"d", 4095))):
        tree = quick / f"tree {number}"
        path = trees.deep(tree, component=component, length=length)
        assert len(path) == 4095
        scanner = Scanner(tree, quick / "cache")
        assert scanner()[path] == "found"
        assert scanner.report.errors == []


def test_odd_names_come_through_whatever_the_locale_says(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    for name in ODD_NAMES:
        os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert Scanner(tree, place / "cache")().keys() == {b"", *ODD_NAMES}


@trees.needs("localedef")
def test_names_in_a_locale_that_is_not_unicode(place: Path) -> None:
    made = subprocess.run(
        ["localedef", "-c", "-i", "de_DE", "-f", "ISO-8859-1", str(place / "de_DE.ISO-8859-1")],
        capture_output=True,
        check=False,
    )
    if not (place / "de_DE.ISO-8859-1").is_dir():
        pytest.skip(f"can't make a locale: {made.stderr.decode()[:80]}")
    tree = place / "tree"
    tree.mkdir()
    for name in ODD_NAMES:
        os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    script = """
import sys, time
from chunkstore.fsio import Directory
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.scan import Scan
assert sys.getfilesystemencoding() == "iso8859-1", sys.getfilesystemencoding()
cache = WorktreeCache(sys.argv[2], spool=None)
scan = Scan(Directory(sys.argv[1]), cache, Patterns(), now=time.time_ns())
print([item.path for item in scan])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tree), str(place / "cache")],
        env={
            "PYTHONPATH": str(stores.PROJECT),
            "LOCPATH": str(place),
            "LC_ALL": "de_DE.ISO-8859-1",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        check=True,
    )
    assert set(ast.literal_eval(done.stdout.decode())) == {b"", *ODD_NAMES}


# Reading nothing


@trees.needs("strace")
def test_an_unchanged_tree_is_not_opened(place: Path, tree: Path) -> None:
    store = stores.make_store(place / "store")
    record(store, tree)
    script = """
import sys, time
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
assert not stores.record(Store(sys.argv[1]), Path(sys.argv[2])).is_new
"""
    search = os.pathsep.join([str(stores.PROJECT), str(stores.PROJECT / "tests")])
    trace = place / "trace"
    traced = "trace=open,openat,openat2,creat,open_by_handle_at,readlink,readlinkat,listxattr"
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-y", "-e", traced, "-o", str(trace)),
            *(sys.executable, "-c", script, str(store.root), str(tree)),
        ],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr:
        pytest.skip("strace is not allowed here")
    assert done.returncode == 0, done.stderr
    touched = [line for line in trace.read_text().splitlines() if str(tree) in line]
    files = [line for line in touched if "O_DIRECTORY" not in line]
    assert len(touched) > len([*tree.rglob("*/")]), "the trace shows the directories"
    # The worktree's own exclude file is asked for; there is none.
    assert [line for line in files if ".imgstore/exclude" not in line] == []


@trees.needs_root
def test_what_can_not_be_read_is_named_and_nothing_recorded(place: Path) -> None:
    place.chmod(0o755)
    tree = place / "tree"
    tree.mkdir(mode=0o755)
    for name in ("fine", "secret", "also secret"):
        (tree / name).write_bytes(b"")
        os.chown(tree / name, 1, 1)
        (tree / name).chmod(0o600)
    os.chown(tree / "fine", 65534, 65534)
    (tree / "locked").mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    script = """
import os, sys
from pathlib import Path
from support import stores
from chunkstore.errors import LocalError
from chunkstore.objects.chunker import _library
_library()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = stores.make_store(Path(sys.argv[1]))
try:
    stores.record(store, Path(sys.argv[2]))
except LocalError as error:
    print(error)
print(store.images(), sorted(stores.listing(store)))
"""
    process = stores.python(script, place / "store", tree)
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    said, left = output.decode().splitlines()
    for name in ("secret", "also secret", "locked"):
        assert f"{name}: Permission denied" in said
    assert "fine" not in said
    assert "nothing was recorded" in said
    assert left == "[] ['roots/1', 'store.json']"


def test_a_worktree_that_is_not_there(place: Path) -> None:
    store = stores.make_store(place / "store")
    with pytest.raises(LocalError, match="nowhere"):
        record(store, place / "nowhere")

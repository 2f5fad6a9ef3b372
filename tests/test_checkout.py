"""Checkout: a version comes out as it went in, on every file system and with every privilege."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from pathlib import Path

import pytest
from support import stores, trees
from support.forge import Forge
from support.stores import record, restore
from support.variety import make_variety

from chunkstore.checkout import checkout
from chunkstore.errors import Conflict, Corrupt, LocalError
from chunkstore.objects.names import parse_spec
from chunkstore.storage.store import Store


def test_everything_comes_out_as_it_went_in(place: Path, variety: Path) -> None:
    store = stores.make_store(place / "store")
    report = record(store, variety)
    done = restore(store, "web", place / "out")
    assert done.shortfalls.kinds == {}
    assert done.entries == report.version.version.root.entries
    for name, said in trees.tool_reports(variety).items():
        assert said, f"{name} said nothing: it can't tell two trees apart"
    trees.assert_same(variety, place / "out")


def test_the_oracles_can_tell_trees_apart(place: Path) -> None:
    """Each property that is changed in a copy is found by our own walk, most by others too."""
    store = stores.make_store(place / "store")
    tree, out = place / "tree", place / "out"
    make_variety(tree)
    record(store, tree)

    def write(path: Path) -> None:
        status = path.stat()
        path.write_bytes(b"S" + path.read_bytes()[1:])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def fill(path: Path) -> None:
        status = path.stat()
        with open(path, "r+b") as file:
            file.write(bytes(8192))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def unlink_and_copy(path: Path) -> None:
        status, data = path.stat(), path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        path.chmod(stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    changes = {
        "plain/text": write,
        "plain/empty": lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
        "sparse/hole at start": fill,
        "links/linked empty": unlink_and_copy,
        "extended/directory": lambda path: os.setxattr(path, "user.comment", b"hellO"),
        "modes/file 0777": lambda path: path.chmod(0o776),
    }
    if os.geteuid() == 0:
        changes["owners/link 1"] = lambda path: os.chown(path, 2, 1, follow_symlinks=False)
        changes["owners/file 65534"] = lambda path: path.chmod(0o0755)
        if trees.has_flags(place):
            changes["flags/file d"] = lambda path: trees.set_flags(path, "")
    restore(store, "web", out)
    before = trees.facts(out)
    for name, change in changes.items():
        change(out / name)
    found = trees.differences(before, trees.facts(out))
    for name in changes:
        assert any(line.startswith(repr(name.encode())) for line in found), name
    assert trees.rsync_differences(tree, out, "/sparse/huge")
    assert trees.tool_reports(tree) != trees.tool_reports(out)


@trees.needs_root
def test_onto_a_tmpfs(place: Path, variety: Path) -> None:
    """What this file system can't take is said once per kind; all the rest is there."""
    trees.mount_tmpfs(place / "mount", "size=256m,huge=never")
    store = stores.make_store(place / "store")
    record(store, variety)
    done = restore(store, "web", place / "mount/out")
    found = trees.differences(trees.facts(variety), trees.facts(place / "mount/out"))
    assert {line.partition("' ")[2].partition(":")[0] for line in found} <= {"flags"}
    assert len(found) <= sum(count for count, _, _ in done.shortfalls.kinds.values())
    assert done.shortfalls.kinds.keys() <= {"inode flags", "user xattrs"}


@pytest.mark.parametrize(("component", "length"), [(b"d" * 255, 4095), (b"d", 4095), (b"dd", 4000)])
def test_very_deep_trees(quick: Path, component: bytes, length: int) -> None:
    trees.deep(quick / "tree", component=component, length=length)
    store = stores.make_store(quick / "store")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = trees.open_descriptors() + 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    try:
        record(store, quick / "tree")
        restore(store, "web", quick / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert trees.differences(trees.facts(quick / "tree"), trees.facts(quick / "out")) == []


def test_only_into_an_empty_directory(place: Path) -> None:
    (place / "tree").mkdir()
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    restore(store, "web", place / "new/below")
    (place / "full").mkdir()
    (place / "full/file").write_bytes(b"mine")
    with pytest.raises(Conflict, match="'file'"):
        restore(store, "web", place / "full")
    assert os.listdir(place / "full") == ["file"]
    (place / "disk/lost+found").mkdir(parents=True)
    restore(store, "web", place / "disk")


def test_an_image_with_its_own_lost_and_found(place: Path) -> None:
    """Taken from a partition of its own, put onto another."""
    for folder in ("tree", "disk"):
        (place / folder / "lost+found").mkdir(parents=True, mode=0o700)
    os.utime(place / "tree/lost+found", ns=(1, 10**18))
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    restore(store, "web", place / "disk")
    trees.assert_same(place / "tree", place / "disk")


@trees.needs_root
@trees.needs("setfacl")
def test_what_the_directory_hands_down_is_not_inherited(place: Path) -> None:
    """A default ACL, set-group-id or inheritable flags of the target must not show in the tree."""
    tree, out = place / "tree", place / "out"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(b"content")
    os.symlink("file", tree / "link")
    os.mkfifo(tree / "fifo")
    store = stores.make_store(place / "store")
    record(store, tree)
    out.mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:77:rwx,o::---", str(out)], check=True)
    subprocess.run(["setfacl", "-m", "u:77:rwx", str(out)], check=True)
    os.setxattr(out, "user.left", b"from before")
    os.chown(out, 5, 5)
    out.chmod(0o2777)
    trees.set_flags_if_possible(out, "Ad")
    restore(store, "web", out)
    trees.assert_same(tree, out)


@trees.needs_root
def test_without_privileges_the_rest_is_there_and_the_lack_is_said(
    place: Path, variety: Path
) -> None:
    store = stores.make_store(place / "store")
    record(store, variety)
    store._drop("catalog")
    for path in (place, place / "store"):
        path.chmod(0o755)
    (place / "home").mkdir()
    os.chown(place / "home", 65534, 65534)
    script = """
import json, os, sys
from pathlib import Path
from support import stores
from chunkstore.storage.store import Store
from chunkstore.worktree.preload import everything
everything()  # the interpreter's own modules may be root's alone
os.setgroups([]); os.setgid(65534); os.setuid(65534)
done = stores.restore(Store(sys.argv[1]), "web", Path(sys.argv[2]))
print(json.dumps({kind: list(map(repr, seen)) for kind, seen in done.shortfalls.kinds.items()}))
"""
    process = stores.python(script, place / "store", place / "home/out")
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    import json

    kinds = json.loads(output)
    assert kinds.keys() >= {"owners", "devices", "trusted xattrs", "security xattrs"}
    one, other = trees.facts(variety), trees.facts(place / "home/out")
    missing = one.keys() - other.keys()
    assert {one[path].form for path in missing} == {"character", "block"}
    assert int(kinds["devices"][0]) == len(missing)
    for path, facts in other.items():
        assert facts.content == one[path].content, path
        assert (facts.form, facts.data, facts.target) == (
            *(one[path].form, one[path].data),
            one[path].target,
        )
        assert facts.mtime == one[path].mtime, path
        if "owner" not in str(path):
            assert facts.mode & 0o777 == one[path].mode & 0o777, path


def test_times_a_file_system_can_not_hold_are_said(place: Path) -> None:
    forge = Forge()
    far = (2**34) * 10**9
    forge.publish(forge.directory(b""), forge.file(b"far", b"x", mtime=far))
    report = stores.bring(forge.backend, "web", place / "node")
    kept = (place / "node/far").stat().st_mtime_ns
    assert (kept == far) is ("times" not in report.shortfalls.kinds)


def test_damage_is_found_and_named(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(trees.pseudo_random("file", 50_000))
    store = stores.make_store(place / "store")
    record(store, tree)
    (pack_id,) = store.packs()
    path = place / f"store/packs/{pack_id.hex()}.pack"
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=pack_id.hex()):
        restore(store, "web", place / "out")


@trees.needs_root
def test_no_room(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(trees.pseudo_random("file", 4_000_000))
    store = stores.make_store(place / "store")
    record(store, tree)
    trees.mount_tmpfs(place / "mount", "size=1m")
    with pytest.raises(LocalError, match="o space left"):
        restore(store, "web", place / "mount/out")


def test_readable_by_nobody_before_it_is_complete(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is created with 0600 and gets its mode only after its owner."""
    tree = quick / "tree"
    tree.mkdir()
    (tree / "secret").write_bytes(b"secret")
    (tree / "secret").chmod(0o4755)
    store = stores.make_store(quick / "store")
    record(store, tree)
    seen: list[tuple[str, int]] = []
    real_chown, real_chmod = os.chown, os.fchmod

    def chown(target: int, *arguments: object, **options: object) -> None:
        if isinstance(target, int) and stat.S_ISREG(os.fstat(target).st_mode):
            seen.append(("chown", stat.S_IMODE(os.fstat(target).st_mode)))
        real_chown(target, *arguments, **options)  # type: ignore[arg-type]

    def chmod(target: int, mode: int) -> None:
        if stat.S_ISREG(os.fstat(target).st_mode):
            seen.append(("chmod", stat.S_IMODE(os.fstat(target).st_mode)))
        real_chmod(target, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", chown)
        patch.setattr(os, "fchmod", chmod)
        checkout(store, store.resolve(parse_spec("web")).version, str(quick / "out"))
    assert seen == [("chown", 0o600), ("chmod", 0o600)]


def test_the_report_of_an_unchanged_store(place: Path) -> None:
    (place / "tree").mkdir()
    store = stores.make_store(place / "store")
    record(store, place / "tree")
    before = stores.listing(store)
    restore(Store(store.root), "web", place / "out")
    assert stores.listing(store) == before

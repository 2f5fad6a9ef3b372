"""While a file waits nobody else can get at it, and no file is ever more open than it ends."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import stores, trees
from support.canary import USER
from support.forge import Forge
from support.stores import bring, record

from chunkstore.objects.entry import BLOCK, CHARACTER, DEVICE, Entry

LISTING = """
import json, os, sys
found = []
for above, folders, names in os.walk("."):
    for name in [*folders, *names]:
        path = os.path.join(above, name)
        status = os.lstat(path)
        found.append((path, status.st_mode, status.st_uid, status.st_gid))
json.dump([os.stat(".imgstore").st_mode, found], open(sys.argv[1], "w"))
"""


def pulled(place: Path, node: Path, store: str, log: Path, *options: str) -> str:
    """Run the real program under strace; what it did to files and their metadata."""
    calls = (
        "open,openat,openat2,creat,mkdir,mkdirat,chmod,fchmod,fchmodat,chown,lchown,"
        "fchown,fchownat,rename,renameat,renameat2,mknod,mknodat,setxattr,lsetxattr,fsetxattr"
    )
    done = subprocess.run(
        [
            *("strace", "-f", "-y", "-s", "300", "-o", str(log), "-e", f"trace={calls}"),
            *(
                sys.executable,
                "-m",
                "imgstore",
                "pull",
                "--trust-first",
                store,
                str(node),
                *options,
            ),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(stores.PROJECT), str(stores.PROJECT / "cli")]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "ptrace" in done.stderr.lower():
        pytest.skip("strace can't trace here")
    assert done.returncode == 0, done.stderr
    return log.read_text(errors="replace")


@trees.needs("strace")
def test_every_file_is_made_for_us_alone(place: Path) -> None:
    """First and later: created 0600 (directories 0700), opened up only when whole."""
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    store = stores.make_store(place / "store")
    old = os.umask(0)
    try:
        for name, mode in (("secret", 0o600), ("shared", 0o666), ("power", 0o6755)):
            (tree / name).write_bytes(name.encode() * 3000)
            (tree / name).chmod(mode)
            (tree / f"folder {name}").mkdir()
            (tree / f"folder {name}/inside").write_bytes(b"x")
            (tree / f"folder {name}").chmod(mode | 0o700)
            os.mkfifo(tree / f"pipe {name}")
            (tree / f"pipe {name}").chmod(mode)
        record(store, tree)
        for number in range(2):
            text = pulled(place, node, f"{store.root}/web", place / f"log {number}")
            own = os.fsencode(node).decode()
            made = [
                line
                for line in text.splitlines()
                if own in line
                and re.search(r"O_CREAT|mkdirat|mknodat", line)
                and ("/.imgstore" not in line or "/.imgstore/new" in line)
            ]
            assert len(made) > 8, text[:3000]
            for line in made:
                mode = re.findall(r", (0[0-7]+|S_IF\w+\|0[0-7]+)[,)}]", line)
                allowed = "0700" if "mkdir" in line else "0600"
                assert mode, line
                assert mode[0].rpartition("|")[2] == allowed, line
            trees.assert_same(tree, node)
            for name in () if number else ("secret", "shared", "power"):
                (tree / name).write_bytes(b"other" * 3000)
                (tree / name).chmod(0o4755)
                shutil.rmtree(tree / f"folder {name}")
                (tree / f"folder new {name}").mkdir(0o777)
                (tree / f"folder new {name}/inside").write_bytes(b"x")
            stores.settle()
            record(store, tree)
    finally:
        os.umask(old)


@trees.needs("strace")
def test_owner_then_mode_then_capabilities(place: Path) -> None:
    """A file gets its mode when it is its owner's and has its content, and no second later."""
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    (tree / "power").write_bytes(b"content" * 1000)
    (tree / "power").chmod(0o4755)
    store = stores.make_store(place / "store")
    record(store, tree)
    for number in range(2):
        text = pulled(place, node, f"{store.root}/web", place / f"log {number}")
        lines = [line for line in text.splitlines() if str(node) in line]
        at = [n for n, line in enumerate(lines) if "fchmod(" in line and "04755" in line]
        assert len(at) == 1
        before = [n for n, line in enumerate(lines) if "fchown(" in line and n < at[0]]
        assert before
        (tree / "power").write_bytes(b"changed" * 1000)
        (tree / "power").chmod(0o4755)
        stores.settle()
        record(store, tree)


def test_what_waits_is_where_nobody_gets_to(place: Path) -> None:
    """Seen by a hook, when all is made and nothing is in its place yet."""
    import json

    node, seen = place / "node", place / "seen.json"
    forge = Forge()
    root = forge.directory(b"")
    forge.publish(root, forge.file(b"power", b"one", mode=0o4755))
    bring(forge.backend, "web", node)
    (node / ".imgstore").chmod(0o755)
    forge.publish(
        *(root, forge.file(b"more", b"three", mode=0o644)),
        forge.file(b"power", b"two", mode=0o4755),
    )
    script = place / "list.py"
    script.write_text(LISTING)
    command = f"{sys.executable} {script} {seen}"
    bring(forge.backend, "web", node, pre_apply=(command,), environment=dict(os.environ))
    state, found = json.loads(seen.read_text())
    assert stat.S_IMODE(state) == 0o700
    modes = {path: mode for path, mode, _, _ in found}
    assert stat.S_IMODE(modes["./.imgstore/new"]) == 0o700
    waiting = {path: stat.S_IMODE(mode) for path, mode in modes.items() if "/new/" in path}
    assert sorted(waiting.values()) == [0o644, 0o4755]
    for path, mode in modes.items():
        if "/.imgstore/" in path and "/new/" not in path and stat.S_ISREG(mode):
            assert not mode & 0o6077 or "catalog" in path or "sqlite" in path, path


@trees.needs_root
def test_directories_that_are_half_filled_are_closed(quick: Path) -> None:
    """An interrupted installation goes on in directories that their users could already enter."""
    from support import fuse

    forge = Forge()
    his = {"uid": USER, "gid": USER}
    forge.publish(
        *(forge.directory(b""), forge.directory(b"d", mode=0o777, **his)),
        *(forge.file(b"d/a", b"a"), forge.file(b"d/power", b"b", mode=0o4755)),
        *(forge.file(b"z", b"z"), forge.file(b"zz", b"z")),
    )
    total = fuse.changes_of(lambda: bring(forge.backend, "web", quick / "probe"))
    node = quick / "node"
    assert fuse.cut_off(total - 4, lambda: bring(forge.backend, "web", node))
    assert (node / "d").stat().st_uid == USER
    seen: list[int] = []

    def looked(*arguments: object, **options: object) -> int:
        seen.append((node / "d").stat().st_mode & 0o077)
        seen.append((node / "d").stat().st_uid)
        return real(*arguments, **options)  # type: ignore[arg-type]

    (node / "d/power").unlink()
    from chunkstore.worktree import restore

    real = restore.make_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore, "make_file", looked)
        bring(forge.backend, "web", node)
    assert seen
    assert set(seen) == {0}
    assert (node / "d").stat().st_mode & 0o777 == 0o777
    assert (node / "d").stat().st_uid == USER


# Devices


def device(path: bytes, kind: int, major: int, minor: int) -> Entry:
    return Entry(path, kind, 0o666, 0, 0, 10**18, 0, DEVICE.pack(major, minor))


def with_devices(forge: Forge, salt: int) -> list[Entry]:
    return [
        *(forge.directory(b""), device(b"block", BLOCK, 7, 200 + salt)),
        *(device(b"linked", BLOCK, 7, 200 + salt)._replace(link=b"block"),),
        device(b"null", CHARACTER, 1, 3 + salt),
        forge.file(b"z", b"%d" % salt),
    ]


@trees.needs_root
def test_no_devices_means_none(quick: Path) -> None:
    forge, node = Forge(), quick / "node"
    for salt in (0, 1):
        forge.publish(*with_devices(forge, salt))
        report = bring(forge.backend, "web", node, devices=False)
        assert sorted(os.listdir(node)) == [".imgstore", "z"]
        assert report.shortfalls.kinds["devices"][0] == 3
    bring(forge.backend, "web", node, mirror=True)
    assert stat.S_ISBLK((node / "linked").stat().st_mode)


@trees.needs_root
@trees.needs("strace")
def test_a_device_is_never_opened(place: Path) -> None:
    """Opening one can rewind a tape or start a watchdog; O_PATH opens nothing."""
    tree, node = place / "tree", place / "node"
    tree.mkdir()
    store = stores.make_store(place / "store")
    for number, modes in enumerate((0o660, 0o600)):
        for name, form, numbers in (
            ("chardev", stat.S_IFCHR, (1, 3)),
            ("blockdev", stat.S_IFBLK, (7, 211)),
        ):
            (tree / name).unlink(missing_ok=True)
            os.mknod(tree / name, form | modes, os.makedev(*numbers))
        (tree / "gone dev").unlink(missing_ok=True)
        if not number:
            os.mknod(tree / "gone dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        stores.settle()
        record(store, tree)
        options = ["--mirror"] if number else []
        text = pulled(place, node, f"{store.root}/web", place / f"log {number}", *options)
        assert "chardev" in text or "mknodat" in text
        for line in text.splitlines():
            if re.search(r"(chardev|blockdev|gone dev)\"?|<char|<block", line) and "open" in line:
                assert "O_PATH" in line or " = -1 " in line or "/dev/" in line, line
    trees.assert_same(tree, node)


@trees.needs_root
@trees.needs("setpriv")
@pytest.mark.parametrize("how", ["nobody", "user namespace"])
def test_without_privileges_devices_are_a_remark(quick: Path, how: str) -> None:
    forge, tree = Forge(), quick / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"file")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    store = stores.make_store(quick / "store")
    record(store, tree)
    assert forge
    quick.chmod(0o755)
    home = quick / "home"
    home.mkdir()
    if how == "nobody":
        os.chown(home, 65534, 65534)
    subprocess.run(["chmod", "-R", "a+rX", store.root], check=True)
    script = (
        "import sys\n"
        "from support.stores import bring\n"
        "from pathlib import Path\n"
        "from chunkstore.storage.backends.local import LocalBackend\n"
        "report = bring(LocalBackend(sys.argv[1]), 'web', Path(sys.argv[2]))\n"
        "print(report.shortfalls.kinds['devices'][0])\n"
    )
    prefix = (
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if how == "nobody"
        else ["unshare", "--user", "--map-root-user"]
    )
    readable = copy_of_the_program(quick)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script, store.root, str(home / "node")],
        env={**os.environ, "PYTHONPATH": readable, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "Permission denied" in done.stderr and how == "nobody" and "python" in done.stderr:
        pytest.skip("nobody can't run this interpreter")
    if "unshare" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"
    assert sorted(os.listdir(home / "node")) == [".imgstore", "file"]


def copy_of_the_program(place: Path) -> str:
    """The project and its libraries, where everybody can read them."""
    import zstandard

    target = place / "program"
    target.mkdir()
    for name in ("chunkstore", "cli/imgstore", "tests/support"):
        shutil.copytree(stores.PROJECT / name, target / Path(name).name)
    packages = Path(zstandard.__file__).parent.parent
    os.symlink(packages, target / "site")
    subprocess.run(["chmod", "-R", "a+rX", str(target)], check=True)
    return os.pathsep.join([str(target), str(packages)])

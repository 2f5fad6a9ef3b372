"""`/` itself: a machine that runs from the very tree it updates, in a root of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import zstandard
from support import stores, trees

pytestmark = [trees.needs_root, trees.needs("busybox", "unshare")]

INSIDE = """
set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 none dev
for name in null zero urandom; do : > dev/$name; mount --bind /dev/$name dev/$name; done
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=755 none boot
echo alive > run/socket
for path in "$@"; do
    mkdir -p "./$path"
    mount --bind -o ro "$path" "./$path"
done
mkdir -p store
mount --bind -o ro "$STORE" store
pivot_root . mnt
exec /bin/busybox sh -c "$WORK"
"""


def host_paths() -> list[str]:
    """What Python and the program need of this machine, mounted read-only beside the tree."""
    found = {
        *("/usr", "/lib", "/lib64", os.path.realpath(sys.base_prefix), str(stores.PROJECT)),
        str(Path(zstandard.__file__).parent.parent),
        sysconfig.get_path("stdlib"),
    }
    paths = sorted(path for path in found if os.path.isdir(path))
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def small_system(tree: Path, salt: str) -> None:
    for name in ("bin", "boot", "dev", "etc", "mnt", "proc", "run", "store", "tmp"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "bin/busybox")
    with open(tree / "bin/busybox", "ab") as file:
        file.write(salt.encode())
    for name in ("motd", "hostname"):
        (tree / "etc" / name).write_text(salt)
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tree / "tmp").chmod(0o1777)


def test_a_pull_into_the_running_root(place: Path) -> None:
    tree, node = place / "tree", place / "node"
    small_system(tree, "one")
    store = stores.make_store(place / "store")
    stores.record(store, tree)
    stores.bring(stores.in_memory(store), "web", node)
    (node / "etc/hostname").write_text("mine")
    (node / "etc/own").write_text("my own")
    small_system(tree, "two")
    (tree / "boot/kernel").write_text("for the mount, if it is the image's")
    (tree / "dev/null").write_text("must not be written")
    (tree / "run/pid").write_text("must not be written")
    stores.settle()
    stores.record(store, tree)
    python = os.path.realpath(sys.executable)
    before = Path("/dev/null").stat().st_mode
    work = (
        "/bin/busybox umount -l /mnt || exit 8\n"
        f"export PYTHONPATH={stores.PROJECT}:{stores.PROJECT}/cli:"
        f"{Path(zstandard.__file__).parent.parent} PYTHONDONTWRITEBYTECODE=1\n"
        f"for i in 1 2; do {python} -m imgstore -v pull /store/web / || exit 9; done\n"
        f"{python} -m imgstore --json verify /\n"
        "/bin/busybox cat /run/socket\n"
        "/bin/busybox ls /dev /proc/1 >/dev/null && echo 'still mounted'\n"
    )
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "sh",
            "-c",
            INSIDE,
            "sh",
            str(node),
            *host_paths(),
        ],
        env={**os.environ, "WORK": work, "STORE": store.root, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr or "must be superuser" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alive\nstill mounted\n" in done.stdout
    for name in ("dev", "proc", "run"):
        assert f"{name}: " in done.stderr
    assert "left alone" in done.stderr
    assert "etc/hostname: was changed here" in done.stderr
    assert Path("/dev/null").stat().st_mode == before
    # Seen from outside, where nothing is mounted over it.
    for path in ("bin/busybox", "etc/motd", "etc/hostname"):
        assert (node / path).read_bytes() == (tree / path).read_bytes(), path
    assert (node / "etc/own").read_text() == "my own"
    (saved,) = (node / ".imgstore/saved").rglob("hostname")
    assert saved.read_text() == "mine"
    for path in ("boot/kernel", "dev/null", "run/pid"):
        assert not (node / path).exists(), path

"""The main job on real input of this machine, watched: `make demo`.

Copies a real tree of at least 200 MB and 5,000 files, commits it, edits it as an administrator
would, commits again, serves it, installs two nodes and updates them, exports the full and the
differential archive and unpacks both with GNU tar. Every tree is then compared with the image by
tools that know nothing of imgstore: `diff` for content, `find` for metadata, and `rsync` where it
is installed. Exits with 1 if any of them differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ENOUGH_BYTES = 220_000_000
ENOUGH_FILES = 5_500
IMGSTORE = [sys.executable, "-m", "imgstore"]
LISTED = "%P|%y|%m|%U|%G|%s|%T@|%l\\n"
"""Path, type, mode, owner, group, size, mtime with all its digits, link target."""


class Table:
    """What was done, how long it took, how many bytes came of it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int | None]] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[int]]:
        """Time a step; what is put into the list are its bytes."""
        print(f"\n\033[1m{name}\033[0m" if sys.stdout.isatty() else f"\n{name}", flush=True)
        size: list[int] = []
        start = time.monotonic()
        yield size
        self.rows.append((name, time.monotonic() - start, sum(size) if size else None))

    def show(self, full: int) -> None:
        print(f"\n{'step':44} {'seconds':>8} {'MB':>9} {'of image.tar.gz':>16}")
        for name, seconds, size in self.rows:
            megabytes = "" if size is None else f"{size / 1e6:9.2f}"
            share = "" if size is None else f"{100 * size / full:15.1f}%"
            print(f"{name:44} {seconds:8.2f} {megabytes:>9} {share:>16}")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command, show it and what it says, and return its standard output."""
    words = [str(word) for word in command]
    shown = ["imgstore", *words[len(IMGSTORE) :]] if words[: len(IMGSTORE)] == IMGSTORE else words
    print(f"$ {' '.join(shown)}", flush=True)
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    print("\n".join(lines[:12]) + ("\n" if lines else ""), end="")
    if len(lines) > 12:
        print(f"... {len(lines) - 12} more lines")
    return done.stdout


def imgstore(*words: str | Path) -> str:
    return run(*IMGSTORE, *words)


def measure(tree: Path) -> tuple[int, int]:
    """Files and bytes below a directory."""
    files = size = 0
    for folder, _, names in os.walk(tree):
        for name in names:
            files += 1
            size += os.lstat(os.path.join(folder, name)).st_size
    return files, size


def sources() -> Iterator[Path]:
    """Real trees that are on most machines, the largest parts by themselves."""
    library = Path(sys.base_prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (library, Path("/usr/lib"), Path("/usr/share"), Path("/usr/include"), Path("/opt")):
        if path.is_dir():
            for entry in sorted(entry for entry in path.iterdir() if not entry.is_symlink()):
                # One huge package would fill the demonstration all by itself.
                if not entry.is_dir() or measure(entry)[1] < ENOUGH_BYTES // 2:
                    yield entry


def gather(target: Path) -> tuple[int, int]:
    """Copy real files until there are enough; returns how many, and their bytes."""
    files = size = 0
    (target / "etc").mkdir(parents=True)
    for source in sources():
        if files >= ENOUGH_FILES and size >= ENOUGH_BYTES:
            break
        below = target / "usr" / source.parent.name
        below.mkdir(parents=True, exist_ok=True)
        copied = subprocess.run(
            ["cp", "-a", "--reflink=auto", str(source), str(below)],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        # What this user may not read is left out of the demonstration.
        added = measure(below / source.name) if (below / source.name).is_dir() else (1, 0)
        if copied.returncode == 0 or added[0]:
            files, size = files + added[0], size + added[1]
    (target / "etc" / "motd").write_text("Welcome to the first version.\n")
    (target / "etc" / "app.conf").write_text("workers = 4\nlog = info\n" * 200)
    return measure(target)


def edit(tree: Path) -> None:
    """What an administrator does before an update: a bit of everything."""
    files = sorted(path for path in tree.rglob("*.py") if path.is_file() and not path.is_symlink())
    if len(files) < 40:
        files = sorted(p for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    (tree / "etc" / "app.conf").write_text("workers = 8\nlog = debug\n" * 200)
    (tree / "etc" / "new-service.conf").write_text("listen = 8080\n")
    for path in files[:5]:
        with path.open("a") as file:
            file.write("\n# patched\n")
    for path in files[5:15]:
        path.unlink()
    files[20].chmod(0o640)
    moved = tree / "usr" / "moved"
    moved.mkdir()
    for path in files[25:35]:
        path.rename(moved / f"{path.parent.name}-{path.name}")
    os.symlink("../etc/app.conf", moved / "app.conf")
    os.link(tree / "etc" / "motd", tree / "etc" / "issue")


def listing(tree: Path) -> list[str]:
    """Every path with its metadata, by `find`; the node's own directory left out."""
    found = subprocess.run(
        ["find", ".", "-path", "./.imgstore", "-prune", "-o", "-printf", LISTED],
        cwd=tree,
        capture_output=True,
        check=True,
    )
    lines = found.stdout.decode("utf-8", "surrogateescape").splitlines()
    # A directory's size is the file system's own business.
    return sorted(re.sub(r"(\|d\|[^|]*\|[^|]*\|[^|]*\|)[0-9]+", r"\1-", line) for line in lines)


def compare(wanted: Path, found: Path) -> bool:
    """Whether two trees are the same to `find`, `diff` and, where it is installed, `rsync`."""
    checks: list[tuple[str, bool]] = [("find", listing(wanted) == listing(found))]
    command = ["diff", "-r", "-q", "--no-dereference", "--exclude=.imgstore"]
    content = subprocess.run(
        [*command, str(wanted), str(found)], stdout=subprocess.DEVNULL, check=False
    )
    checks.append(("diff", content.returncode == 0))
    if shutil.which("rsync"):
        command = ["rsync", "-aHn", "--checksum", "--itemize-changes", "--delete"]
        listed = subprocess.run(
            [*command, "--exclude=/.imgstore", f"{wanted}/", f"{found}/"],
            capture_output=True,
            check=True,
        )
        checks.append(("rsync", not listed.stdout.strip()))
    said = ", ".join(f"{name}: {'same' if is_same else 'DIFFERENT'}" for name, is_same in checks)
    print(f"{found.name} against {wanted.name}: {said}")
    return all(is_same for _, is_same in checks)


@contextlib.contextmanager
def serving(log: Path) -> Iterator[str]:
    """`imgstore serve` on a free port of loopback; its URL."""
    command = [*IMGSTORE, "serve", "--listen", "127.0.0.1:0"]
    print("$ imgstore serve --listen 127.0.0.1:0 &")
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(200):
            match = re.search(r"http://[0-9.]+:[0-9]+", log.read_text())
            if match:
                yield match[0]
                return
            if server.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"the server did not start: {log.read_text()}")
    finally:
        server.terminate()
        server.wait()


def store_size(store: Path) -> int:
    return sum(path.stat().st_size for path in store.glob("packs/*"))


def pull(*words: str | Path) -> int:
    """Pull, say what moved, and return the bytes that came: over HTTP and from the swarm."""
    print(f"$ imgstore pull {' '.join(map(str, words))}", flush=True)
    command = [*IMGSTORE, "--json", "pull", "--trust-first", *map(str, words)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    parts = ", ".join(
        f"{name} {report[name]['chunks']} chunks ({report[name]['bytes'] / 1e6:.2f} MB)"
        for name in ("needed", "found", "fetched")
    )
    swarm = report["swarm"]
    ways = {
        f"over HTTP (requests: {report['requests']})": report["received_bytes"],
        "from the server's seed": swarm["from_seed"],
        "from peers": swarm["from_peers"],
    }
    came = ", ".join(f"{size / 1e6:.2f} MB {way}" for way, size in ways.items())
    print(f"{parts}; {came}")
    return sum(ways.values())


def pull_nodes(work: Path, first: Path, image: Path, table: Table) -> list[bool]:
    """Install two nodes and update them, each alone; whether each was what it should be."""
    same = []
    with serving(work / "serve.log") as url:
        for node in ("node1", "node2"):
            with table.step(f"first pull, {node}") as moved:
                moved.append(pull(f"{url}/web:base", work / node))
            same.append(compare(first, work / node))
        for node in ("node1", "node2"):
            with table.step(f"update pull, {node}") as moved:
                moved.append(pull(f"{url}/web", work / node))
            same.append(compare(image, work / node))
        with table.step("pull with nothing to do") as moved:
            moved.append(pull(work / "node1"))
    return same


def export_archives(work: Path, image: Path, full: Path, table: Table) -> bool:
    """Export both archives and unpack them with GNU tar; whether the result is the image."""
    diff = work / "image-diff.tar.gz"
    with table.step("export image.tar.gz") as moved:
        imgstore("export", "web:base", "-o", full)
        moved.append(full.stat().st_size)
    with table.step("export image-diff.tar.gz") as moved:
        imgstore("export", "web", "--base", "web:base", "-o", diff)
        moved.append(diff.stat().st_size)
    unpacked = work / "unpacked"
    unpacked.mkdir()
    with table.step("unpack both with tar"):
        run("tar", "-xzpf", full, "-C", unpacked)
        run("sh", "-c", "xargs -0 -r rm -rf -- < ../image-diff.deletions", cwd=unpacked)
        run("tar", "-xzpf", diff, "-C", unpacked)
    return compare(image, unpacked)


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration in a directory, by default `demo` in the current one."""
    work = Path(arguments[0] if arguments else "demo").resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    store, image, first = work / "store", work / "image", work / "first-version"
    os.environ["IMGSTORE_STORE"] = str(store)
    table = Table()
    started = time.monotonic()

    files, size = gather(image)
    print(f"a real tree: {files} files, {size / 1e6:.0f} MB, in {image}")
    with table.step("first commit") as moved:
        imgstore("commit", "web", image, "-m", "first version")
        moved.append(store_size(store))
    subprocess.run(["cp", "-a", "--reflink=auto", str(image), str(first)], check=True)
    with table.step("commit with nothing changed"):
        imgstore("commit", "web", image)
    edit(image)
    with table.step("commit after the edit") as moved:
        before = store_size(store)
        imgstore("commit", "web", image, "-m", "second version")
        moved.append(store_size(store) - before)
    with table.step("diff"):
        imgstore("diff", "web:base", "web")
        imgstore("diff", "web:base", "web", "--stat")

    same = pull_nodes(work, first, image, table)
    full = work / "image.tar.gz"
    same.append(export_archives(work, image, full, table))
    with table.step("verify the store"):
        imgstore("verify")

    table.show(full.stat().st_size)
    print(f"\n{time.monotonic() - started:.0f} seconds in all; everything is in {work}")
    print("every tree is the same" if all(same) else "SOME TREES DIFFER")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

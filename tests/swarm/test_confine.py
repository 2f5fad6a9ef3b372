"""A process that only gives keeps nothing that it could do harm with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.program import environment
from support.strace import needs_strace

from chunkstore.swarm import confine

TRIES = """
import json, os, signal, socket, sys, threading
from chunkstore.swarm.confine import confine

cache, outside, allowed, victim = sys.argv[1:5]
directory = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
held = os.open(outside + "/held", os.O_RDONLY)
os.environ["RES_OPTIONS"] = "no-reload"
confine(directory, [allowed])
results = {}

def attempt(name, work):
    try:
        work()
        results[name] = "done"
    except Exception as error:
        results[name] = type(error).__name__

def write(path, data=b"x"):
    with open(path, "wb") as file:
        file.write(data)

def read(path):
    with open(path, "rb") as file:
        return file.read()

def all_of_it():
    inside = f"/proc/self/fd/{directory}"
    attempt("write the cache", lambda: write(inside + "/fresh"))
    attempt("read the cache", lambda: read(inside + "/fresh"))
    attempt("write again", lambda: write(inside + "/fresh", b"yy"))
    attempt("remove", lambda: os.unlink("fresh", dir_fd=directory))
    attempt("list the cache", lambda: os.listdir(directory))
    attempt("read what is allowed", lambda: read(allowed))
    attempt("read what is open", lambda: os.read(held, 9))
    attempt("import", lambda: __import__("wave"))
    attempt("find a host", lambda: socket.getaddrinfo("localhost", 80))
    attempt("write nowhere", lambda: write("/dev/null"))
    attempt("use the network", lambda: socket.create_server(("127.0.0.1", 0)).close())
    attempt("write outside", lambda: write(outside + "/fresh"))
    attempt("change outside", lambda: open(outside + "/held", "r+b").close())
    attempt("truncate outside", lambda: os.truncate(outside + "/held", 0))
    attempt("read outside", lambda: read(outside + "/held"))
    attempt("list outside", lambda: os.listdir(outside))
    attempt("remove outside", lambda: os.unlink(outside + "/held"))
    attempt("link outside", lambda: os.symlink("x", outside + "/link"))
    attempt("link into the cache", lambda: os.link(outside + "/held", cache + "/link"))
    attempt("move out", lambda: os.rename(cache + "/kept", outside + "/kept"))
    attempt("read passwords", lambda: read("/etc/shadow"))
    attempt("make a device", lambda: os.mknod(cache + "/device", 0o020600, os.makedev(0, 0)))
    attempt("run a program", lambda: os.posix_spawn("/bin/true", ["true"], {}))
    attempt("signal others", lambda: os.kill(int(victim), 0))
    attempt("become another", lambda: os.setuid(65534))

# A thread of later has no more than this one.
thread = threading.Thread(target=all_of_it)
thread.start()
thread.join()
print(json.dumps(results))
"""
MAY = (
    *("write the cache", "read the cache", "write again", "remove", "list the cache"),
    *("read what is allowed", "read what is open", "import", "find a host", "write nowhere"),
    "use the network",
)
MAY_NOT = (
    *("write outside", "change outside", "truncate outside", "read outside", "list outside"),
    *("remove outside", "link outside", "link into the cache", "move out", "make a device"),
    *("run a program", "signal others"),
)
ROOT_MAY_NOT = ("read passwords", "become another")


def tried(place: Path, *prefix: str) -> dict[str, str]:
    """What a confined process could do, by what it tried, and how it failed."""
    for name in ("cache", "outside"):
        (place / name).mkdir()
    (place / "cache/kept").write_bytes(b"kept")
    (place / "outside/held").write_bytes(b"held")
    (place / "allowed").write_bytes(b"allowed")
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            command = [*prefix, sys.executable, "-c", TRIES, place / "cache", place / "outside"]
            ended = subprocess.run(
                [*map(str, command), str(place / "allowed"), str(victim.pid)],
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        finally:
            victim.kill()
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout)
    return found


def test_only_the_cache_is_left(place: Path):
    version = confine.version()
    if version < 1:
        pytest.skip("needs a kernel with Landlock")
    found = tried(place)
    assert {name: found.pop(name) for name in MAY} == dict.fromkeys(MAY, "done")
    if version < 6:
        del found["signal others"]
    if os.geteuid():
        del found["read passwords"], found["become another"]
    assert {name for name, how in found.items() if how == "done"} == set()
    assert set(found) <= {*MAY_NOT, *ROOT_MAY_NOT}
    assert (place / "outside/held").read_bytes() == b"held"
    assert sorted(os.listdir(place / "outside")) == ["held"]


@needs_strace
def test_where_the_kernel_does_not_allow_it_it_goes_on(place: Path):
    refused = "prctl,capset,landlock_create_ruleset,landlock_restrict_self"
    prefix = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={refused}")
    found = tried(place, *prefix, "-e", f"inject={refused}:error=EPERM")
    assert {found[name] for name in MAY} == {"done"}
    assert found["read outside"] == "done"

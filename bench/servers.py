"""Servers on the loopback for the length of a `with` block, and what they used meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_PATIENCE = 10.0
_RSYNCD = """
use chroot = no
uid = 0
gid = 0
reverse lookup = no
log file = {folder}/rsyncd.log
"""
_NGINX = """
daemon off; user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.error;
events {{ worker_connections 1024; }}
http {{
  sendfile on; keepalive_requests 1000000;
  log_format bytes "$bytes_sent $status $request"; access_log {folder}/nginx.log bytes;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen {address}:{port} backlog=1024; root {root}; }}
}}
"""


class Where(NamedTuple):
    """What a server's command line begins with, and the address it listens at."""

    inside: tuple[str, ...] = ()
    address: str = "127.0.0.1"


HERE = Where()


class Server:
    """A running server: where it listens, and what its processes have used so far."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path | None) -> None:
        self.port = port
        self._process = process
        self._log = log

    def cpu(self) -> float:
        """Seconds of user and system time, those of ended children included."""
        ticks = 0
        for pid in self._processes():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak(self) -> int:
        """Bytes of its largest process since it was started."""
        found = [0]
        for pid in self._processes():
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{pid}/status").read_text()
                found += [int(kib) * 1024 for kib in re.findall(r"VmHWM:\s+(\d+) kB", status)]
        return max(found)

    def settle(self) -> None:
        """Wait until the processes that served a client are gone, so that their time is counted."""
        end = time.monotonic() + _PATIENCE
        while len(self._processes()) > 2 and time.monotonic() < end:
            time.sleep(0.01)

    def traffic(self) -> tuple[int, int] | None:
        """Bytes sent and requests answered so far, by the server's own log if it keeps one."""
        if self._log is None:
            return None
        sizes = [int(line.split(" ", 1)[0]) for line in self._log.read_text().splitlines()]
        return sum(sizes), len(sizes)

    def _processes(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:
            with suppress(FileNotFoundError, ProcessLookupError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                found += map(int, children.split())
        return found


def find_nginx() -> str | None:
    """The path of nginx, which lives where a user's PATH does not lead."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def imgstore_server(imgstore: Sequence[str], store: Path, where: Where = HERE) -> Iterator[Server]:
    """`imgstore serve`."""
    serve = ["--json", "serve", "--listen", f"{where.address}:0"]
    arguments = [*where.inside, *imgstore, "--store", str(store), *serve]
    with _running(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines: list[bytes] = []
        while not lines or lines[-1].rstrip() not in (b"}", b""):
            lines.append(process.stdout.readline())
        url, *_ = json.loads(b"".join(lines))["urls"]
        yield Server(process, int(url.rpartition(":")[2]), None)


@contextmanager
def rsync_daemon(
    folder: Path, modules: Mapping[str, Path], where: Where = HERE
) -> Iterator[Server]:
    """An rsync daemon that offers directories, read-only."""
    port = _free_port()
    configuration = folder / "rsyncd.conf"
    parts = [f"[{name}]\npath = {path}\nread only = yes\n" for name, path in modules.items()]
    configuration.write_text(_RSYNCD.format(folder=folder) + "".join(parts))
    options = [f"--address={where.address}", f"--port={port}", f"--config={configuration}"]
    with _running([*where.inside, "rsync", "--daemon", "--no-detach", *options]) as process:
        _wait_for(port, process)
        yield Server(process, port, None)


@contextmanager
def nginx(folder: Path, root: Path, where: Where = HERE) -> Iterator[Server]:
    """nginx with one worker; its log tells the bytes."""
    port = _free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _NGINX.format(folder=folder, address=where.address, port=port, root=root)
    )
    log = folder / "nginx.log"
    log.write_bytes(b"")
    program = find_nginx() or "nginx"
    with _running([*where.inside, program, "-c", str(configuration), "-p", str(folder)]) as process:
        _wait_for(port, process)
        yield Server(process, port, log)


@contextmanager
def _running(
    arguments: Sequence[str], stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it listens, by what the kernel says of the network that the process is in."""
    end = time.monotonic() + _PATIENCE
    listens = re.compile(rf"^ *\d+: [0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A ", re.MULTILINE)
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            if listens.search(Path(f"/proc/{process.pid}/net/tcp").read_text()):
                return
        time.sleep(0.02)
    raise SystemExit(f"a server did not come up: {process.args!r}")

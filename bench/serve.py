#!/usr/bin/env python3
"""Compare HTTP servers on ranges of a pack, over the loopback.

    bench/serve.py [--connections N]... [--seconds S] [--rounds R] [--only NAME]...

Each server runs as a process of its own and serves the same store: a pack of
64 MiB, asked for in ranges of 64 KiB, 1 MiB and 8 MiB at random offsets, over
kept connections. `http.server` knows no ranges and opens a connection for each
request; it gets files of just those sizes.

    imgstore     chunkstore.server, as `imgstore serve` runs it
    aiohttp      aiohttp's own FileResponse
    threads      ThreadingHTTPServer and os.sendfile, in 30 lines, without limits
    http.server  python -m http.server
    nginx        one worker, sendfile, if it is installed

The servers take turns, and each row is the best of a server's rounds: other work
on the machine only ever slows one down. CPU is what the server's processes used,
user and system; us/req is the same per request. RSS is the server's peak. The
clients are two processes that discard bodies inside the kernel (MSG_TRUNC), so
that they take little from the server; they and the server still share the
machine, so compare, don't quote.

Needs aiohttp and Linux.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PACK_SIZE = 64 << 20
SIZES = (64 << 10, 1 << 20, 8 << 20)
PACK = f"/packs/{'a' * 64}.pack"
CLIENTS = 2
NGINX = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000000;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Figures:
    requests_per_s: float
    mb_per_s: float
    cpu_s_per_gb: float
    us_per_request: float
    rss_mb: float


# --- the servers


def serve_imgstore(root: Path, port: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from chunkstore.server import serve_forever

    serve_forever(root, "127.0.0.1", port)


def serve_aiohttp(root: Path, port: int) -> None:
    from aiohttp import web

    app = web.Application()
    app.router.add_static("/", root)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


def serve_threads(root: Path, port: int) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            fd = os.open(f"{root}{self.path}", os.O_RDONLY | os.O_NOFOLLOW)
            try:
                size = os.fstat(fd).st_size
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
                assert match is not None
                start, stop = int(match[1]), int(match[2]) + 1
                self.send_response(206)
                self.send_header("Content-Length", str(stop - start))
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
                self.end_headers()
                self.wfile.flush()
                while start < stop:
                    start += os.sendfile(self.connection.fileno(), fd, start, stop - start)
            finally:
                os.close(fd)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 4096

    Server(("127.0.0.1", port), Handler).serve_forever()


def command(name: str, root: Path, port: int, scratch: Path) -> list[str]:
    if name == "nginx":
        configuration = scratch / "nginx.conf"
        configuration.write_text(NGINX.format(dir=scratch, port=port, root=root))
        return [nginx() or "nginx", "-c", str(configuration), "-p", str(scratch)]
    if name == "http.server":
        where = ["--bind", "127.0.0.1", "--directory", str(root)]
        return [sys.executable, "-m", "http.server", str(port), *where]
    return [sys.executable, __file__, "--serve", name, str(root), str(port)]


def nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def started(name: str, root: Path) -> Iterator[tuple[int, list[int]]]:
    """Run a server; gives its port and the processes whose CPU counts."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            command(name, root, port, Path(scratch)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(port, process)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield port, [process.pid, *map(int, children.split())]
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}: {process.args!r}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit(f"the server does not listen: {process.args!r}")


# --- the clients


class Connection:
    """A client's connection: asks, reads the head, discards the body, asks again."""

    def __init__(self, port: int, size: int, *, ranged: bool) -> None:
        self._address = ("127.0.0.1", port)
        self._size = size
        self._ranged = ranged
        self._sink = bytearray(1 << 20)
        self._left = 0
        self._head = b""
        self.done = 0
        self.sock = socket.socket()
        self.connect()

    def connect(self) -> None:
        """Ask on a new connection."""
        self.sock.close()
        self.sock = socket.create_connection(self._address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask()

    def ask(self) -> None:
        headers, path = "", f"/{self._size}"
        if self._ranged:
            start = random.randrange(PACK_SIZE - self._size)
            headers, path = f"Range: bytes={start}-{start + self._size - 1}\r\n", PACK
        with suppress(ConnectionError):  # closed meanwhile: reading will tell
            self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n".encode())

    def read(self) -> None:
        """Take what has come; to be called when there is something."""
        if self._left:
            wanted = min(self._left, len(self._sink))
            self._left -= self._check(self.sock.recv_into(self._sink, wanted, socket.MSG_TRUNC))
        else:
            data = self._receive()
            if not data and not self._head:
                self.connect()  # the server need not keep connections for ever
                return
            self._check(len(data))
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if head[9:12] != (b"206" if self._ranged else b"200"):
                raise RuntimeError(f"unexpected answer: {head!r}")
            self._head = b""
            self._left = self._size - len(body)
        if not self._left:
            self.done += 1
            self.ask() if self._ranged else self.connect()

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(4096)
        except ConnectionResetError:
            return b""

    def _check(self, count: int) -> int:
        if not count:
            raise RuntimeError("the server closed the connection")
        return count


def client(port: int, size: int, connections: int, ranged: bool, seconds: float) -> int:
    """Load the server for a while; returns how many requests were answered."""
    selector = selectors.DefaultSelector()
    fleet = [Connection(port, size, ranged=ranged) for _ in range(connections)]
    for each in fleet:
        selector.register(each.sock, selectors.EVENT_READ, each)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(1):
            connection: Connection = key.data
            connection.read()
            if connection.sock is not key.fileobj:
                with suppress(KeyError, ValueError):
                    selector.unregister(key.fileobj)
                selector.register(connection.sock, selectors.EVENT_READ, connection)
    return sum(each.done for each in fleet)


# --- measuring


def cpu_seconds(processes: list[int]) -> float:
    ticks = 0
    for each in processes:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_rss(processes: list[int]) -> float:
    status = [Path(f"/proc/{each}/status").read_text() for each in processes]
    found = (re.search(r"VmHWM:\s+(\d+) kB", text) for text in status)
    return sum(int(match[1]) for match in found if match) / 1000


def measure(name: str, root: Path, size: int, connections: int, seconds: float) -> Figures:
    ranged = name != "http.server"
    share = max(1, connections // CLIENTS)
    job = (size, share, ranged, seconds)
    with started(name, root) as (port, processes), multiprocessing.Pool(CLIENTS) as pool:
        pool.starmap(client, [(port, size, share, ranged, 0.3)] * CLIENTS)  # warm up
        cpu, begun = cpu_seconds(processes), time.monotonic()
        answered = sum(pool.starmap(client, [(port, *job)] * CLIENTS, chunksize=1))
        took, cpu = time.monotonic() - begun, cpu_seconds(processes) - cpu
        gigabytes = answered * size / 1e9
        return Figures(
            requests_per_s=answered / took,
            mb_per_s=gigabytes * 1000 / took,
            cpu_s_per_gb=cpu / gigabytes,
            us_per_request=cpu / answered * 1e6,
            rss_mb=peak_rss(processes),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare HTTP servers on ranges of a pack.")
    parser.add_argument("--connections", type=int, action="append", help="default: 8")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="servers to measure")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        name, root, port = options.serve
        globals()[f"serve_{name}"](Path(root), int(port))
        return
    names = ["imgstore", "aiohttp", "threads", "http.server", *(["nginx"] if nginx() else [])]
    names = [each for each in names if not options.only or each in options.only]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)  # nginx's worker may be another user
        (root / "packs").mkdir()
        (root / PACK[1:]).write_bytes(os.urandom(PACK_SIZE))
        for size in SIZES:
            (root / str(size)).write_bytes(os.urandom(size))
        print("conns   range  server        req/s    MB/s  CPU s/GB  us/req  RSS MB")
        for connections in options.connections or [8]:
            for size in SIZES:
                rounds: dict[str, list[Figures]] = {name: [] for name in names}
                for _ in range(options.rounds):
                    for name in names:
                        figures = measure(name, root, size, connections, options.seconds)
                        rounds[name].append(figures)
                for name in names:
                    row = max(rounds[name], key=lambda each: each.requests_per_s)
                    print(
                        f"{connections:5} {size >> 10:6}K  {name:11} {row.requests_per_s:7.0f}"
                        f" {row.mb_per_s:7.0f}  {row.cpu_s_per_gb:8.2f} {row.us_per_request:7.0f}"
                        f"  {row.rss_mb:6.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

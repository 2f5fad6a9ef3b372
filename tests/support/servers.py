"""Servers to read from: a bad one that follows a script, and Debian's nginx."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

SOON = 20.0
"""Seconds that nothing here may take, on the slowest of machines."""


class Step(NamedTuple):
    """How the server deals with one request: what it sends, and what becomes of the connection."""

    send: bytes | Callable[[], Iterable[bytes]]
    then: str = "keep"
    """keep, close, reset, or stall"""


class Request(NamedTuple):
    connection: int
    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


class BadServer:
    """Follows a script of steps, one for each request on whatever connection it comes."""

    def __init__(self, steps: Iterable[Step | bytes], tls: ssl.SSLContext | None = None) -> None:
        self.steps = [step if isinstance(step, Step) else Step(step) for step in steps]
        self.requests: list[Request] = []
        self.sent = 0
        self.connections = 0
        self._tls = tls
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        port = self._listener.getsockname()[1]
        self.authority = f"127.0.0.1:{port}"
        self.url = f"{'https' if tls else 'http'}://{self.authority}/store"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(connection, self.connections))
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(SOON)
        with suppress(OSError, ValueError):  # what is no request ends the connection
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            stream = connection.makefile("rb")
            while (request := _read_request(stream, number)) is not None:
                with self._lock:
                    self.requests.append(request)
                    step = self.steps.pop(0) if self.steps else Step(b"", "close")
                pieces = [step.send] if isinstance(step.send, bytes) else step.send()
                for piece in pieces:
                    connection.sendall(piece)
                    self.sent += len(piece)
                    if self._over.is_set():
                        break
                if step.then == "stall":
                    self._over.wait(SOON)
                if step.then == "reset":
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                if step.then != "keep":
                    stream.close()
                    break
        connection.close()

    @property
    def ranges(self) -> list[str]:
        return [request.range.removeprefix("bytes=") for request in self.requests]

    def close(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(SOON)


def _read_request(stream: Iterable[bytes], number: int) -> Request | None:
    lines = []
    for line in stream:
        if line == b"\r\n":
            method, path, _ = lines[0].split()
            pairs = (text.split(": ", 1) for text in lines[1:])
            return Request(number, method, path, {name.lower(): value for name, value in pairs})
        lines.append(line.decode("latin-1").strip())
    return None


def reply(status: int, body: bytes = b"", *lines: str, length: int | None = -1) -> bytes:
    """A reply; `length` None leaves `Content-Length` out, -1 tells the truth."""
    head = [f"HTTP/1.1 {status} Because", *lines]
    if length is not None:
        head.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*head, "", ""]).encode() + body


NGINX = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {work}/access.log; client_body_temp_path {work}/t1; proxy_temp_path {work}/t2;
    fastcgi_temp_path {work}/t3; uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
    server {{ listen unix:{work}/probe; listen 127.0.0.1:{port}; root {store};
              location /local/ {{ deny all; }} }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def nginx(store: Path, work: Path) -> Iterator[str]:
    """Debian's nginx over the directory of a store, as docs/administration.md has it."""
    work.mkdir(exist_ok=True)
    # The worker runs as another user, who has to be able to reach the store.
    for folder in (work.parent, work, store):
        folder.chmod(0o755)
    port = free_port()
    config = work / "nginx.conf"
    config.write_text(NGINX.format(work=work, store=store, port=port))
    server = subprocess.Popen(["nginx", "-c", str(config), "-p", str(work)], stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            if (work / "probe").exists():
                break
            assert server.poll() is None, server.stderr and server.stderr.read()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate()


PROXYING = """
daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work};
    uwsgi_temp_path {work}; scgi_temp_path {work};
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass {url};
{settings}
        }}
    }}
}}
"""


def proxy_settings() -> str:
    """What docs/administration.md says to put into nginx."""
    text = (Path(__file__).parents[2] / "docs/administration.md").read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("        proxy_")]
    assert any("X-Forwarded-For" in line for line in lines)
    return "\n".join(line for line in lines if not line.startswith("proxy_pass"))


@contextmanager
def proxied(
    url: str,
    work: Path,
    host: str = "127.0.0.1",
    start: Callable[[list[str]], subprocess.Popen[bytes]] = subprocess.Popen,
) -> Iterator[str]:
    """Debian's nginx before the server at `url`, set as the documentation says."""
    work.chmod(0o755)
    port = free_port()
    config = work / "nginx.conf"
    text = PROXYING.format(work=work, host=host, port=port, url=url, settings=proxy_settings())
    config.write_text(text)
    server = start(["nginx", "-c", str(config), "-p", str(work)])
    try:
        until = time.monotonic() + SOON
        # Written once it listens.
        while not (work / "pid").exists():
            assert server.poll() is None, (work / "error.log").read_text()
            assert time.monotonic() < until, "nginx does not start"
            time.sleep(0.02)
        yield f"http://{host}:{port}"
    finally:
        server.terminate()
        server.wait()

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chunkstore import fsio
from chunkstore.errors import ChunkstoreError, LocalError, NotFound, TransferError, Usage
from chunkstore.storage import conformance
from chunkstore.storage.backend import Backend, Polled, Reader
from chunkstore.storage.backends import local, open_reader
from chunkstore.storage.backends.http import HttpReader
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.memory import FailingBackend, MemoryBackend

# Conformance: a new backend joins with one more line here.

BACKENDS = {
    "memory": lambda _: MemoryBackend(),
    "local": lambda folder: LocalBackend(str(folder), create=True),
    "never failing": lambda _: FailingBackend(MemoryBackend()),
}


@pytest.mark.parametrize("check", conformance.BACKEND_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", BACKENDS)
def test_backend_conforms(kind: str, check: conformance.BackendCheck, tmp_path: Path) -> None:
    check(lambda: BACKENDS[kind](tmp_path / "store"))


@pytest.mark.parametrize("check", conformance.READER_CHECKS, ids=lambda check: check.__name__)
def test_http_reader_conforms(check: conformance.ReaderCheck, tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    with _file_server(backend) as url:
        check(lambda: HttpReader(url), backend.put)


@pytest.mark.parametrize("check", conformance.READER_CHECKS, ids=lambda check: check.__name__)
def test_reader_opened_by_url_conforms(check: conformance.ReaderCheck, tmp_path: Path) -> None:
    check(lambda: open_reader(tmp_path.as_uri()), LocalBackend(str(tmp_path)).put)


class _Handler(BaseHTTPRequestHandler):
    """An honest static file server, as small as it gets."""

    protocol_version = "HTTP/1.1"
    backend: Backend

    def do_GET(self) -> None:
        name = self.path[1:]
        try:
            total = self.backend.size(name)
        except (NotFound, Usage):
            return self._reply(404, {}, b"")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return self._reply(200, {}, self.backend.get(name, 0, total))
        start, stop = int(wanted[1]), min(int(wanted[2]) + 1, total)
        if start >= total:
            return self._reply(416, {"Content-Range": f"bytes */{total}"}, b"")
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{total}"}
        return self._reply(206, headers, self.backend.get(name, start, stop))

    do_HEAD = do_GET  # noqa: N815  the name is http.server's

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def _file_server(backend: Backend) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"backend": backend})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# The conformance suite itself: it has to notice backends that break their word.


class _ShortReads(MemoryBackend):
    def get(self, name: str, start: int, stop: int) -> bytes:
        return super().get(name, start, stop)[:65_536]


class _OffByOne(MemoryBackend):
    def get(self, name: str, start: int, stop: int) -> bytes:
        return super().get(name, start, stop + 1)


class _ForgetsNames(MemoryBackend):
    def size(self, name: str) -> int:
        try:
            return super().size(name)
        except NotFound as error:
            raise NotFound(str(error)) from None


class _ListsUnsorted(MemoryBackend):
    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(super().list(prefix), reverse=True))


class _SwapsBlindly(MemoryBackend):
    def swap(self, name: str, _: bytes | None, new: bytes | None) -> None:
        self.delete(name) if new is None else self.put(name, new)


class _KeepsFiles(MemoryBackend):
    def put_file(self, name: str, path: str) -> None:
        self.put(name, Path(path).read_bytes())


class _DeletesLoudly(MemoryBackend):
    def delete(self, name: str) -> None:
        self.size(name)
        super().delete(name)


class _TakesAnyName(MemoryBackend):
    def put(self, name: str, data: bytes) -> None:
        with self._lock:
            self._objects[name] = data


class _PollsBySize(MemoryBackend):
    def poll(self, name: str, seen: str | None, *, limit: int) -> Polled:
        data = self.get(name, 0, limit)
        return Polled(None if seen == str(len(data)) else data, str(len(data)))


class _PollsWithoutMemory(MemoryBackend):
    def poll(self, name: str, seen: str | None, *, limit: int) -> Polled:
        return Polled(self.get(name, 0, limit), "")


class _WritesInPlace(MemoryBackend):
    def put(self, name: str, data: bytes) -> None:
        super().put(name, data[: len(data) // 2])
        time.sleep(0.001)
        super().put(name, data)


BROKEN = [
    _ShortReads,
    _OffByOne,
    _ForgetsNames,
    _ListsUnsorted,
    _SwapsBlindly,
    _KeepsFiles,
    _DeletesLoudly,
    _TakesAnyName,
    _PollsBySize,
    _PollsWithoutMemory,
    _WritesInPlace,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_conformance_notices_a_broken_backend(broken: type[MemoryBackend]) -> None:
    # NotFound, too, is a way of noticing: `_DeletesLoudly` raises it where nothing may be raised.
    with pytest.raises((AssertionError, NotFound)):
        conformance.check_backend(broken)


# Memory


def test_failing_backend_fails_after_so_many_calls() -> None:
    inner = MemoryBackend()
    failing = FailingBackend(inner, after=2, error=LocalError("full", errno=errno.ENOSPC))
    failing.put("a", b"1")
    assert failing.get("a", 0, 9) == b"1"
    for action in (
        lambda: failing.put("b", b"2"),
        lambda: failing.get("a", 0, 1),
        lambda: failing.size("a"),
        lambda: failing.list("a/"),
        lambda: failing.delete("a"),
        lambda: failing.swap("a", b"1", None),
        lambda: failing.put_file("b", "/nowhere"),
    ):
        with pytest.raises(LocalError, match="full"):
            action()
    assert failing.calls == 2
    assert inner.get("a", 0, 9) == b"1"
    with pytest.raises(NotFound):
        inner.size("b")


def test_failing_backend_counts_calls_without_failing() -> None:
    failing = FailingBackend(MemoryBackend())
    failing.put("a", b"1")
    failing.delete("a")
    assert failing.calls == 2
    failing.after = 2
    with pytest.raises(TransferError, match="on purpose"):
        failing.size("a")


# Opening


def test_open_reader_by_path_and_url(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    LocalBackend(str(folder), create=True).put("store.json", b"{}")
    for location in (str(folder), f"file://{tmp_path}/a%20b", f"FILE://localhost{tmp_path}/a%20b"):
        assert open_reader(location).get("store.json", 0, 9) == b"{}"
    reader = open_reader("http://head:8730/web")
    assert isinstance(reader, HttpReader)
    assert isinstance(reader, Reader)


@pytest.mark.parametrize("location", ["ftp://head/x", "s3://bucket/x", "file://other/x", "http://"])
def test_open_reader_refuses_what_it_does_not_know(location: str) -> None:
    with pytest.raises(Usage):
        open_reader(location)


def test_open_reader_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store in"):
        open_reader(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="Not a directory"):
        open_reader(str(tmp_path / "file"))


# Local: what the conformance suite can't see


def test_objects_are_files_that_a_web_server_can_read(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        backend = LocalBackend(str(tmp_path))
        backend.put("packs/a.pack", b"data")
    finally:
        os.umask(old)
    file = tmp_path / "packs" / "a.pack"
    assert file.read_bytes() == b"data"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


def test_root_is_made_with_what_is_above_it(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path / "a" / "b" / "store"), create=True)
    backend.put("x", b"1")
    assert (tmp_path / "a" / "b" / "store" / "x").read_bytes() == b"1"


@pytest.mark.parametrize("way", ["_openat2", "_walk_open"])
def test_planted_links_are_not_followed(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsio, "_confined_open", getattr(fsio, way))
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    store = tmp_path / "store"
    (store / "packs").mkdir(parents=True)
    (store / "packs" / "link").symlink_to(outside / "secret")
    (store / "versions").symlink_to(outside)
    (store / "local").symlink_to(outside)
    backend = LocalBackend(str(store))
    for name in ("packs/link", "versions/secret"):
        for action in (backend.size, lambda n: backend.get(n, 0, 9)):
            with pytest.raises(LocalError, match="symbolic link") as caught:
                action(name)
            assert caught.value.errno == errno.ELOOP
    for action in (
        lambda: backend.put("versions/secret", b"x"),
        lambda: backend.put("versions/new/deep", b"x"),
        lambda: backend.delete("versions/secret"),
        lambda: list(backend.list("versions/")),
        lambda: backend.swap("images/web/ref", None, b"x"),
    ):
        with pytest.raises(LocalError, match="symbolic link"):
            action()
    assert list(backend.list("packs/")) == []
    # A link as the last component is replaced or removed itself, never written through.
    backend.put("packs/link", b"mine")
    assert backend.get("packs/link", 0, 9) == b"mine"
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(os.listdir(outside)) == ["below", "secret"]


def test_other_things_than_files_are_no_objects(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    os.mkfifo(tmp_path / "packs" / "fifo")
    backend = LocalBackend(str(tmp_path))
    with pytest.raises(LocalError, match="no regular file"):
        backend.get("packs/fifo", 0, 1)
    with pytest.raises(NotFound):
        backend.get("packs", 0, 1)
    assert list(backend.list("packs/")) == []


def test_files_under_way_are_not_listed(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    backend.put("packs/a.pack", b"x")
    (tmp_path / "packs" / fsio.fresh_name()).write_bytes(b"half")
    (tmp_path / "packs" / "a name nobody can ask for").touch()
    assert list(backend.list("packs/")) == ["packs/a.pack"]


def test_a_full_disk_is_told_and_leaves_the_old_object(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    backend.put("packs/a", b"old")
    source = tmp_path / "source"
    source.write_bytes(bytes(1_000_000))
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with pytest.raises(
            LocalError, match=r"can't write packs/a in .*: File too large"
        ) as caught:
            backend.put("packs/a", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert caught.value.errno == errno.EFBIG
    assert backend.get("packs/a", 0, 9) == b"old"
    assert os.listdir(tmp_path / "packs") == ["a"]


@pytest.mark.parametrize("fails", [False, True])
def test_put_file_from_another_file_system(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, moves = fsio.move_durably, []

    def across(source: str, path: str) -> None:
        moves.append(source)
        if len(moves) == 1:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(source, path)

    monkeypatch.setattr(fsio, "move_durably", across)
    backend = LocalBackend(str(tmp_path / "store"), create=True)
    source = tmp_path / "source"
    source.write_bytes(b"data")
    source.chmod(0o640)
    if fails:
        with pytest.raises(LocalError) as caught:
            backend.put_file("packs/a", str(source))
        assert caught.value.errno == errno.ENOSPC
        assert source.read_bytes() == b"data"
        assert os.listdir(tmp_path / "store" / "packs") == []
    else:
        backend.put_file("packs/a", str(source))
        assert backend.get("packs/a", 0, 9) == b"data"
        assert os.listdir(tmp_path / "store" / "packs") == ["a"]
        assert stat.S_IMODE((tmp_path / "store/packs/a").stat().st_mode) == 0o640
        assert not source.exists()


def test_reading_writes_nothing(tmp_path: Path) -> None:
    LocalBackend(str(tmp_path)).put("packs/a", b"x")
    before = sorted(tmp_path.rglob("*"))
    backend = LocalBackend(str(tmp_path))
    assert backend.get("packs/a", 0, 9) == b"x"
    assert list(backend.list("packs/")) == ["packs/a"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_that_may_only_be_read(tmp_path: Path) -> None:
    LocalBackend(str(tmp_path)).put("packs/a", b"x")
    for folder in (tmp_path / "packs", tmp_path):
        folder.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("root may write anywhere")
        backend = LocalBackend(str(tmp_path))
        assert backend.get("packs/a", 0, 9) == b"x"
        for action in (
            lambda: backend.put("packs/a", b"y"),
            lambda: backend.put("new/a", b"y"),
            lambda: backend.delete("packs/a"),
            lambda: backend.swap("packs/a", b"x", b"y"),
        ):
            with pytest.raises(LocalError, match="Permission denied") as caught:
                action()
            assert caught.value.errno == errno.EACCES
    finally:
        for folder in (tmp_path, tmp_path / "packs"):
            folder.chmod(0o755)


def test_another_process_may_replace_and_delete(tmp_path: Path) -> None:
    ours, theirs = LocalBackend(str(tmp_path)), LocalBackend(str(tmp_path))
    ours.put("packs/a", b"one")
    assert ours.get("packs/a", 0, 9) == b"one"
    theirs.put("packs/a", b"two")
    assert ours.get("packs/a", 0, 9) == b"two"
    theirs.delete("packs/a")
    with pytest.raises(NotFound):
        ours.get("packs/a", 0, 9)


def test_descriptors_are_kept_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "KEPT_OPEN", 3)
    backend = LocalBackend(str(tmp_path))
    for number in range(10):
        backend.put(f"packs/{number}", b"%d" % number)
    before = _descriptors()
    opened = []
    plain = fsio.Directory.open

    def counted(self: fsio.Directory, path: bytes, *rest: int) -> int:
        opened.append(path)
        return plain(self, path, *rest)

    monkeypatch.setattr(fsio.Directory, "open", counted)
    for number in (0, 0, 1, 0, 2, 0, 3, 0, 1):
        assert backend.get(f"packs/{number}", 0, 9) == b"%d" % number
    assert opened == [b"packs/0", b"packs/1", b"packs/2", b"packs/3", b"packs/1"]
    assert _descriptors() == before + 3
    backend.delete("packs/1")
    backend.put("packs/0", b"new")
    assert _descriptors() == before + 1
    backend.close()
    assert _descriptors() == before - 1


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_reads_go_on_while_their_descriptor_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "KEPT_OPEN", 1)
    backend = LocalBackend(str(tmp_path))
    for number in range(8):
        backend.put(f"packs/{number}", bytes([number]) * 5000)
    errors: list[Exception] = []

    def read(number: int) -> None:
        try:
            for _ in range(300):
                assert backend.get(f"packs/{number}", 0, 5000) == bytes([number]) * 5000
        except (AssertionError, ChunkstoreError) as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_closed_store_is_not_read_by_accident(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    backend.put("packs/a", b"x")
    names = backend.list("packs/")
    backend.close()
    for action in (
        lambda: backend.get("packs/a", 0, 1),
        lambda: backend.put("packs/a", b"y"),
        lambda: backend.delete("packs/a"),
        lambda: backend.swap("packs/a", b"x", b"y"),
        lambda: list(names),
    ):
        with pytest.raises(Usage, match="closed"):
            action()


_ADD_UP = """
import sys
from chunkstore.errors import Conflict
from chunkstore.storage.backends.local import LocalBackend
backend = LocalBackend(sys.argv[1])
done = 0
while done < 15:
    old = backend.get("images/web/ref", 0, 99)
    try:
        backend.swap("images/web/ref", old, b"%d" % (int(old) + 1))
        done += 1
    except Conflict:
        pass
"""


def test_two_processes_do_not_both_win(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    backend.swap("images/web/ref", None, b"0")
    command = [sys.executable, "-c", _ADD_UP, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    assert backend.get("images/web/ref", 0, 99) == b"60"


def test_writes_reach_the_disk_before_they_are_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    plain = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    backend = LocalBackend(str(tmp_path))
    backend.put("images/web/ref", b"x")
    *folders, data, last = synced
    assert folders == ["", "/images"]
    assert data.startswith("/images/web/.")
    assert last == "/images/web"
    synced.clear()
    backend.delete("images/web/ref")
    assert synced == ["/images/web"]
    synced.clear()
    (tmp_path / "source").write_bytes(b"x")
    backend.put_file("images/web/ref", str(tmp_path / "source"))
    assert synced == ["/source", "/images/web"]

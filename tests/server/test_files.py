"""What is served: bytes, ranges, headers, conditions, methods."""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chunkstore.server import Access

if TYPE_CHECKING:
    from tests.server.conftest import Client

    Serve = Callable[..., Client]

SMALL = "a" * 64
LARGE = "b" * 64
EMPTY = "c" * 64
PUBLIC = [
    "store.json",
    "images/web/ref",
    "images/base-12.04_x/ref",
    f"versions/{SMALL}",
    f"locate/{SMALL}",
    f"packs/{SMALL}.pack",
    f"packs/{SMALL}.idx",
    f"packs/{LARGE}.pack",
    f"packs/{EMPTY}.pack",
]
IMMUTABLE = [name for name in PUBLIC if name.startswith(("versions/", "packs/"))]


@pytest.mark.parametrize("name", PUBLIC)
def test_whole_files(client: Client, name: str) -> None:
    answer = client.ask(f"/{name}")
    content = (client.root / name).read_bytes()
    assert answer.status == 200
    assert answer.body == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "Content-Encoding" not in answer.headers
    assert "Transfer-Encoding" not in answer.headers


@pytest.mark.parametrize("name", PUBLIC)
def test_head_says_the_same_without_the_body(client: Client, name: str) -> None:
    get, head = client.ask(f"/{name}"), client.ask(f"/{name}", "HEAD")
    assert head.status == 200
    assert head.body == b""
    for field in ("Content-Length", "Content-Type", "ETag", "Cache-Control"):
        assert head.headers[field] == get.headers[field]


def test_nothing_is_compressed(client: Client) -> None:
    answer = client.ask(f"/packs/{LARGE}.pack", Accept_Encoding="gzip, deflate, br, zstd")
    assert "Content-Encoding" not in answer.headers
    assert answer.body == (client.root / f"packs/{LARGE}.pack").read_bytes()


@pytest.mark.parametrize("pack", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("0-0", slice(0, 1)),
        ("0-4095", slice(0, 4096)),
        ("1234-", slice(1234, None)),
        ("-77", slice(-77, None)),
        ("-99999999", slice(0, None)),
        ("17-99999999", slice(17, None)),
        ("9000-9999", slice(9000, 10000)),
        ("1000-1500000", slice(1000, 1500001)),
    ],
)
def test_ranges(client: Client, pack: str, spec: str, part: slice) -> None:
    content = (client.root / f"packs/{pack}.pack").read_bytes()
    answer = client.ask(f"/packs/{pack}.pack", Range=f"bytes={spec}")
    start, stop, _ = part.indices(len(content))
    assert answer.status == 206
    assert answer.body == content[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert answer.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("size", [(64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20, (1 << 20) + 1])
def test_ranges_on_both_sides_of_a_change_of_method(client: Client, size: int) -> None:
    content = (client.root / f"packs/{LARGE}.pack").read_bytes()
    answer = client.ask(f"/packs/{LARGE}.pack", Range=f"bytes=333-{333 + size - 1}")
    assert answer.status == 206
    assert answer.body == content[333 : 333 + size]


@pytest.mark.parametrize("name", ["store.json", f"locate/{SMALL}", f"versions/{SMALL}"])
def test_ranges_of_documents(client: Client, name: str) -> None:
    answer = client.ask(f"/{name}", Range="bytes=2-4")
    assert answer.status == 206
    assert answer.body == (client.root / name).read_bytes()[2:5]


@pytest.mark.parametrize(
    "spec", ["10000-", "10000-10001", "-0", "5-4", "x", "0-1,5-6", ",".join(["0-"] * 500)]
)
def test_unsatisfiable_ranges(client: Client, spec: str) -> None:
    answer = client.ask(f"/packs/{SMALL}.pack", Range=f"bytes={spec}")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */10000"
    assert answer.body == b""


def test_two_range_headers_are_several_ranges(client: Client) -> None:
    answer = client.raw(
        f"GET /packs/{SMALL}.pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Range: bytes=0-1\r\nRange: bytes=4-5\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 416 ")


def test_a_range_of_an_empty_file(client: Client) -> None:
    answer = client.ask(f"/packs/{EMPTY}.pack", Range="bytes=0-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */0"


def test_unknown_units_and_head_ignore_the_range(client: Client) -> None:
    path = f"/packs/{SMALL}.pack"
    assert len(client.ask(path, Range="lines=0-1").body) == 10_000
    head = client.ask(path, "HEAD", Range="bytes=0-1")
    assert (head.status, head.headers["Content-Length"]) == (200, "10000")


@pytest.mark.parametrize("name", PUBLIC)
def test_not_modified(client: Client, name: str) -> None:
    etag = client.ask(f"/{name}").headers["ETag"]
    assert etag.startswith('"')
    for sent in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        for method in ("GET", "HEAD"):
            answer = client.ask(f"/{name}", method, If_None_Match=sent)
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["ETag"] == etag
            assert "Cache-Control" in answer.headers
    assert client.ask(f"/{name}", If_None_Match='"other"').status == 200


def test_not_modified_needs_the_object(client: Client) -> None:
    assert client.ask(f"/packs/{'d' * 64}.pack", If_None_Match="*").status == 404


def test_if_range(client: Client) -> None:
    path = f"/packs/{SMALL}.pack"
    etag = client.ask(path).headers["ETag"]
    assert client.ask(path, Range="bytes=0-9", If_Range=etag).status == 206
    for other in ('"other"', f"W/{etag}", "Sun, 06 Nov 1994 08:49:37 GMT"):
        answer = client.ask(path, Range="bytes=0-9", If_Range=other)
        assert (answer.status, len(answer.body)) == (200, 10_000)


@pytest.mark.parametrize("name", PUBLIC)
def test_only_immutable_objects_are_cached_for_ever(client: Client, name: str) -> None:
    answer = client.ask(f"/{name}")
    if name in IMMUTABLE:
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["ETag"] == f'"{name.rpartition("/")[2]}"'
    else:
        assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["store.json", "images/web/ref", f"locate/{SMALL}"])
def test_a_replaced_document_has_a_new_tag(own: Client, store: Path, name: str) -> None:
    before = own.ask(f"/{name}")
    replacement = store / "replacement"
    replacement.write_bytes(before.body[::-1])  # same size
    os.replace(replacement, store / name)
    after = own.ask(f"/{name}", If_None_Match=before.headers["ETag"])
    assert after.status == 200
    assert after.body == before.body[::-1]
    assert after.headers["ETag"] != before.headers["ETag"]


def test_a_ref_is_never_seen_half_replaced(own: Client, store: Path) -> None:
    contents = {bytes([byte]) * 5000 for byte in b"xyz"}
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            for content in contents:
                (store / "new").write_bytes(content)
                os.replace(store / "new", store / "images/web/ref")

    known = contents | {own.ask("/images/web/ref").body}
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace)
        try:
            tags: dict[str, bytes] = {}
            for _ in range(200):
                answer = own.ask("/images/web/ref")
                assert answer.body in known
                assert tags.setdefault(answer.headers["ETag"], answer.body) == answer.body
        finally:
            done.set()
            writer.result()


def test_an_oversized_document_is_refused(own: Client, store: Path) -> None:
    ref = store / "images/web/ref"
    ref.write_bytes(bytes(1 << 20))
    assert own.ask("/images/web/ref").status == 200
    ref.write_bytes(bytes((1 << 20) + 1))
    assert own.ask("/images/web/ref").status == 500


def test_a_pack_that_is_deleted_while_it_is_sent_arrives_whole(own: Client, store: Path) -> None:
    pack = store / f"packs/{'e' * 64}.pack"
    pack.write_bytes(os.urandom(24 << 20))
    content = pack.read_bytes()
    connection = own.connect()
    connection.request("GET", f"/packs/{pack.name}")
    response = connection.getresponse()
    start = response.read(1000)
    pack.unlink()
    assert start + response.read() == content
    connection.close()


def test_a_file_that_shrinks_while_it_is_sent_ends_in_a_cut(serve: Serve, store: Path) -> None:
    pack = store / f"packs/{'e' * 64}.pack"
    pack.write_bytes(bytes(64 << 20))
    log: queue.Queue[Access] = queue.Queue()
    client = serve(on_request=log.put)
    connection = client.connect()
    connection.request("GET", f"/packs/{pack.name}")
    response = connection.getresponse()
    response.read(1000)
    os.truncate(pack, 1000)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    connection.close()
    assert not log.get(timeout=10).complete


def test_image_list(own: Client, store: Path) -> None:
    answer = own.ask("/images/")
    assert json.loads(answer.body) == {"images": ["base-12.04_x", "web"]}
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-cache"
    (store / "images/aaa").mkdir()
    assert json.loads(own.ask("/images/").body) == {"images": ["base-12.04_x", "web"]}
    (store / "images/aaa/ref").write_bytes(b"x")
    again = own.ask("/images/", If_None_Match=answer.headers["ETag"])
    assert json.loads(again.body) == {"images": ["aaa", "base-12.04_x", "web"]}


def test_front_page(client: Client) -> None:
    answer = client.ask("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert b"imgstore" in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("name", ["", "images/", *PUBLIC])
def test_only_get_and_head(client: Client, method: str, name: str) -> None:
    answer = client.ask(f"/{name}", method)
    assert answer.status == 405
    assert {part.strip() for part in answer.headers["Allow"].split(",")} == {"GET", "HEAD"}
    assert all((client.root / each).exists() for each in PUBLIC)


def test_one_connection_carries_many_requests(client: Client) -> None:
    connection = client.connect()
    connection.connect()
    sock = connection.sock
    for _ in range(3):
        for name in PUBLIC:
            connection.request("GET", f"/{name}")
            assert connection.getresponse().read() == (client.root / name).read_bytes()
            connection.request("HEAD", f"/{name}")
            assert connection.getresponse().read() == b""
            connection.request("GET", f"/{name}", headers={"If-None-Match": "*"})
            assert connection.getresponse().read() == b""
        connection.request("GET", "/nothing")
        assert b"404" in connection.getresponse().read()
    assert connection.sock is sock
    connection.close()


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    names = [f"packs/{LARGE}.pack", f"packs/{SMALL}.pack", "store.json"] * 6
    requests = [f"GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n" for name in names]
    requests.append("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = client.raw("".join(requests).encode())
    for name in names:
        head, _, answer = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        content = (client.root / name).read_bytes()
        assert answer[: len(content)] == content
        answer = answer[len(content) :]
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_http_1_0(client: Client) -> None:
    head, _, body = client.raw(b"GET /store.json HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert body == (client.root / "store.json").read_bytes()


def test_64_clients_at_once(client: Client) -> None:
    content = (client.root / f"packs/{LARGE}.pack").read_bytes()
    start = threading.Barrier(64)

    def download(number: int) -> bool:
        connection = client.connect()
        start.wait()
        received = bytearray()
        step = 100_000 + 7919 * number
        for offset in range(0, len(content), step):
            headers = {"Range": f"bytes={offset}-{offset + step - 1}"}
            connection.request("GET", f"/packs/{LARGE}.pack", headers=headers)
            received += connection.getresponse().read()
        connection.close()
        return received == content

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(download, range(64)))

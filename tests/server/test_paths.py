"""What is not served: everything else, however it is spelled or planted."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Client

SMALL = "a" * 64

REFUSED = [
    "/local",
    "/local/",
    "/local/catalog.sqlite",
    f"/local/spool/{SMALL}",
    "/keys.json",
    "/store.json/",
    "/store.jso",
    "/STORE.JSON",
    "/images",
    "/images/web",
    "/images/web/",
    "/images/web/ref/",
    "/images/web/.ref.tmp",
    "/images//ref",
    "/images/./ref",
    "/images/../ref",
    "/images/.hidden/ref",
    "/images/-web/ref",
    f"/images/{'w' * 129}/ref",
    "/images/web/../web/ref",
    "/images/web/../../local/catalog.sqlite",
    "/packs",
    "/packs/",
    f"/packs/{SMALL}",
    f"/packs/{SMALL}.pack/",
    f"/packs/{SMALL}.pack.tmp",
    f"/packs/{SMALL}.PACK",
    f"/packs/{SMALL}xpack",
    f"/packs/.tmp-{SMALL}",
    f"/packs/{'A' * 64}.pack",
    f"/packs/{'a' * 63}.pack",
    f"/packs/{'a' * 65}.pack",
    f"/packs/{'g' * 64}.pack",
    "/versions/",
    f"/versions/{SMALL}.pack",
    f"/versions/{SMALL}/",
    f"/versions/../versions/{SMALL}",
    f"/versions/./{SMALL}",
    f"/versions//{SMALL}",
    f"//versions/{SMALL}",
    f"/./versions/{SMALL}",
    f"/x/../versions/{SMALL}",
    "/../store.json",
    "/../../../../etc/passwd",
    "//etc/passwd",
    "/..",
    "/.",
    # Encoded: also where the decoded name exists, so that an object has one URL.
    "/%2e%2e/outside",
    "/%2e%2e%2foutside",
    "/..%2foutside",
    "/%252e%252e/outside",
    "/local%2fcatalog.sqlite",
    "/%6cocal/catalog.sqlite",
    "/images/%2e%2e/ref",
    "/images/..%2f..%2flocal/ref",
    "/images/%77eb/ref",
    "/images%2fweb%2fref",
    f"/versions/%61{SMALL[1:]}",
    f"/versions/{SMALL}%00",
    f"/versions/{SMALL}%0a",
    f"/packs/{SMALL}.pack%00.txt",
    "/store.json%00",
    "/images/web%00/ref",
    "/images/web/ref%20",
    "/%",
    "/%zz",
    # Backslashes, queries, fragments.
    "/..\\outside",
    "/images\\web\\ref",
    "/images/..\\..\\local/ref",
    "/%5c..%5coutside",
    "/store.json?x=1",
    "/store.json?",
    "/store.json#x",
    "/images/?list",
    "/?",
    # Look-alike letters and digits.
    "/images/w%C3%A9b/ref",
    f"/versions/%D9%A1{SMALL[1:]}",
]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_refused(client: Client, path: str, method: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = client.raw(request.encode("latin-1"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"nosniff" in answer
    assert b"SECRET" not in answer


@pytest.mark.parametrize(
    "target",
    [
        b"http://x/store.json",
        b"store.json",
        b"*",
        b"/store.json\x00",
        b"/store.json\x01",
        b"/\xff\xfe/store.json",
        b"/images/w\xc3\xa9b/ref",
        b"/store.json\x0bx",
        b"/\\..\\local\\catalog.sqlite",
    ],
)
def test_odd_targets_are_refused_without_harm(client: Client, target: bytes) -> None:
    answer = client.raw(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer[:13] in (b"HTTP/1.1 404 ", b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")
    assert b"SECRET" not in answer
    assert client.ask("/store.json").status == 200


def test_a_symlink_is_not_followed_as_last_component(own: Client, store: Path) -> None:
    outside = store.parent / "outside"
    names = [
        "store.json",
        "images/web/ref",
        f"versions/{SMALL}",
        f"locate/{SMALL}",
        f"packs/{SMALL}.pack",
        f"packs/{SMALL}.idx",
    ]
    for target in (outside, Path("../outside"), store / "local/catalog.sqlite"):
        for name in names:
            assert own.ask(f"/{name}").status in (200, 404)
            (store / name).unlink()
            (store / name).symlink_to(target)
            answer = own.ask(f"/{name}")
            assert (answer.status, b"SECRET" in answer.body) == (404, False)


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("packs", f"{SMALL}.pack"),
        ("versions", SMALL),
        ("locate", SMALL),
        ("images", "web/ref"),
        ("images/web", "ref"),
    ],
)
def test_a_symlink_is_not_followed_as_a_directory(
    own: Client, store: Path, directory: str, name: str
) -> None:
    assert own.ask(f"/{directory}/{name}").status == 200
    elsewhere = store.parent / "elsewhere"
    shutil.move(store / directory, elsewhere)
    for target in (elsewhere, Path("../" * (1 + directory.count("/")) + "elsewhere")):
        (store / directory).symlink_to(target)
        assert (store / directory / name).exists()
        assert own.ask(f"/{directory}/{name}").status == 404
        (store / directory).unlink()


def test_symlinks_inside_the_store_are_not_followed_either(own: Client, store: Path) -> None:
    (store / f"versions/{'d' * 64}").symlink_to(SMALL)
    assert own.ask(f"/versions/{'d' * 64}").status == 404


def test_symlinked_images_are_not_listed(own: Client, store: Path) -> None:
    (store / "images/link").symlink_to("web")
    (store / "images/half").mkdir()
    (store / "images/half/ref").symlink_to("../web/ref")
    (store / "images/file").write_bytes(b"x")
    assert own.ask("/images/").body == b'{"images": ["base-12.04_x", "web"]}\n'
    shutil.move(store / "images", store.parent / "elsewhere")
    (store / "images").symlink_to(store.parent / "elsewhere")
    assert own.ask("/images/").body == b'{"images": []}\n'


def test_special_files_are_not_served_and_block_nothing(own: Client, store: Path) -> None:
    os.mkfifo(store / f"packs/{'d' * 64}.pack")
    (store / f"packs/{'e' * 64}.pack").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        cwd = os.getcwd()
        os.chdir(store / "packs")  # the whole path may be too long for a socket's name
        try:
            listener.bind(f"{'f' * 64}.pack")
        finally:
            os.chdir(cwd)
        for letter in "def":
            assert own.ask(f"/packs/{letter * 64}.pack").status == 404


def test_a_store_that_is_still_empty(own: Client, store: Path) -> None:
    for entry in store.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert own.ask("/images/").body == b'{"images": []}\n'
    for path in ("/store.json", "/images/web/ref", f"/packs/{SMALL}.pack"):
        assert own.ask(path).status == 404


def test_no_descriptor_is_left_open(own: Client, store: Path) -> None:
    (store / f"versions/{'d' * 64}").symlink_to(SMALL)
    (store / f"versions/{'e' * 64}").mkdir()

    def requests() -> None:
        connection = own.connect()
        for path in (
            "/store.json",
            "/images/",
            f"/packs/{'b' * 64}.pack",
            f"/versions/{SMALL}",
            f"/versions/{'d' * 64}",
            f"/versions/{'e' * 64}",
            f"/versions/{'f' * 64}",
            "/images/none/ref",
        ):
            for headers in ({}, {"Range": "bytes=99999999-"}, {"If-None-Match": "*"}):
                for method in ("GET", "HEAD"):
                    connection.request(method, path, headers=headers)
                    connection.getresponse().read()
        connection.close()

    requests()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        requests()
    # The server runs in this process; its side of a closed connection may lag.
    assert len(os.listdir("/proc/self/fd")) <= before + 5

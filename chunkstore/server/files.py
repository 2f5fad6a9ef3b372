"""The HTTP resources: the public files of a store, and the list of its images.

Immutable objects are named by their content, so the name is the strong ETag
and caches may keep them for ever. Refs and store.json are tiny: read whole,
tagged by a hash of their bytes. Locate hints can be large and are replaced by
rename, so inode, time and size tag them.

Files are opened, and small ranges read, on the event loop itself: a store is
on a local disk, and handing a 10 microsecond job to a thread costs 150.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from blake3 import blake3

from chunkstore.objects.names import NAME
from chunkstore.server.delivery import FileResponse, delivering, refuse_bodies
from chunkstore.server.entry import asking
from chunkstore.server.limits import Limits
from chunkstore.server.proxies import Proxies
from chunkstore.server.public import DELTA_FILE, DIGEST, ROOT_VERSION, PublicTree
from chunkstore.server.ranges import (
    UnsatisfiableRangeError,
    none_match,
    range_applies,
    requested_range,
)
from chunkstore.server.tracker import SwarmService, Tracker, come_again

_FOREVER: Final = "public, max-age=31536000, immutable"
_REVALIDATE: Final = "no-cache"
_MAX_DOCUMENT_BYTES: Final = 1 << 20
# Up to here one read and one write cost less than sendfile's setup; beyond, a
# crowd of slow readers would pin too much memory.
_INLINE_BYTES: Final = 64 << 10
_OCTETS: Final = "application/octet-stream"
_ABOUT: Final = (
    "This is an imgstore store, served read-only.\n"
    "Its images are listed under images/; a node fetches one with\n"
    "    imgstore trust http://THIS-HOST --key FINGERPRINT DIRECTORY\n"
    "    imgstore pull http://THIS-HOST/IMAGE DIRECTORY\n"
)


def application(
    store_root: Path, limits: Limits, *, token: str = "", proxies: Proxies | None = None
) -> web.Application:
    """The server of the store at `store_root`, to which routes may be added.

    Added routes get the same delivery, limits and access log, and want the same
    `token`, if there is one; `proxies` are believed about who asks. The directory
    is opened when the application starts, which raises OSError if it can't be.
    """
    asked = [asking(token)] if token else []
    believed = proxies or Proxies()
    app = web.Application(middlewares=[delivering(limits, believed), *asked, refuse_bodies])
    tracker = Tracker(store_root, SwarmService(), believed)
    tracker.add_routes(app)
    files = _Files(store_root, tracker)
    app.cleanup_ctx.append(files.lifetime)
    app.router.add_get("/", files.about)
    app.router.add_get("/store.json", files.document)
    app.router.add_get("/images/", files.images)
    app.router.add_get(f"/images/{{image:{NAME.pattern}}}/ref", files.document)
    app.router.add_get(f"/roots/{{version:{ROOT_VERSION}}}", files.document)
    app.router.add_get(f"/versions/{{name:{DIGEST}}}", files.immutable)
    app.router.add_get(f"/packs/{{pack:{DIGEST}}}.pack", files.pack)
    app.router.add_get(f"/packs/{{name:{DIGEST}}}.idx", files.immutable)
    app.router.add_get(f"/locate/{{name:{DIGEST}}}", files.hint)
    app.router.add_get(f"/deltas/{{name:{DIGEST}}}", files.hint)
    app.router.add_get(f"/deltas/{{name:{DELTA_FILE}}}", files.immutable)
    return app


class _Files:
    def __init__(self, store_root: Path, tracker: Tracker) -> None:
        self._store_root = store_root
        self._tracker = tracker
        self._tree: PublicTree

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        self._tree = PublicTree(self._store_root)
        yield
        self._tree.close()

    async def about(self, request: web.Request) -> web.StreamResponse:
        _exact(request)
        return _from_bytes(request, _ABOUT.encode(), "text/plain; charset=utf-8")

    async def images(self, request: web.Request) -> web.StreamResponse:
        _exact(request)
        with _http_errors():
            names = await asyncio.to_thread(self._tree.images)
        body = json.dumps({"images": names}).encode() + b"\n"
        return _from_bytes(request, body, "application/json")

    async def document(self, request: web.Request) -> web.StreamResponse:
        with _http_errors():
            fd, _ = self._tree.open(_exact(request))
            with FileIO(fd) as file:
                body = file.read(_MAX_DOCUMENT_BYTES + 1)
        if len(body) > _MAX_DOCUMENT_BYTES:
            raise web.HTTPInternalServerError(text="larger than such a document may be\n")
        return _from_bytes(request, body, _OCTETS)

    async def immutable(self, request: web.Request) -> web.StreamResponse:
        return self._whole(request, _exact(request))

    async def pack(self, request: web.Request) -> web.StreamResponse:
        path = _exact(request)
        try:
            release = await self._tracker.turn(request, request.match_info["pack"])
        except TimeoutError:
            return come_again()
        try:
            response = self._whole(request, path)
            if release is not None and isinstance(response, FileResponse):
                response.on_end, release = release, None
            return response
        finally:
            if release is not None:
                release()

    def _whole(self, request: web.Request, path: str) -> web.StreamResponse:
        with _http_errors():
            fd, status = self._tree.open(path)
            return _from_file(request, fd, status.st_size, path.rpartition("/")[2], _FOREVER)

    async def hint(self, request: web.Request) -> web.StreamResponse:
        with _http_errors():
            fd, status = self._tree.open(_exact(request))
            tag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
            return _from_file(request, fd, status.st_size, tag, _REVALIDATE)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the request's headers make of an object: `span` is what to send."""

    status: int
    headers: dict[str, str]
    span: range


def _plan(request: web.Request, size: int, tag: str, cache: str, content_type: str) -> _Plan:
    etag = f'"{tag}"'
    headers: dict[str, str] = {hdrs.ETAG: etag, hdrs.CACHE_CONTROL: cache}
    known = request.headers.getall(hdrs.IF_NONE_MATCH, None)
    if known is not None and none_match(",".join(known), etag):
        return _Plan(304, headers, range(0))
    headers[hdrs.ACCEPT_RANGES] = "bytes"
    headers[hdrs.CONTENT_TYPE] = content_type
    status, span = 200, range(size)
    # Only GET has ranges; for other methods the RFC has the header ignored.
    ranges = request.headers.getall(hdrs.RANGE, []) if request.method == hdrs.METH_GET else []
    if ranges and range_applies(request.headers.get(hdrs.IF_RANGE), etag):
        try:
            part = requested_range(",".join(ranges), size)
        except UnsatisfiableRangeError:
            refusal: dict[str, str] = {hdrs.CONTENT_RANGE: f"bytes */{size}"}
            refusal[hdrs.CONTENT_LENGTH] = "0"
            return _Plan(416, refusal, range(0))
        if part is not None:
            status, span = 206, part
            headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers[hdrs.CONTENT_LENGTH] = str(len(span))
    return _Plan(status, headers, span)


def _from_bytes(request: web.Request, data: bytes, content_type: str) -> web.StreamResponse:
    plan = _plan(request, len(data), blake3(data).hexdigest(), _REVALIDATE, content_type)
    body = None if request.method == hdrs.METH_HEAD else data[plan.span.start : plan.span.stop]
    return web.Response(status=plan.status, headers=plan.headers, body=body or None)


def _from_file(
    request: web.Request, fd: int, size: int, tag: str, cache: str
) -> web.StreamResponse:
    """Take over `fd`."""
    file = FileIO(fd)
    try:
        plan = _plan(request, size, tag, cache, _OCTETS)
        wanted = range(0) if request.method == hdrs.METH_HEAD else plan.span
        if len(wanted) > _INLINE_BYTES:
            return FileResponse(file, wanted, status=plan.status, headers=plan.headers)
        with file:
            body = os.pread(fd, len(wanted), wanted.start)
        if len(body) != len(wanted):
            raise OSError(errno.EIO, "file shrank while it was read")
    except BaseException:
        file.close()
        raise
    return web.Response(status=plan.status, headers=plan.headers, body=body or None)


def _exact(request: web.Request) -> str:
    """The path, if it was sent without encoding or query: one object, one URL."""
    if request.raw_path != request.path:
        raise web.HTTPNotFound
    return request.path


@contextmanager
def _http_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise web.HTTPNotFound from error
    except PermissionError as error:
        raise web.HTTPForbidden(text="the server may not read this file\n") from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise web.HTTPServiceUnavailable(text="out of resources, try again\n") from error
        raise

"""Places that keep objects, one module each, and how one is found from what a person typed.

A new kind of place (`s3`, say) is a module here with a class that fulfils
`chunkstore.storage.backend`, one more scheme in `open_reader`, and one more row in the tests that
run `chunkstore.storage.conformance`. The modules know nothing of each other, and each is imported
only when it is asked for: most commands never speak HTTP.

The grammar of object names is here because all of them share it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from chunkstore.errors import Usage
from chunkstore.storage.backend import Reader

if TYPE_CHECKING:
    from chunkstore.storage.backends.http_access import Access
    from chunkstore.storage.backends.throttle import Throttle

MAX_NAME: Final = 1024
"""Characters of an object name; the least that any place in sight allows (S3)."""
RESERVED: Final = "local"
"""What lies below this is a store's own business on its machine and is no object."""

_COMPONENT: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
_NAME: Final = re.compile(f"{_COMPONENT}(/{_COMPONENT})*")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_object_name(name: str) -> bool:
    """Whether `name` can name an object: safe as a relative path, a URL path and a bucket key."""
    if len(name) > MAX_NAME or name.partition("/")[0] == RESERVED:
        return False
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name` if it can name an object. Raises `Usage`."""
    if not is_object_name(name):
        raise Usage(f"{name[:80]!r} can't name an object")
    return name


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it can be listed: an object name and a '/'. Raises `Usage`."""
    if not prefix.endswith("/") or not is_object_name(prefix[:-1]):
        raise Usage(f"{prefix[:80]!r} can't be listed: a prefix is a name that ends in '/'")
    return prefix


def check_range(start: int, stop: int) -> None:
    """Refuse a range that begins before the object. Raises `Usage`."""
    if start < 0 or stop < 0:
        raise Usage(f"range {start} to {stop} lies before the object")


def open_reader(
    location: str,
    *,
    limit_rate: float | None = None,
    access: Access | None = None,
    mirrors: Sequence[str] = (),
) -> Reader:
    """The store at a URL or in a directory, read at `limit_rate` bytes per second at most.

    `access` says how a URL is reached. What `location` can't give, or gives wrongly, is read from
    the `mirrors`, to which neither token nor certificate of `access` is shown. Raises `Usage`,
    `NotFound`, `LocalError`.
    """
    throttle = None
    if limit_rate is not None:
        from chunkstore.storage.backends.throttle import Throttle

        throttle = Throttle(limit_rate)
    if not mirrors:
        return _open(location, throttle, access)
    from chunkstore.storage.backends.late import LateReader
    from chunkstore.storage.backends.mirrors import MirrorReader

    strange = None if access is None else access._replace(token="", certificate="", key="")
    readers: list[Reader] = [LateReader(partial(_open, location, throttle, access, attempts=2))]
    readers += [
        LateReader(partial(_open, mirror, throttle, strange, attempts=2)) for mirror in mirrors
    ]
    return MirrorReader(readers)


def _open(
    location: str, throttle: Throttle | None, access: Access | None, *, attempts: int = 5
) -> Reader:
    scheme = _SCHEME.match(location)
    match scheme[1].lower() if scheme else "file":
        case "http" | "https":
            from chunkstore.storage.backends.http import HttpReader

            return HttpReader(location, throttle=throttle, access=access, attempts=attempts)
        case "file":
            from chunkstore.storage.backends.local import LocalBackend

            local = LocalBackend(_path_of(location) if scheme else location)
            if throttle is None:
                return local
            from chunkstore.storage.backends.throttle import ThrottledReader

            return ThrottledReader(local, throttle)
        case other:
            raise Usage(f"{other}: is no kind of place known here; use http, https, or a path")


def _path_of(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise Usage(f"{url!r} names no file of this machine: write file:///path")
    return unquote(parts.path)

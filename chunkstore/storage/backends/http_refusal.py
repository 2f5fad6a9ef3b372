"""What it means when a server answers with something else than an object: errors and redirects.

Promises: a message shows the status and our own word for it, never text the server chose.
"""

from __future__ import annotations

import email.utils
import re
import time
from http import HTTPStatus

from chunkstore.errors import ChunkstoreError, NotFound, TransferError, Usage
from chunkstore.storage.backends.http_connection import Reply
from chunkstore.storage.backends.http_url import Url


class Busy(TransferError):
    """A server that can't answer now, and wants to be left alone for `wait` seconds."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class NoHead(TransferError):
    """A server that does not know HEAD."""


def refusal(reply: Reply, name: str) -> ChunkstoreError:
    """What a status means for whoever wanted the object `name`."""
    status = reply.status
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown"
    said = f"{reply.url}: the server answers {status} ({phrase})"
    match status:
        case 404 | 410:
            return NotFound(said, name=name)
        case 401 | 403:
            return TransferError(f"{said}; it wants other credentials in the URL", retryable=False)
        case 405 | 501:
            return NoHead(said, retryable=False)
        case 505 | 511:
            return TransferError(said, retryable=False)
        case _ if status in (408, 425, 429) or status >= 500:
            return Busy(said, _seconds(reply.header("Retry-After")))
    return TransferError(said, retryable=False)


def _seconds(retry_after: str) -> float:
    """The wait that a `Retry-After` asks for, which is a number or a date; 0 if it is neither."""
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return float(retry_after)
    date = email.utils.parsedate_tz(retry_after)
    try:
        return 0.0 if date is None else max(email.utils.mktime_tz(date) - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def redirected(url: Url, location: str) -> Url:
    """Where a redirect leads, if anybody may be sent there. Raises `TransferError`."""
    try:
        target = url.resolve(location)
    except (Usage, ValueError):
        # Not shown: it may be long, and may hold somebody's credentials.
        raise TransferError(f"{url}: redirected to no http or https URL", retryable=False) from None
    if url.origin.scheme == "https" and target.origin.scheme == "http":
        raise TransferError(f"{url}: redirected from https to http", retryable=False)
    return target

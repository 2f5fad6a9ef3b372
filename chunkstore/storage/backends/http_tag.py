"""ETags: which of them tell every change of an object.

Promises: a tag from here names one content only. A web server makes its tags of the file's time in
whole seconds and its size; two commits within a second leave refs of the same size, so the tag of
the first would hide the second for ever. Such a tag is taken only when the object had rested for
a while by the server's own clock; until then the object is fetched whole, which costs little.
"""

from __future__ import annotations

import email.utils
import re
from typing import Final

from chunkstore.storage.backends.http_connection import Reply

RESTED: Final = 60.0
"""Seconds between an object's last change and a reply after which its tag is taken. More than a
second, since the time of a file may come from another clock than the server's date."""

# The RFC's grammar without what lies beyond ASCII, and of a length that is sent back gladly.
_TAG: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]{0,200}"')


def is_tag(text: str) -> bool:
    """Whether `text` can stand in `If-None-Match`."""
    return _TAG.fullmatch(text) is not None


def lasting_tag(reply: Reply) -> str:
    """The ETag of a reply, or "" when it has none or one that may outlive the content."""
    tag = reply.header("ETag")
    if not is_tag(tag):
        return ""
    modified = reply.header("Last-Modified")
    # Without a time, the tag is not made of one: ours are digests of the content.
    return tag if not modified or _seconds(reply, modified) >= RESTED else ""


def _seconds(reply: Reply, modified: str) -> float:
    """How long ago the object had changed when the server answered; 0 if it does not tell."""
    try:
        then, now = (
            email.utils.parsedate_to_datetime(text).timestamp()
            for text in (modified, reply.header("Date"))
        )
    except (ValueError, OverflowError):
        return 0.0
    return now - then

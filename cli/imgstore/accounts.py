"""Ids of users and groups by name, as this machine knows them: archives have ACLs with names."""

from __future__ import annotations

import grp
import pwd


def account(kind: bytes, name: bytes) -> int | None:
    """The id of a (`b"user"` or `b"group"`, name); None when this machine knows no such name."""
    try:
        text = name.decode()
        return pwd.getpwnam(text).pw_uid if kind == b"user" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        return None

"""Verbs that make a store and record versions, and what they take."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imgstore.verbs.options import (
    add_excludes,
    add_exit_code,
    add_record,
)
from imgstore.verbs.trust import (
    add_lifetime,
    add_passphrase,
    add_root_key,
)

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_recording(verb: Maker) -> None:
    """Make their parsers."""
    made = verb(
        "init",
        "make a store",
        "init",
        "--store /srv/imgstore init --compression zstd:9",
        "init --root-key /media/usb/root.key --passphrase",
        more="'commit' makes a default store by itself; 'init' is for choosing how it compresses,\n"
        "and where its root key is. Without --root-key that is kept with the store until\n"
        "'imgstore key export root --remove' takes it away; a FILE that is not there is made.",
    )
    made.add_argument(
        "--compression",
        metavar="C",
        default="auto",
        help="auto (the default: zstd level 3 where it is worth it), lz4, zstd:1 to zstd:19, none",
    )
    made.add_argument(
        "--unsigned",
        action="store_true",
        help="sign nothing: nodes then pull only with --insecure",
    )
    add_root_key(made)
    add_passphrase(made)
    add_lifetime(made, "signatures are believed, without it 7")
    made = verb(
        "commit",
        "record a directory as the next version of an image",
        "commit web /srv/images/web",
        "commit web -m 'nginx 1.22.1-9' -t 2026-11",
        "commit web --exclude 'var/cache/apt/**' --exclude '*.tmp'",
        more="Nothing changed means no new version, and exit code 0. Exit code 1 when a file kept\n"
        "changing while it was read: its content is recorded as it was met.",
    )
    made.add_argument("image", metavar="IMAGE", help="the image; made by its first commit")
    _add_worktree(made)
    add_record(made)
    made = verb(
        "status",
        "show what a commit would record",
        "status web",
        "status web --exit-code > /dev/null || imgstore commit web",
        more="Lines as 'diff' prints them; nothing is written.",
    )
    made.add_argument("image", metavar="IMAGE", help="the image")
    _add_worktree(made)
    add_exit_code(made)


def _add_worktree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        help="the directory; without it the one the image was last committed from",
    )
    add_excludes(parser)

"""What each verb takes, and the words that explain it: a table, in the order of `--help`.

What a verb does is in `commands/<verb>.py`.
"""

from __future__ import annotations

import argparse
from typing import Final, Protocol

from imgstore.amounts import parse_rate, parse_size, parse_time
from imgstore.verbs_of_trust import (
    add_access,
    add_insecure,
    add_lifetime,
    add_passphrase,
    add_root_key,
    add_trust,
)

SPEC: Final = (
    "A SPEC is IMAGE[:TAG or version id prefix][~N]: 'web' is web:latest, 'web:base' a tag,\n"
    "'web:3fa9c1' a version, 'web~1' the version before the latest."
)
LAYERS: Final = (
    f"{SPEC}\n"
    "'web+rack7+node12' is the latest of each laid over the one before: see 'Overlays' in the\n"
    "administration guide."
)


class Maker(Protocol):
    """Makes the parser of one verb; `more` goes below the one-line text, examples to the end."""

    def __call__(
        self, name: str, text: str, *examples: str, more: str = ""
    ) -> argparse.ArgumentParser:
        """The parser, which has the options of every verb already."""
        ...


def add_verbs(verb: Maker) -> None:
    """Make the parsers of all verbs."""
    _add_recording(verb)
    _add_looking(verb)
    _add_naming(verb)
    _add_moving(verb)
    _add_keeping(verb)
    add_trust(verb)


def _add_recording(verb: Maker) -> None:
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
    _add_record(made)
    made = verb(
        "status",
        "show what a commit would record",
        "status web",
        "status web --exit-code > /dev/null || imgstore commit web",
        more="Lines as 'diff' prints them; nothing is written.",
    )
    made.add_argument("image", metavar="IMAGE", help="the image")
    _add_worktree(made)
    _add_exit_code(made)


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--message", metavar="MSG", default="", help="what to say about it")
    parser.add_argument(
        "-t", "--tag", metavar="TAG", action="append", default=[], help="also name it TAG"
    )


def _add_worktree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        help="the directory; without it the one the image was last committed from",
    )
    _add_excludes(parser)


def _add_excludes(parser: argparse.ArgumentParser) -> None:
    # One list for both, since the first rule that matches decides.
    parser.add_argument(
        "--exclude",
        metavar="P",
        dest="excludes",
        action="append",
        type=lambda text: ("rule", text),
        default=[],
        help="leave out what matches P, as rsync does: a name at any depth, /P from the top; '+ P' "
        "keeps what later ones would leave out",
    )
    parser.add_argument(
        "--exclude-from",
        metavar="FILE",
        dest="excludes",
        action="append",
        type=lambda text: ("file", text),
        default=[],
        help="the same, one a line",
    )


def _add_exit_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 when there are differences"
    )


def _add_looking(verb: Maker) -> None:
    verb("images", "list the images of the store", "images", "images --json")
    made = verb("log", "list the versions of an image, newest first", "log web", "log web -n 5")
    made.add_argument("spec", metavar="SPEC", help="the image, or the version to begin with")
    made.add_argument("-n", type=_count, metavar="N", dest="number", help="only the first N")
    made = verb("show", "tell all about one version", "show web", "show web:base", more=LAYERS)
    made.add_argument("spec", metavar="SPEC", help="the version")
    made = verb(
        "ls", "list what a version holds", "ls web etc", "ls -r web:base usr/share/doc", more=LAYERS
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("path", metavar="PATH", nargs="?", default="", help="a path in the image")
    made.add_argument("-r", "--recursive", action="store_true", help="all that lies below, too")
    made = verb(
        "cat",
        "write a file of a version to stdout",
        "cat web etc/fstab",
        "cat web~1 etc/fstab | diff - /srv/images/web/etc/fstab",
        more=LAYERS,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("path", metavar="PATH", help="a file in the image")
    made = verb(
        "diff",
        "show which paths differ between two versions",
        "diff web~1 web",
        "diff web:base web --stat",
        "diff web:base web --exit-code > /dev/null || echo changed",
        more="One path a line, sorted, after a letter and a tab: A added, D deleted, M content\n"
        "modified, m only metadata modified, T another type. Exit code 0 also when there are\n"
        "differences, unless --exit-code is given.\n\n" + LAYERS,
    )
    made.add_argument("old", metavar="OLD", help="SPEC of the older version")
    made.add_argument("new", metavar="NEW", help="SPEC of the newer version")
    made.add_argument("--stat", action="store_true", help="only numbers of paths and bytes")
    _add_exit_code(made)


def _add_naming(verb: Maker) -> None:
    made = verb(
        "tag",
        "name a version",
        "tag web 2026-11",
        "tag web~1 latest",
        more="A tag that names another version moves. Moving 'latest' makes nodes go there at\n"
        "their next pull.\n\n" + SPEC,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("name", metavar="NAME", help="the tag")
    made = verb("untag", "take a tag away", "untag web 2026-11")
    made.add_argument("image", metavar="IMAGE", help="the image")
    made.add_argument("name", metavar="NAME", help="the tag")
    made = verb(
        "rm",
        "remove an image, or the names of a version",
        "rm web",
        "rm web:2026-11",
        more="An image alone is removed with all its tags. A version loses all its tags; if it is\n"
        "the latest, its parent becomes that. 'imgstore gc' frees the space.",
    )
    made.add_argument("spec", metavar="SPEC", help="the image, or a version of it")


def _add_moving(verb: Maker) -> None:
    made = verb(
        "export",
        "write a version, or what it changes, as an archive",
        "export web -o image.tar.gz",
        "export web --base web:base -o image-diff.tar.gz",
        "export web --base /srv/old/image.tar.gz -o image-diff.tar.gz",
        "export web -o - --format tar | tar -tv",
        "export web --base web:base --format oci -o web.tar",
        more="With --base only what differs from it, to be unpacked over it.\n\n" + LAYERS,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="the archive; - is stdout"
    )
    made.add_argument(
        "--base",
        metavar="BASE",
        help="write only what differs from this version, or from a tar archive (one that ends in "
        ".tar, .tar.gz and the like, or has a / in it)",
    )
    made.add_argument(
        "--deletions",
        choices=("sidecar", "gnu", "oci", "none"),
        help="what is gone since the base: listed in a file beside it (the default), told to "
        "'tar --incremental -x', as whiteouts of a container layer, or not told",
    )
    made.add_argument(
        "--format",
        choices=("tar.gz", "tar.zst", "tar", "oci"),
        help="else by the end of FILE's name, or tar.gz; oci is an image layout for container "
        "tools: a .tar, or a new directory",
    )
    made.add_argument("--level", type=_count, metavar="N", help="how hard to compress")
    made = verb(
        "publish",
        "keep the archives of an image in a directory, for machines that only know tar",
        "publish web /srv/www/web",
        more="image.tar.gz is the version tagged 'base', image-diff.tar.gz what differs in the\n"
        "latest, image-diff.deletions what has to go first; SHA256SUMS is for 'sha256sum -c'.\n"
        "What is right already is not written again.",
    )
    made.add_argument("image", metavar="IMAGE", help="the image")
    made.add_argument("directory", metavar="DIR", help="the directory; made if need be")
    made.add_argument("--level", type=_count, metavar="N", help="how hard to compress")
    made = verb(
        "rebase",
        "let the tag 'base' name the latest version",
        "rebase web",
        "rebase web --when-over 40 && imgstore publish web /srv/www/web",
        more="The diff that 'publish' keeps is empty then, and machines that only know tar fetch\n"
        "the whole image once more. That pays when the diff has grown.",
    )
    made.add_argument("image", metavar="IMAGE", help="the image")
    made.add_argument(
        "--when-over",
        type=_percent,
        metavar="PERCENT",
        help="only if the diff is larger than so much of the image",
    )
    made = verb(
        "import",
        "record archives as versions of an image",
        "import web image.tar.gz",
        "import web image.tar.gz image-diff.tar.gz -m 'from the old server'",
        "import web --base web:base image-diff.tar.gz",
        "import debian debian.oci.tar --ref bookworm",
        "ssh golden tar -C / -c --one-file-system --xattrs --acls -S . | imgstore import web -",
        more="The first FILE is the whole image, each further one is applied over the one before\n"
        "and makes a version. FILE is a tar archive (plain, gzip, zstd, xz, bzip2), an OCI layout\n"
        "(a directory, or a tar of one), or what 'docker save' writes; - is stdin. What a list of\n"
        "deletions beside a diff names is removed first: image-diff.deletions for\n"
        "image-diff.tar.gz. When one of the archives is bad, none is recorded.",
    )
    made.add_argument("image", metavar="IMAGE", help="the image; made by its first version")
    made.add_argument("files", metavar="FILE", nargs="+", help="the archives, in order")
    made.add_argument(
        "--base", metavar="SPEC", help="apply the first FILE over this version: it is a diff"
    )
    made.add_argument(
        "--ref", metavar="NAME", help="which image of several that an OCI layout or archive holds"
    )
    _add_record(made)
    made = verb(
        "checkout",
        "write a version into a directory",
        "checkout web:base /srv/images/web-base",
        more="The directory must be new or empty.\n\n" + LAYERS,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("directory", metavar="DIR", help="a new or empty directory")
    made = verb(
        "pull",
        "make a directory a version of a remote, moving only what is missing",
        "pull --trust-first http://head:8730/web /srv/node",
        "pull http://head:8730/web:2026-11 /srv/node",
        "pull /mnt/usb/store/web /srv/node",
        "pull /srv/node",
        "pull --dry-run /srv/node",
        "pull http://head:8730/web+rack7+node12 / --mirror --exclude /var/lib",
        more="A REMOTE is the URL or the directory of a store. DIR is new, empty, or was pulled\n"
        "before; then it remembers its remote, and DIR alone is enough. What the image does not\n"
        "know stays, and what was changed here and stands in the way goes to .imgstore/saved/.\n\n"
        + SPEC,
    )
    made.add_argument("remote", metavar="REMOTE/SPEC[+OVERLAY...]", nargs="?", help="the version")
    made.add_argument("directory", metavar="DIR", help="the directory")
    made.add_argument(
        "--dry-run", action="store_true", help="only say what would change, and what would move"
    )
    made.add_argument(
        "--mirror",
        action="store_true",
        help="make DIR exactly the version: remove what the image does not know, mend the rest",
    )
    made.add_argument(
        "--atomic",
        action="store_true",
        help="update a clone beside DIR and exchange the two; 'rollback' exchanges them back",
    )
    made.add_argument(
        "--watch",
        action="store_true",
        help="stay, ask about once a minute, and pull whenever the image moves",
    )
    made.add_argument(
        "--limit-rate",
        type=parse_rate,
        metavar="RATE",
        help="receive at most RATE bytes per second: 500k, 2M, 1.5M",
    )
    made.add_argument(
        "--trust-first",
        action="store_true",
        help="if DIR trusts no store yet, trust this one from now on; see 'trust'",
    )
    add_insecure(made)
    add_access(made)
    made.add_argument(
        "--transport",
        choices=("auto", "http", "swarm"),
        default="auto",
        help="where packs come from: auto (the default) takes what is quicker, http only the "
        "server, swarm other nodes wherever a pack has a torrent",
    )
    made.add_argument(
        "--cache-size", type=parse_size, metavar="SIZE", help="most bytes kept of what swarms bring"
    )
    _add_trackers(made)
    _add_staging(made)
    _add_giving(made, "after the pull")
    made.add_argument("--no-seed", action="store_true", help="give nothing after the pull")
    _add_peers(made)
    _add_excludes(made)
    _add_applying(made)


def _add_trackers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracker",
        metavar="URL",
        dest="trackers",
        action="append",
        default=[],
        help="a tracker of others, instead of the server's own",
    )


def _add_staging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--staging",
        metavar="DIR",
        help="keep what swarms bring in DIR, such as one in memory, not in .imgstore/swarm",
    )


def _add_giving(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument(
        "--seed-time", type=parse_time, metavar="TIME", help=f"give for so long {when}: 90, 15m, 2h"
    )
    parser.add_argument(
        "--seed-ratio",
        type=_ratio,
        metavar="R",
        help="give no more than R times what the packs weigh",
    )


def _add_peers(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that is in swarms."""
    parser.add_argument(
        "--limit-upload",
        type=parse_rate,
        metavar="RATE",
        help="give at most RATE bytes per second to other nodes",
    )
    parser.add_argument(
        "--peer-listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="take peers at this address of this machine only; repeatable",
    )
    parser.add_argument(
        "--peer-port",
        metavar="FIRST-LAST",
        default="6881-6999",
        help="take peers at the first free port of these; 6881-6999 without it",
    )
    parser.add_argument(
        "--peer-net",
        metavar="NETWORK",
        action="append",
        default=[],
        help="have to do with peers of this network only, such as 10.0.0.0/8; repeatable",
    )


def _add_applying(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that changes a tree in use."""
    parser.add_argument(
        "--pre-apply",
        metavar="CMD",
        action="append",
        default=[],
        help="run CMD before anything changes; when it fails, nothing does",
    )
    parser.add_argument(
        "--post-apply", metavar="CMD", action="append", default=[], help="run CMD afterwards"
    )
    parser.add_argument(
        "--no-devices", action="store_true", help="make no devices, whatever the image holds"
    )
    parser.add_argument(
        "--strict", action="store_true", help="what can't be set (owners, xattrs) is an error"
    )


def _add_keeping(verb: Maker) -> None:
    made = verb(
        "recover",
        "finish a pull that was interrupted, without the network",
        "recover /",
        more="Does what the journal in DIR/.imgstore says is left to do. Meant for boot time; the\n"
        "next pull does the same. Nothing to finish is no error.",
    )
    made.add_argument("directory", metavar="DIR", help="the directory")
    made = verb(
        "rollback",
        "make a pulled directory what it was before",
        "rollback /srv/node",
        more="After 'pull --atomic' the tree of before is exchanged back, without the network;\n"
        "else the version of before is pulled from the same remote. The next pull goes forward\n"
        "again.",
    )
    made.add_argument("directory", metavar="DIR", help="the directory")
    _add_excludes(made)
    _add_applying(made)
    made = verb(
        "serve",
        "serve the store over HTTP",
        "serve",
        "serve --listen 0.0.0.0:8730",
        "serve --listen '[::]:8730' -v",
        more="Read-only, and only what nodes need. Runs until it is interrupted. It tracks the\n"
        "swarms of its packs, and is the first seed of each where libtorrent is installed.",
    )
    made.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        default="127.0.0.1:8730",
        help="where; without it 127.0.0.1:8730, which only this machine reaches",
    )
    made.add_argument(
        "--token-file", metavar="FILE", help="only for who has the bearer token in FILE"
    )
    made.add_argument("--tls-cert", metavar="FILE", help="over TLS, with this certificate")
    made.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    made.add_argument(
        "--client-ca", metavar="FILE", help="only for clients with a certificate by one of these"
    )
    _add_trackers(made)
    made.add_argument("--no-seed", action="store_true", help="track swarms, but seed none")
    _add_peers(made)
    made = verb(
        "seed",
        "give packs that came from other nodes to more of them",
        "seed /srv/node --limit-upload 10M",
        "seed --stop /srv/node",
        more="A pull starts this by itself for a while; as a service it stays.",
    )
    made.add_argument("directory", metavar="DIR", help="a pulled directory")
    made.add_argument("--stop", action="store_true", help="end it, and drop what was given")
    made.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    _add_giving(made, "and no longer")
    _add_staging(made)
    _add_peers(made)
    made = verb(
        "swarm",
        "list the packs that nodes are exchanging",
        "swarm http://head:8730",
        more="What the remote's tracker knows: who has them, who fetches them, how fast.",
    )
    made.add_argument("remote", metavar="REMOTE", help="the URL of a server")
    made = verb(
        "verify",
        "check a store to the last bit, or a pulled directory",
        "verify",
        "verify /srv/node",
        "verify --repair /srv/node",
        more="Exit code 1 when something is off, after naming all of it.",
    )
    made.add_argument(
        "directory", metavar="DIR", nargs="?", help="a pulled directory, instead of the store"
    )
    made.add_argument(
        "--repair",
        action="store_true",
        help="make DIR what it should be; what was changed here goes to .imgstore/saved/",
    )
    _add_excludes(made)
    _add_applying(made)
    made = verb(
        "gc",
        "drop what no tag reaches, and free its space",
        "gc --dry-run",
        "gc --keep 10",
        more="Safe beside running pulls: packs are deleted only after a grace time.",
    )
    made.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help="of each image's history keep only the N newest versions and what is tagged; else all",
    )
    made.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        help="how long packs given up are kept for pulls under way",
    )
    made.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    made = verb(
        "completion",
        "print a completion script for a shell",
        "completion bash > /etc/bash_completion.d/imgstore",
        "completion zsh > /usr/local/share/zsh/site-functions/_imgstore",
    )
    made.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="bash or zsh")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _percent(text: str) -> float:
    number = float(text.removesuffix("%"))
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def _ratio(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


_count.__name__ = "number"  # what argparse calls the kind of value it could not read
_percent.__name__ = "percentage"
_ratio.__name__ = "ratio"
_seconds.__name__ = "number of seconds"

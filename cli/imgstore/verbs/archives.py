"""Verbs that take versions out of a store and bring them in, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstore.amounts import (
    parse_count,
    parse_percent,
)
from imgstore.verbs.options import (
    add_record,
)
from imgstore.verbs.words import LAYERS

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_archives(verb: Maker) -> None:
    """Make their parsers."""
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
    made.add_argument("--level", type=parse_count, metavar="N", help="how hard to compress")
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
    made.add_argument("--level", type=parse_count, metavar="N", help="how hard to compress")
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
        type=parse_percent,
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
    add_record(made)
    made = verb(
        "checkout",
        "write a version into a directory",
        "checkout web:base /srv/images/web-base",
        more="The directory must be new or empty.\n\n" + LAYERS,
    )
    made.add_argument("spec", metavar="SPEC", help="the version")
    made.add_argument("directory", metavar="DIR", help="a new or empty directory")

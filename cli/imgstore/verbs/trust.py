"""Verbs about keys and trust, and the options of others that have to do with them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imgstore.verbs.options import add_repeatable

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_trust(verb: Maker) -> None:
    """Make the parsers of the verbs that deal with keys."""
    made = verb(
        "key",
        "make, list, replace and move signing keys",
        "key list",
        "key export root --remove --passphrase -o /media/usb/root.key",
        "key export document -o root.doc",
        "key rotate online --root-key /media/usb/root.key",
        "key generate agent.key",
        more="Every store has a root key, which names the keys that sign, and an online key, that\n"
        "signs refs. 'generate FILE' makes a key pair, FILE and FILE.pub; 'list' shows the keys\n"
        "of the store; 'rotate online', 'root' or 'document' replaces one, or only the time until\n"
        "which the root document is believed, and signs everything again; 'export document',\n"
        "'public', 'root' or 'online' writes what nodes pin, or a secret key, into a file.",
    )
    made.add_argument(
        "action",
        metavar="ACTION",
        choices=("generate", "list", "rotate", "export"),
        help="see above",
    )
    made.add_argument("what", metavar="WHAT", nargs="?", help="see above")
    made.add_argument("-o", "--output", metavar="FILE", help="where 'export' writes to")
    made.add_argument(
        "--remove", action="store_true", help="'export': take the secret key away from the store"
    )
    add_repeatable(
        made,
        "--new",
        metavar="FILE",
        help="'rotate': a key that takes the place; of root keys the secret, else the public part",
    )
    made.add_argument(
        "--threshold", type=int, metavar="N", default=1, help="'rotate': so many of them must sign"
    )
    add_root_key(made, repeated=True)
    add_passphrase(made)
    add_lifetime(made, "the root document is believed, without it 365")
    made = verb(
        "refresh",
        "sign all images again, before their signatures expire",
        "refresh",
        "refresh --lifetime 14",
        more="Meant for a timer, once a day. --lifetime and --no-expiry hold from then on.",
    )
    add_lifetime(made, "signatures are believed")
    made = verb(
        "trust",
        "say which store a node believes",
        "trust http://head:8730 --key 3fa9c1d2e0ab... /srv/node",
        "trust http://head:8730 --key /media/usb/root.doc",
        "trust --first http://head:8730 /srv/node",
        "trust --forget /srv/node",
        more="DIR (without it /) is a directory that is or will be pulled. KEY is the fingerprint\n"
        "of the store's root key, a file with its public part, or a root document; 'imgstore key\n"
        "list' on the store shows it. --first believes whatever the remote says this time.",
        usage="imgstore trust [OPTION]... --key FILE|FINGERPRINT REMOTE [DIR]\n"
        "       imgstore trust [OPTION]... --first REMOTE [DIR]\n"
        "       imgstore trust [OPTION]... --forget DIR",
    )
    made.add_argument("remote", metavar="REMOTE", nargs="?", help="the store")
    made.add_argument("directory", metavar="DIR", nargs="?", help="the node's tree, or /")
    add_repeatable(
        made,
        "--key",
        metavar="FILE|FINGERPRINT",
        dest="keys",
        help="the root key; given twice both have to have signed",
    )
    made.add_argument("--first", action="store_true", help="trust on first use")
    add_access(made)
    made.add_argument(
        "--forget", action="store_true", help="forget all that DIR trusts and has seen"
    )


def add_root_key(parser: argparse.ArgumentParser, *, repeated: bool = False) -> None:
    """Where the root key is."""
    add_repeatable(
        parser,
        "--root-key",
        metavar="FILE",
        help="the secret root key" + (", if it is not kept with the store" if repeated else ""),
    )
    add_repeatable(
        parser,
        "--root-key-command",
        metavar="CMD",
        help="a program that signs with the root key",
    )


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """How key files are opened and sealed."""
    parser.add_argument(
        "--passphrase", action="store_true", help="protect the new key file by a passphrase"
    )
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help="read the passphrase from FILE, first line"
    )


def add_access(parser: argparse.ArgumentParser) -> None:
    """How a remote over HTTP is reached."""
    group = parser.add_argument_group("reaching the remote")
    add_repeatable(
        group,
        "--mirror-url",
        metavar="URL",
        help="another place that has the same store; asked for what REMOTE does not give",
    )
    group.add_argument("--token-file", metavar="FILE", help="a bearer token, first line of FILE")
    group.add_argument("--ca", metavar="FILE", help="who may vouch for servers, instead of all")
    group.add_argument("--client-cert", metavar="FILE", help="the certificate of this machine")
    group.add_argument("--client-key", metavar="FILE", help="its key, if not in the same file")


def add_insecure(parser: argparse.ArgumentParser) -> None:
    """Doing without signatures."""
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="pull from a store that signs nothing, whoever has changed it",
    )


def add_lifetime(parser: argparse.ArgumentParser, what: str) -> None:
    """For how long something is believed."""
    parser.add_argument("--lifetime", type=_days, metavar="DAYS", help=f"for how many days {what}")
    parser.add_argument("--no-expiry", action="store_true", help="for ever, in a closed lab")


def _days(text: str) -> int:
    seconds = float(text) * 86400
    if not 60 <= seconds <= 100 * 365 * 86400:
        raise ValueError
    return int(seconds)


_days.__name__ = "number of days"

"""Options that several verbs have."""

from __future__ import annotations

import argparse
from typing import Any

from imgstore.amounts import parse_rate, parse_ratio, parse_time


def add_repeatable(
    parser: argparse._ActionsContainer,
    *flags: str,
    metavar: str,
    help: str,  # noqa: A002  argparse's own word
    dest: str | None = None,
) -> None:
    """An option that may be given as often as one likes: a list, empty without it."""
    named: dict[str, Any] = {} if dest is None else {"dest": dest}
    parser.add_argument(*flags, metavar=metavar, action="append", default=[], help=help, **named)


def add_record(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that records a version."""
    parser.add_argument("-m", "--message", metavar="MSG", default="", help="what to say about it")
    add_repeatable(parser, "-t", "--tag", metavar="TAG", help="also name it TAG")


def add_exit_code(parser: argparse.ArgumentParser) -> None:
    """Differences as an exit code."""
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 when there are differences"
    )


def add_excludes(parser: argparse.ArgumentParser) -> None:
    """Patterns of what is left alone."""
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


def add_trackers(parser: argparse.ArgumentParser) -> None:
    """Trackers of others."""
    add_repeatable(
        parser,
        "--tracker",
        metavar="URL",
        dest="trackers",
        help="a tracker of others, instead of the server's own",
    )


def add_staging(parser: argparse.ArgumentParser) -> None:
    """Where what swarms bring is kept."""
    parser.add_argument(
        "--staging",
        metavar="DIR",
        help="keep what swarms bring in DIR, such as one in memory, not in .imgstore/swarm",
    )


def add_giving(parser: argparse.ArgumentParser, when: str) -> None:
    """How long and how much is given; `when` completes the sentence."""
    parser.add_argument(
        "--seed-time", type=parse_time, metavar="TIME", help=f"give for so long {when}: 90, 15m, 2h"
    )
    parser.add_argument(
        "--seed-ratio",
        type=parse_ratio,
        metavar="R",
        help="give no more than R times what the packs weigh",
    )


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that is in swarms."""
    parser.add_argument(
        "--limit-upload",
        type=parse_rate,
        metavar="RATE",
        help="give at most RATE bytes per second to other nodes",
    )
    add_repeatable(
        parser,
        "--peer-listen",
        metavar="ADDRESS",
        help="take peers at this address of this machine only; repeatable",
    )
    parser.add_argument(
        "--peer-port",
        metavar="FIRST-LAST",
        default="6881-6999",
        help="take peers at the first free port of these; 6881-6999 without it",
    )
    add_repeatable(
        parser,
        "--peer-net",
        metavar="NETWORK",
        help="have to do with peers of this network only, such as 10.0.0.0/8; repeatable",
    )


def add_applying(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that changes a tree in use."""
    add_repeatable(
        parser,
        "--pre-apply",
        metavar="CMD",
        help="run CMD before anything changes; when it fails, nothing does",
    )
    add_repeatable(parser, "--post-apply", metavar="CMD", help="run CMD afterwards")
    parser.add_argument(
        "--no-devices", action="store_true", help="make no devices, whatever the image holds"
    )
    parser.add_argument(
        "--strict", action="store_true", help="what can't be set (owners, xattrs) is an error"
    )

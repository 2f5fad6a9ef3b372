"""The arguments of every verb, and the words that explain them.

Promises: options and names may come in any order, the options every verb takes also before the
verb; a wrong command line is a `Usage` of one line. Imports only what `--help` needs, and makes the
parser of no verb but the one that is meant, since both have to answer at once. What a verb does is
in `commands/<verb>.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final, NoReturn

from chunkstore.errors import Usage
from imgstore import __version__
from imgstore.verbs import add_verbs

_EXIT_CODES: Final = """exit codes:
  0  done                        5  not trusted
  1  differences or damage found 6  transfer failed
  2  wrong usage                 7  this machine refused (space, permission, a lock)
  3  not found                 130  interrupted
  4  corrupt data

'imgstore VERB --help' says more, with examples."""
_USUAL_WIDTH: Final = 80
_DEFAULTS: Final[dict[str, Any]] = {"store": None, "json": False, "quiet": False, "verbose": 0}


@cache
def _width() -> int:
    """Columns for help: as `shutil` finds them, without importing it."""
    with suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
        if columns > 0:
            return columns
    with suppress(AttributeError, ValueError, OSError):
        assert sys.__stdout__ is not None
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _USUAL_WIDTH
    return _USUAL_WIDTH


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Made anew by argparse for every argument of every verb, so it must be quick to make."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width() - 2)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation that works today is ambiguous after the next option: none is taken.
        super().__init__(
            allow_abbrev=False,
            formatter_class=_Formatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}; see '{self.prog} --help'")


class _PassedOver(_Parser):
    """Stands for the parser of a verb that nobody asked for; what it is to take is forgotten."""

    def __init__(self) -> None:
        pass

    def add_argument(self, *_: Any, **__: Any) -> Any:
        """Do nothing."""

    def add_argument_group(self, *_: Any, **__: Any) -> Any:
        """Do nothing, with the group's options neither."""
        return self


class _Verb(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Keeps what follows the verb for the verb's own parser, see `parse`."""

    def mention(self, name: str, text: str) -> _PassedOver:
        """Make a verb known to help and to complaints, without its parser."""
        self._choices_actions.append(self._ChoicesPseudoAction(name, (), text))
        self.choices[name] = passed_over = _PassedOver()
        return passed_over

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        namespace.verb, *namespace.rest = values


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line. Raises `Usage`; `SystemExit` after `--help` and `--version`."""
    parser = build("")
    before = parser.parse_args(arguments, argparse.Namespace(**_DEFAULTS))
    verb, rest = before.verb, before.rest
    settings = {**vars(before), "verbose": 0}
    del settings["verb"], settings["rest"]
    # Intermixed, since a plain parse takes no DIR after an option: `commit web -m text DIR`.
    options = verbs(build(verb))[verb].parse_intermixed_args(
        _without_marker(rest), argparse.Namespace(**settings)
    )
    options.verbose += before.verbose
    options.verb = verb
    if options.quiet and options.verbose:
        parser.error("-q and -v contradict each other")
    return options


def _without_marker(arguments: list[str]) -> list[str]:
    """Take `--` out, and let what follows it be names, which a mixed parse can't tell by itself.

    Only directories and paths may begin with a dash, and `./-x` is the same as `-x`.
    """
    if "--" not in arguments:
        return arguments
    place = arguments.index("--")
    names = (f"./{name}" if name.startswith("-") else name for name in arguments[place + 1 :])
    return [*arguments[:place], *names]


def verbs(parser: _Parser) -> dict[str, _Parser]:
    """The parser of each verb."""
    action = next(item for item in parser._actions if isinstance(item, _Verb))
    return dict(action.choices)


def _common() -> _Parser:
    """The options every verb takes, before the verb or behind it.

    Their defaults are set by `parse`: a default here would undo what stands before the verb.
    """
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("options of every verb")
    group.add_argument(
        "--store",
        metavar="STORE",
        help="the store's directory; else $IMGSTORE_STORE, /var/lib/imgstore for root, "
        "$XDG_DATA_HOME/imgstore for others",
    )
    group.add_argument("--json", action="store_true", help="one JSON document on stdout")
    group.add_argument("-q", "--quiet", action="store_true", help="only results and errors")
    group.add_argument(
        "-v", "--verbose", action="count", help="every warning; twice: a traceback with errors"
    )
    return parser


def build(only: str | None = None) -> _Parser:
    """The parser of the whole command line; if `only` one verb is meant, the others do nothing."""
    common = _common()
    parser = _Parser(
        prog="imgstore",
        parents=[common],
        usage="imgstore [--store STORE] [--json] [-q | -v] VERB ...",
        description="Keeps operating-system images as versions and distributes what changed.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"imgstore {__version__}")
    group: Any = parser.add_subparsers(
        action=_Verb, dest="verb", required=True, metavar="VERB", title="verbs"
    )

    def verb(name: str, text: str, *examples: str, more: str = "", usage: str = "") -> _Parser:
        if only not in (None, name):
            passed_over: _Parser = group.mention(name, text)
            return passed_over
        shown = "examples:\n" + "".join(f"  imgstore {example}\n" for example in examples)
        about = f"{text[0].upper()}{text[1:]}." + (f"\n\n{more}" if more else "")
        made: _Parser = group.add_parser(
            name,
            prog=f"imgstore {name}",
            parents=[common],
            help=text,
            usage=usage or None,
            description=about,
            epilog=shown,
        )
        return made

    add_verbs(verb)
    return parser

"""Which paths to leave alone: exclude and include rules, with rsync's rules for patterns.

A rule is a pattern, or one with `- ` (exclude, the same) or `+ ` (include) in front; `!` forgets
the rules before it. The first rule whose pattern matches a path decides; what none matches is
kept. Below an excluded directory nothing is looked at, so no rule can bring it back. What the
patterns mean is in `docs/cli.md`; the tests ask rsync itself.

Promises: rules that rsync would heed give what rsync gives; a pattern that can't match any path is
refused, since it does not protect what its author believes. Patterns and paths are bytes.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final, NamedTuple

from chunkstore import fsio
from chunkstore.errors import LocalError, Usage, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.names import STATE_DIR, is_below, printable

_OWN_RULES: Final = STATE_DIR + b"/exclude"
_MAX_FILE: Final = 1 << 20


def own_rules(tree: Directory) -> list[bytes]:
    """The rules in force in the tree's own `.imgstore/exclude`, none without that file.

    Raises `LocalError` when there is one that can't be read: to go on would touch what its author
    wants left alone.
    """
    place = os.fsdecode(os.path.join(tree.path, _OWN_RULES))
    try:
        with (
            local_errors(f"can't read {place}"),
            fsio.opened(tree, _OWN_RULES, os.O_RDONLY | os.O_NONBLOCK) as descriptor,
        ):
            data = fsio.read_at(descriptor, 0, _MAX_FILE + 1)
    except LocalError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise
    if len(data) > _MAX_FILE:
        raise LocalError(f"{place} is longer than {_MAX_FILE} bytes: write fewer, wider patterns")
    return in_force(rules_in(data))


def rules_in(data: bytes) -> list[bytes]:
    """The rules of a file: one a line; empty lines and those that begin with `#` or `;` are not."""
    return [line for line in data.splitlines() if line and line[:1] not in (b"#", b";")]


def in_force(rules: Iterable[bytes]) -> list[bytes]:
    """What is left of rules after each `!` has forgotten those before it."""
    kept: list[bytes] = []
    for rule in rules:
        if rule == b"!":
            kept.clear()
        elif rule:
            kept.append(rule)
    return kept


def only(path: bytes) -> bytes:
    """The pattern that matches this one path (not empty) of a tree and no other."""
    if _WILD.search(path) is not None:
        path = re.sub(rb"[*?\[\\]", rb"\\\g<0>", path)
    return b"/" + path


class Patterns:
    """A compiled list of rules. Raises `Usage` for a rule that can't mean anything.

    `lines` are the rules in force: the same lines leave out the same paths. `covers` remembers
    where it was, so a list is not to be shared between threads.
    """

    def __init__(self, rules: Iterable[bytes] = ()) -> None:
        self.lines: tuple[bytes, ...] = tuple(in_force(rules))
        compiled = [_compile_rule(line) for line in self.lines]
        self._file = _FirstMatch((rule.is_include, rule.for_file) for rule in compiled)
        self._directory = _FirstMatch((rule.is_include, rule.for_directory) for rule in compiled)
        self._above: list[tuple[bytes, bool]] = [(b"", False)]

    def __bool__(self) -> bool:
        return bool(self.lines)

    def match(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether the path itself is excluded; the caller does not descend into what is.

        The top of the tree never is.
        """
        rules = self._directory if is_directory else self._file
        return bool(path) and rules.excludes(path)

    def covers(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether the path or a directory above it is excluded; quick for paths in path order."""
        return self._prunes(path.rpartition(b"/")[0]) or self.match(path, is_directory=is_directory)

    def _prunes(self, directory: bytes) -> bool:
        """Whether a directory or one above it is excluded.

        Kept from call to call: the directories on the way down to the last one, with the answers.
        """
        way = self._above
        while way[-1][0] != directory and not is_below(directory, way[-1][0]):
            way.pop()
        known, is_excluded = way[-1]
        while known != directory and not is_excluded:
            end = directory.find(b"/", len(known) + 1)
            known = directory if end < 0 else directory[:end]
            is_excluded = self.match(known, is_directory=True)
            way.append((known, is_excluded))
        return is_excluded


class _FirstMatch:
    """Rules as one expression: a group for each run of rules of the same kind, in their order."""

    def __init__(self, rules: Iterable[tuple[bool, bytes | None]]) -> None:
        self._is_include: list[bool] = []
        groups = []
        kept = ((is_include, part) for is_include, part in rules if part is not None)
        for is_include, run in groupby(kept, lambda rule: rule[0]):
            self._is_include.append(is_include)
            groups.append(b"(" + b"|".join(part for _, part in run) + b")")
        self._expression = re.compile(b"|".join(groups), re.DOTALL) if groups else None

    def excludes(self, path: bytes) -> bool:
        found = self._expression.fullmatch(path) if self._expression is not None else None
        return found is not None and not self._is_include[(found.lastindex or 1) - 1]


class _Rule(NamedTuple):
    """Regular expressions for the whole path of what is, and of what is not, a directory."""

    is_include: bool
    for_directory: bytes
    for_file: bytes | None


def _compile_rule(line: bytes) -> _Rule:
    pattern = line[2:] if line[:2] in (b"+ ", b"- ") else line
    # One slash at the end says "directories only", also behind a backslash.
    body = pattern[:-1] if len(pattern) > 1 and pattern.endswith(b"/") else pattern
    is_anchored = body.startswith(b"/")
    try:
        tokens = _tokens(body[is_anchored:])
        _check(tokens)
        if not is_anchored and b"**" not in body:
            _check_slashes(tokens, body)
    except ValueError as error:
        raise Usage(f"pattern '{printable(line)}' can match nothing: {error}") from None
    if not is_anchored and len(tokens) > 1 and tokens[0].regex == _ANY and tokens[1].text == b"/":
        # The path counts as beginning with a slash here: `**/log` matches `log` as well.
        del tokens[:2]
    start = b"" if is_anchored else b"(?:.*/)?"
    for_file = start + _join(tokens)
    for_directory = for_file
    if body.endswith(b"***") and len(tokens) > 1 and tokens[-2].text == b"/":
        # `dir/***`: the directory itself, too.
        for_directory = start + _join(tokens[:-2]) + b"(?:/.*)?"
    is_include = line.startswith(b"+ ")
    return _Rule(is_include, for_directory, None if pattern != body else for_file)


class _Token(NamedTuple):
    """A part of a pattern: the regular expression for it, and if it is literal, its text."""

    regex: bytes
    text: bytes = b"*"


_NAME: Final = b"[^/]*?"
_ANY: Final = b".*?"
_WILD: Final = re.compile(rb"[*?\[]")
# What follows a `[` up to its `]`: a class such as `[:alpha:]`, a byte or a range of bytes; the
# first may be a `]`. Atomic, since a set that is not closed in this reading is not read in another.
_ITEM: Final = rb"(?>\[:[^\]]*:\]|(?:\\.|%b)(?:-(?:\\.|[^\]\\]))?)"
_SET: Final = rb"\[[!^]?+%b%b*+\]" % (_ITEM % rb"[^\\]", _ITEM % rb"[^\\\]]")
_TOKEN: Final = re.compile(rb"\*+|\\.|%b|." % _SET, re.DOTALL)
_MEMBER: Final = re.compile(rb"\[:([^\]]*):\]|\\?(.)(?:-\\?(.))?", re.DOTALL)
_CLASSES: Final = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb" \t-\r",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


def _tokens(body: bytes) -> list[_Token]:
    if _WILD.search(body) is None:
        # Then a backslash is one, as rsync has it.
        return [_Token(re.escape(body[i : i + 1]), body[i : i + 1]) for i in range(len(body))]
    return list(map(_token, _TOKEN.findall(body)))


def _token(part: bytes) -> _Token:
    if part.startswith(b"*"):
        return _Token(_NAME if part == b"*" else _ANY)
    if part == b"?":
        return _Token(b"[^/]")
    if part.startswith(b"["):
        return _Token(_set(part))
    if part == b"\\":
        raise ValueError("a backslash at the end")
    return _Token(re.escape(part[-1:]), part[-1:])


def _set(part: bytes) -> bytes:
    """A set in brackets as a regular expression; it never matches a slash."""
    if len(part) == 1:
        raise ValueError("a '[' that is not closed; for the character itself write '\\['")
    is_negated = part[1:2] in (b"!", b"^")
    members = b"".join(map(_member, _MEMBER.finditer(part[1 + is_negated : -1])))
    return b"(?!/)[" + (b"^" if is_negated else b"") + members + b"]"


def _member(found: re.Match[bytes]) -> bytes:
    name, low, high = found.groups()
    if name is not None:
        if name not in _CLASSES:
            raise ValueError(f"there is no class '{printable(name)}' of characters")
        return _CLASSES[name]
    # By number, since `&&`, `--` and the like mean something to `re`. A range that runs backwards
    # holds its first byte, as in rsync.
    return b"\\x%02x-\\x%02x" % (low[0], max(low, high or low)[0])


def _check(tokens: list[_Token]) -> None:
    """Raise `ValueError` when there is a name in it that no path has."""
    for name in b"".join(token.text for token in tokens).split(b"/"):
        if name in (b"", b".", b"..") or b"\0" in name:
            raise ValueError(f"no path has the name '{printable(name) if name else ''}' in it")


def _check_slashes(tokens: list[_Token], body: bytes) -> None:
    """Raise `ValueError` when a slash stands in a set.

    A pattern that is matched at the end of the path is compared with as many names as it has, by
    its slashes, and a set never matches the slash that is missing then.
    """
    if body.count(b"/") != sum(token.text == b"/" for token in tokens):
        raise ValueError("a slash in '[...]'")


def _join(tokens: list[_Token]) -> bytes:
    """The tokens as one expression.

    What lies between two stars is taken where it is first found, for good: another place could
    not help, as the second star crosses all the first one does. Without that, a few stars and a
    long name take time without end.
    """
    joined = following = b""
    for star, text in reversed(list(_split(tokens))):
        is_settled = star and following in (_ANY, star)
        joined = (b"(?>" + star + text + b")" if is_settled else star + text) + joined
        following = star
    return joined


def _split(tokens: list[_Token]) -> Iterator[tuple[bytes, bytes]]:
    """Each star with what follows it up to the next; first what comes before all."""
    star, text = b"", b""
    for token in tokens:
        if token.regex in (_NAME, _ANY):
            yield star, text
            star, text = token.regex, b""
        else:
            text += token.regex
    yield star, text

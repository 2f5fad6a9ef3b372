from __future__ import annotations

import pytest

from chunkstore.errors import Usage
from chunkstore.worktree.patterns import Patterns

CASES = [
    # pattern, path, is_directory, excluded
    (b"*.o", b"main.o", False, True),
    (b"*.o", b"deep/below/main.o", False, True),
    (b"*.o", b"main.os", False, False),
    (b"*.o", b"main.o/inside", False, False),
    (b"core", b"usr/core", True, True),
    (b"core", b"usr/score", False, False),
    (b"/core", b"core", False, True),
    (b"/core", b"usr/core", False, False),
    (b"var/cache", b"var/cache", True, True),
    (b"var/cache", b"usr/var/cache", True, False),
    (b"/var/cache/*", b"var/cache/apt", True, True),
    (b"/var/cache/*", b"var/cache", True, False),
    (b"/var/cache/*", b"var/cache/apt/deep", False, False),
    (b"/var/cache/**", b"var/cache/apt/deep", False, True),
    (b"/var/cache/**", b"var/cache", True, False),
    (b"cache/", b"var/cache", True, True),
    (b"cache/", b"var/cache", False, False),
    (b"/cache/", b"cache", True, True),
    (b"/cache/", b"var/cache", True, False),
    (b"a/b/", b"a/b", True, True),
    (b"a/b/", b"a/b", False, False),
    (b"**/log", b"log", False, True),
    (b"**/log", b"a/b/log", False, True),
    (b"a/**/z", b"a/z", False, True),
    (b"a/**/z", b"a/b/c/z", False, True),
    (b"a/**/z", b"ab/z", False, False),
    (b"a**z", b"a/b/z", False, True),
    (b"?", b"x", False, True),
    (b"?", b"xy", False, False),
    (b"a?b", b"a/b", False, False),
    (b"*", b"a/b", False, True),
    (b"[abc]", b"b", False, True),
    (b"[abc]", b"d", False, False),
    (b"[a-c]x", b"bx", False, True),
    (b"[!a-c]x", b"bx", False, False),
    (b"[!a-c]x", b"dx", False, True),
    (b"[^a-c]x", b"bx", False, False),
    (b"[^a-c]x", b"dx", False, True),
    (b"[]]", b"]", False, True),
    (b"[]a]", b"a", False, True),
    (b"[!]a]", b"]", False, False),
    (b"[!]a]", b"b", False, True),
    (b"[a-]", b"-", False, True),
    (b"[[]", b"[", False, True),
    (b"[+--]", b",", False, True),
    (b"[a&&b]", b"&", False, True),
    (b"[a||b]", b"|", False, True),
    (b"[a~~b]", b"~", False, True),
    (b"[\\]", b"\\", False, True),
    (b"a[!x]b", b"a/b", False, False),
    (b"a[^x]b", b"a/b", False, False),
    (b"a[+-9]b", b"a/b", False, False),
    (b"/a[+-9]b", b"a/b", False, False),
    (b"/a[+-9]b", b"a5b", False, True),
    (b"[abc", b"[abc", False, True),
    (b"\\*", b"*", False, True),
    (b"\\*", b"x", False, False),
    (b"\\#x", b"#x", False, True),
    (b"a.b", b"axb", False, False),
    (b"a+b", b"a+b", False, True),
    (b"a$", b"a$", False, True),
    (b"\xff*", b"\xff\xfe", False, True),
    (b"a*", b"a\nb", False, True),
    (b"end\\", b"end\\", False, True),
]


@pytest.mark.parametrize(("pattern", "path", "is_directory", "excluded"), CASES)
def test_what_a_pattern_matches(
    pattern: bytes, path: bytes, is_directory: bool, excluded: bool
) -> None:
    assert Patterns([pattern]).match(path, is_directory=is_directory) is excluded


def test_empty_lines_and_comments_are_left_out() -> None:
    patterns = Patterns([b"", b"# *.o", b"*.a"])
    assert patterns.lines == (b"*.a",)
    assert not patterns.match(b"x.o", is_directory=False)
    assert not Patterns([b"", b"#"])
    assert not Patterns().match(b"x", is_directory=False)


def test_any_of_several_patterns_excludes() -> None:
    patterns = Patterns([b"a", b"/b/", b"c/d"])
    found = [
        (path, is_directory)
        for path in (b"a", b"x/a", b"b", b"x/b", b"c/d", b"c")
        for is_directory in (False, True)
        if patterns.match(path, is_directory=is_directory)
    ]
    assert found == [
        *((b"a", False), (b"a", True), (b"x/a", False), (b"x/a", True)),
        *((b"b", True), (b"c/d", False), (b"c/d", True)),
    ]


@pytest.mark.parametrize("pattern", [b"/", b"//", b"[z-a]"])
def test_a_pattern_that_makes_no_sense_is_refused(pattern: bytes) -> None:
    with pytest.raises(Usage):
        Patterns([pattern])

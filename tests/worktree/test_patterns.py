"""Exclude and include rules, with rsync as the oracle."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import trees

from chunkstore.errors import LocalError, Usage
from chunkstore.fsio import Directory
from chunkstore.worktree.patterns import Patterns, in_force, only, own_rules, rules_in

Tree = Mapping[bytes, bool]
"""Paths, and whether each is a directory."""

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
    (b"var/cache", b"usr/var/cache", True, True),
    (b"var/cache", b"usr/xvar/cache", True, False),
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
    (b"a/**/z", b"a/z", False, False),
    (b"a/**/z", b"x/a/b/z", False, True),
    (b"/a/**/z", b"x/a/b/z", False, False),
    (b"a/**/z", b"a/b/c/z", False, True),
    (b"a/**/z", b"ab/z", False, False),
    (b"a**z", b"a/b/z", False, True),
    (b"/**a*b", b"a/ab", False, True),
    (b"/*a**b", b"xa/ya/b", False, True),
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
    (b"[\\\\]", b"\\", False, True),
    (b"[\\]]", b"]", False, True),
    (b"a[!x]b", b"a/b", False, False),
    (b"a[^x]b", b"a/b", False, False),
    (b"a[+-9]b", b"a/b", False, False),
    (b"/a[+-9]b", b"a/b", False, False),
    (b"/a[+-9]b", b"a5b", False, True),
    (b"\\*", b"*", False, True),
    (b"\\*", b"x", False, False),
    (b"#x", b"#x", False, True),
    (b";x", b";x", False, True),
    (b"\\#x", b"#x", False, False),
    (b"\\#x", b"\\#x", False, True),
    (b"\\#x*", b"#x", False, True),
    (b"a.b", b"axb", False, False),
    (b"a+b", b"a+b", False, True),
    (b"a$", b"a$", False, True),
    (b"\xff*", b"\xff\xfe", False, True),
    (b"a*", b"a\nb", False, True),
    (b"end\\", b"end\\", False, True),
    (b"foo/*/bar", b"x/foo/y/bar", True, True),
    (b"foo/*/bar", b"foo/bar", True, False),
    (b"**log", b"x/catalog", False, True),
    (b"/**/log", b"log", False, False),
    (b"x/**", b"a/x/y", False, True),
    (b"dir/***", b"dir", True, True),
    (b"dir/***", b"dir", False, False),
    (b"dir/***", b"a/dir/b/c", False, True),
    (b"/dir/***", b"a/dir", True, False),
    (b"/***", b"x", False, True),
    (b"dir***", b"dirty", False, True),
    (b"di\\r/***", b"dir", True, True),
    (b"[z-a]", b"z", False, True),
    (b"[z-a]", b"m", False, False),
    (b"[!z-a]", b"m", False, True),
    (b"[a-c-e]", b"d", False, False),
    (b"[a-c-e]", b"-", False, True),
    (b"[[:digit:]-z]", b"q", False, False),
    (b"[[:-z]", b"q", False, True),
    (b"[[:upper:][:digit:]_]", b"X", False, True),
    (b"[^[:alnum:]]", b"x", False, False),
    (b"[[:space:]]", b"\v", False, True),
    (b"[[:punct:]]", b"\\", False, True),
    (b"[[:alpha:]]", b"\xe4", False, False),
    (b"/a[/x]b", b"axb", False, True),
    (b"- x", b"x", False, True),
    (b"- - x", b"- x", False, True),
    (b"-x", b"-x", False, True),
    (b"+x", b"+x", False, True),
    (b"!x", b"!x", False, True),
    (b" x", b"x", False, False),
    (b"x ", b"x ", False, True),
    (b"-- x", b"x", False, False),
    (b"+ x", b"x", False, False),
]


NAMES = (b"a", b"b", b"ab", b"aab", b"c-", b"]", b"[a", b"\\", b"*", b"!", b"\xff", b" B", b"7")


def make(root: Path, tree: Tree) -> None:
    for path, is_directory in sorted(tree.items()):
        place = os.fsencode(root) + b"/" + path
        os.makedirs(place if is_directory else os.path.dirname(place), exist_ok=True)
        if not is_directory:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY))


def rsync_keeps(root: Path, *options: bytes) -> set[bytes] | None:
    """What rsync would copy of a tree; None when it refuses the options."""
    ended = subprocess.run(
        [b"rsync", b"-an8", b"--out-format=%n", *options, os.fsencode(root) + b"/", b"/no-such"],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if ended.returncode == 1:
        return None
    assert ended.returncode == 0, ended.stderr
    names = (
        re.sub(rb"\\#(\d{3})", lambda found: bytes([int(found[1], 8)]), line)
        for line in ended.stdout.splitlines()
    )
    return {name.rstrip(b"/") for name in names} - {b"", b".", b"created directory /no-such"}


def keeps(rules: Iterable[bytes], tree: Tree) -> set[bytes]:
    patterns = Patterns(rules)
    return {path for path, is_dir in tree.items() if not patterns.covers(path, is_directory=is_dir)}


@pytest.mark.parametrize(("pattern", "path", "is_directory", "excluded"), CASES)
def test_what_a_pattern_matches(
    pattern: bytes, path: bytes, is_directory: bool, excluded: bool
) -> None:
    assert Patterns([pattern]).match(path, is_directory=is_directory) is excluded


@trees.needs("rsync")
@pytest.mark.parametrize(("pattern", "path", "is_directory", "excluded"), CASES)
def test_what_rsync_says_to_the_same(
    quick: Path, pattern: bytes, path: bytes, is_directory: bool, excluded: bool
) -> None:
    make(quick, {path: is_directory})
    above = path.split(b"/")[:-1]
    is_pruned = any(
        Patterns([pattern]).match(b"/".join(above[: n + 1]), is_directory=True)
        for n in range(len(above))
    )
    kept = rsync_keeps(quick, b"--exclude=" + pattern)
    assert kept is not None
    assert (path not in kept) is (excluded or is_pruned)


NEVER = [
    *(b"/", b"//", b"x//", b"//x", b"a//b", b"./x", b"x/..", b"a*/./b", b"- ", b"+ ", b"x\0y"),
    *(b"[abc", b"a*\\", b"[!]", b"[]", b"[a-\\]", b"[[:foo:]]", b"[[:alpha:]", b"a[/]b", b"x*\\/"),
]


@pytest.mark.parametrize("pattern", NEVER)
def test_a_pattern_that_can_match_nothing_is_refused(pattern: bytes) -> None:
    with pytest.raises(Usage) as caught:
        Patterns([b"x", pattern])
    assert str(caught.value).isprintable()


def test_the_first_rule_that_matches_decides() -> None:
    tree = {b"a": True, b"a/x.o": False, b"a/y.o": False, b"b": True, b"b/x.o": False, b"c": False}
    assert keeps([b"+ /a/x.o", b"*.o", b"+ y.o"], tree) == {b"a", b"a/x.o", b"b", b"c"}
    assert keeps([b"+ */", b"+ y.o", b"*"], tree) == {b"a", b"a/y.o", b"b"}
    assert keeps([b"+ y.o", b"*"], tree) == set()  # nobody looks into an excluded directory
    assert keeps([b"*", b"!", b"- c", b"+ c"], tree) == set(tree) - {b"c"}
    assert keeps([b"+ *", b"a"], tree) == set(tree)
    assert keeps([b"a/", b"+ a", b"a"], {b"a": False, b"x": True, b"x/a": True}) == {b"a", b"x"}


def test_the_top_is_never_excluded() -> None:
    for rule in (b"*", b"**", b"/*", b"***", b"*/"):
        patterns = Patterns([rule])
        assert not patterns.match(b"", is_directory=True)
        assert not patterns.covers(b"", is_directory=True)


def test_lines_are_the_rules_in_force() -> None:
    assert Patterns([b"x", b"!", b"", b"# a", b"- *.a"]).lines == (b"# a", b"- *.a")
    assert in_force([b"x", b"!", b"", b"y"]) == [b"y"]
    assert not Patterns([b"", b"x", b"!"])
    assert not Patterns().match(b"x", is_directory=False)
    assert Patterns([b"x"])


def test_the_rules_of_a_file() -> None:
    data = b"# no\n; no\n\n #x\r\n- *.o\n+ y\n!\nlast"
    assert rules_in(data) == [b" #x", b"- *.o", b"+ y", b"!", b"last"]


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


def test_stars_and_long_names_take_no_time_without_end() -> None:
    # Without settled stars this needs more steps than the time limit of a test allows.
    name = b"a" * 250
    assert not Patterns([b"*a" * 12 + b"*b"]).match(name, is_directory=False)
    assert not Patterns([b"**a" * 12 + b"**b"]).match(b"/".join([name] * 15), is_directory=False)
    assert Patterns([b"*a" * 12 + b"*b"]).match(name + b"b", is_directory=False)


# The tree's own file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / ".imgstore").mkdir()
    return tmp_path


def test_own_rules(tree: Path) -> None:
    file = tree / ".imgstore/exclude"
    with Directory(str(tree)) as directory:
        assert own_rules(directory) == []
        file.write_bytes(b"gone\n!\n# no\n/srv/\n+ x\n")
        assert own_rules(directory) == [b"/srv/", b"+ x"]
    with Directory(str(tree / ".imgstore")) as bare:
        assert own_rules(bare) == []


def test_own_rules_that_cant_be_read_are_an_error(tree: Path) -> None:
    file = tree / ".imgstore/exclude"
    (tree / "secret").write_bytes(b"x")
    with Directory(str(tree)) as directory:
        file.symlink_to(tree / "secret")
        with pytest.raises(LocalError, match=re.escape(str(file))):
            own_rules(directory)
        file.unlink()
        file.write_bytes(b"x\n" * (1 << 19) + b"y")
        with pytest.raises(LocalError, match="longer"):
            own_rules(directory)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(LocalError):
            own_rules(directory)


# Whether a path is covered


class Counting(Patterns):
    asked = 0

    def match(self, path: bytes, *, is_directory: bool) -> bool:
        self.asked += 1
        return super().match(path, is_directory=is_directory)


def test_covering_remembers_the_way_down() -> None:
    deep = [b"/".join([b"d"] * depth) for depth in range(1, 1500)]
    patterns = Counting([b"never"])
    for path in deep:
        assert not patterns.covers(path, is_directory=True)
        assert not patterns.covers(path + b"/file", is_directory=False)
    assert patterns.asked <= 3 * len(deep)


def test_below_an_excluded_directory_nothing_is_asked() -> None:
    patterns = Counting([b"/a/b/", b"+ x"])
    assert patterns.covers(b"a/b/c/d/x", is_directory=False)
    asked = patterns.asked
    assert patterns.covers(b"a/b/e/f/x", is_directory=False)
    assert patterns.asked == asked
    assert not patterns.covers(b"a/bc/x", is_directory=False)
    assert not patterns.covers(b"a", is_directory=True)
    assert patterns.covers(b"a/b", is_directory=True)
    assert not patterns.covers(b"a/b", is_directory=False)


# Any rules, and rsync


def dense() -> Tree:
    """Every name in every other, and some below those."""
    tree: dict[bytes, bool] = dict.fromkeys(NAMES, True)
    tree |= dict.fromkeys((b"x", b"ba", b"a]", b"aa"), False)
    for outer in NAMES:
        for number, name in enumerate(NAMES):
            tree[outer + b"/" + name] = number % 4 == 0
            if number % 4 == 0:
                for inner in NAMES:
                    tree[outer + b"/" + name + b"/" + inner] = inner == b"b"
    return tree


DENSE = dense()

PIECES = st.sampled_from(
    [
        *(b"a", b"b", b"c-", b"7", b" ", b"B", b"\xff", b"-", b"!", b"^", b".", b"\\", b"/", b"/"),
        *(b"*", b"**", b"***", b"?", b"[ab]", b"[!a]", b"[[:alpha:]]", b"[^[:digit:]]", b"a-c"),
        *(b"[", b"]", b"[:", b":]"),
    ]
)


@st.composite
def near_misses(draw: st.DrawFn) -> bytes:
    """The end of a path of the tree, with some of its bytes changed."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
    pieces = [bytes([byte]) for byte in b"/".join(names)]
    for place, byte in enumerate(pieces):
        others = [b"?", b"*", b"**", b"\\" + byte, b"[" + byte + b"]"]
        pieces[place] = draw(st.sampled_from([byte, byte, byte, *others]))
    front = draw(st.sampled_from([b"", b"/"]))
    end = draw(st.sampled_from([b"", b"", b"/", b"/***"]))
    return front + b"".join(pieces) + end


PATTERNS = st.one_of(near_misses(), st.lists(PIECES, min_size=1, max_size=6).map(b"".join))
RULES = st.lists(
    st.one_of(
        st.builds(bytes.__add__, st.sampled_from([b"", b"", b"- ", b"+ "]), PATTERNS), st.just(b"!")
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def dense_tree() -> Iterator[Path]:
    memory = Path("/dev/shm")
    folder = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="imgstore-test-", dir=folder) as place:
        make(Path(place), DENSE)
        yield Path(place)


def compare(place: Path, rules: list[bytes]) -> None:
    theirs = rsync_keeps(place, *(b"--exclude=" + rule for rule in rules))
    try:
        ours = keeps(rules, DENSE)
    except Usage:
        # What is refused must be what rsync can't use either.
        for rule in in_force(rules):
            try:
                Patterns([rule])
            except Usage:
                bare = rule.removeprefix(b"+ ").removeprefix(b"- ")
                assert rsync_keeps(place, b"--exclude=- " + bare) in (None, set(DENSE)), rule
    else:
        assert ours == theirs


@trees.needs("rsync")
def test_the_dense_tree_is_whole(dense_tree: Path) -> None:
    assert rsync_keeps(dense_tree) == set(DENSE)


@trees.needs("rsync")
@settings(max_examples=150, deadline=None)
@given(RULES)
def test_any_rules_leave_out_what_rsync_leaves_out(dense_tree: Path, rules: list[bytes]) -> None:
    compare(dense_tree, rules)


@trees.needs("rsync")
@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(max_examples=20_000, deadline=None)
@given(RULES)
def test_any_rules_many_times(dense_tree: Path, rules: list[bytes]) -> None:
    compare(dense_tree, rules)


ODD_LINES = (b"", b"#a", b";a", b" a", b"a ", b"!", b"a\r", b"\\a")
LINES = st.one_of(PATTERNS, st.sampled_from(ODD_LINES))


@trees.needs("rsync")
@settings(max_examples=40, deadline=None)
@given(st.lists(LINES, max_size=5), RULES)
def test_any_file_of_rules(dense_tree: Path, lines: list[bytes], rules: list[bytes]) -> None:
    data = b"\n".join(lines)
    given_ = [*rules, *rules_in(data)]
    try:
        ours = keeps(given_, DENSE)
    except Usage:
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        theirs = rsync_keeps(
            dense_tree,
            *(b"--exclude=" + rule for rule in rules),
            b"--exclude-from=" + os.fsencode(file.name),
        )
    assert ours == theirs


@trees.needs("rsync")
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(DENSE)))
def test_only_one_path(dense_tree: Path, path: bytes) -> None:
    assert keeps([only(path)], DENSE) == rsync_keeps(dense_tree, b"--exclude=" + only(path))
    is_directory = DENSE[path]
    patterns = Patterns([only(path)])
    assert patterns.match(path, is_directory=is_directory)
    assert not any(patterns.match(other, is_directory=True) for other in DENSE if other != path)


@given(st.randoms(use_true_random=False), RULES)
def test_covering_does_not_depend_on_the_order(random: object, rules: list[bytes]) -> None:
    try:
        patterns = Patterns(rules)
    except Usage:
        return
    shuffle: Callable[[list[bytes]], None] = random.shuffle  # type: ignore[attr-defined]
    paths = sorted(DENSE)[:120]
    shuffle(paths)
    expected = keeps(rules, DENSE)
    for path in paths:
        is_covered = patterns.covers(path, is_directory=DENSE[path])
        assert is_covered is (path not in expected)

"""Names, SPECs, paths, and how paths are shown and ordered."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, Usage
from chunkstore.objects import names
from chunkstore.objects.names import Spec

odd_bytes = st.sampled_from(
    [
        b"a",
        b"B",
        b"-",
        b".",
        b" ",
        b"\\",
        b"\\x",
        b"\\n",
        b"n",
        b"x41",
        b"\n",
        b"\t",
        b"\r",
        b"\x01",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3",
        b"\xa9",
        "é".encode(),
        "e\u0301".encode(),
        b"\x1b[2J",
        "\u00a0".encode(),
        "\u2028".encode(),
        "\u202e".encode(),
        "\U0001f600".encode(),
        b"\xed\xb2\x80",
        "\x85".encode(),
    ]
)
components = st.one_of(
    st.lists(odd_bytes, min_size=1, max_size=6).map(b"".join),
    st.binary(min_size=1, max_size=12),
)
paths = (
    st.lists(components, min_size=1, max_size=4)
    .map(b"/".join)
    .filter(lambda path: not any(part in (b"", b".", b"..") for part in path.split(b"/")))
)


def unescape(text: str) -> bytes:
    """What `printable` promises can be undone."""
    short = {"\\": b"\\", "n": b"\n", "t": b"\t", "r": b"\r"}

    def one(match: re.Match[str]) -> str:
        sign = match[1]
        data = bytes.fromhex(sign[1:]) if sign[0] == "x" else short[sign]
        return data.decode("latin-1")

    # Escapes stand for bytes, everything else for its UTF-8.
    parts = re.split(r"(\\(?:x[0-9a-f]{2}|[\\ntr]))", text)
    return b"".join(
        re.sub(r"\\(.+)", one, part).encode("latin-1") if index % 2 else part.encode()
        for index, part in enumerate(parts)
    )


@given(paths)
@example(b"\\x41")
@example(b"A\\")
def test_printable_is_one_line_and_can_be_undone(path):
    text = names.printable(path)
    assert text.isprintable()
    assert not set(text) & set("\n\t\r\x1b")
    assert len(text.splitlines()) == 1
    assert unescape(text) == path


@given(paths, paths)
def test_printable_is_injective(one, other):
    assert (names.printable(one) == names.printable(other)) == (one == other)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"", "."),
        (b"etc/hosts", "etc/hosts"),
        ("gr\u00fcn".encode(), "gr\u00fcn"),
        (b"a b", "a b"),
        (b"a\\b", "a\\\\b"),
        (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
        (b"\xe9", "\\xe9"),
        (b"\x1b[31m", "\\x1b[31m"),
        ("\u202egnp".encode(), "\\xe2\\x80\\xaegnp"),
    ],
)
def test_printable_cases(path, text):
    assert names.printable(path) == text


@given(st.lists(paths, max_size=8))
def test_sort_key_orders_by_component(several):
    by_key = sorted(several, key=names.sort_key)
    assert by_key == sorted(several, key=lambda path: path.split(b"/"))


@given(paths, paths)
def test_what_is_below_follows_its_directory_and_precedes_the_rest(directory, other):
    inside = directory + b"/" + other
    assert names.is_below(inside, directory)
    assert names.sort_key(directory) < names.sort_key(inside)
    if names.sort_key(directory) < names.sort_key(other) < names.sort_key(inside):
        assert names.is_below(other, directory)


def test_is_below():
    assert names.is_below(b"a", b"")
    assert names.is_below(b"a/b", b"a")
    assert not names.is_below(b"a", b"a")
    assert not names.is_below(b"ab", b"a")
    assert not names.is_below(b"a-b", b"a")


longest = b"/".join([b"d" * 255] * 16)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"a",
        b"a/b",
        b"...",
        b".a",
        b"..a/b..",
        b"a/.imgstore",
        b".imgstores",
        b".imgstor",
        b"x" * 255,
        longest,
        b"\xff\x01\n",
        b"-",
        b"~",
        b"a\\b",
    ],
)
def test_paths_that_pass(path):
    names.check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        b".",
        b"..",
        b"/",
        b"/a",
        b"a/",
        b"a//b",
        b"a/..",
        b"../a",
        b"a/../b",
        b"./a",
        b"a/./b",
        b"x" * 256,
        b"a/" + b"x" * 256,
        longest + b"d",
        longest[:-1] + b"/d",
        b"a\0",
        b"\0",
        b"a/\0/b",
        b".imgstore",
        b".imgstore/x",
        b".imgstore/x/y",
    ],
)
def test_paths_that_are_refused(path):
    with pytest.raises(Corrupt):
        names.check_path(path)


@given(st.one_of(paths, st.binary(max_size=30), st.lists(odd_bytes).map(b"/".join)))
def test_a_path_that_passes_stays_below(path):
    try:
        names.check_path(path)
    except Corrupt:
        return
    parts = path.split(b"/") if path else []
    assert not {b"", b".", b".."} & set(parts)
    assert parts[:1] != [b".imgstore"]
    assert b"\0" not in path


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("web", Spec("web", "latest", 0)),
        ("web:base", Spec("web", "base", 0)),
        ("web:2026-11", Spec("web", "2026-11", 0)),
        ("web:3fa9c1", Spec("web", "3fa9c1", 0)),
        ("web~1", Spec("web", "latest", 1)),
        ("web~0", Spec("web", "latest", 0)),
        ("web:base~2", Spec("web", "base", 2)),
        ("W.e_b-1:v1.0~999999", Spec("W.e_b-1", "v1.0", 999999)),
        ("x" * 128, Spec("x" * 128, "latest", 0)),
    ],
)
def test_specs(text, spec):
    assert names.parse_spec(text) == spec
    assert names.parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "web:",
        ":base",
        "~1",
        "web~",
        "web~x",
        "web~-1",
        "web~1~1",
        "web~1:base",
        "web:a:b",
        "web~1234567",
        "web ",
        " web",
        "web\n",
        "web:base\n",
        "../etc",
        "a/b",
        ".web",
        "-web",
        "_web",
        "web+rack7",
        "w\u00e9b",
        "web:l\u00e4test",
        "x" * 129,
        "web:" + "x" * 129,
        "web~\u0661",
        "web\0",
        "web:\udcff",
    ],
)
def test_specs_that_make_no_sense(text):
    with pytest.raises(Usage):
        names.parse_spec(text)


@given(st.text(max_size=20))
def test_any_text_is_a_spec_or_a_usage_error(text):
    try:
        spec = names.parse_spec(text)
    except Usage:
        return
    assert names.NAME.fullmatch(spec.image)
    assert names.NAME.fullmatch(spec.tag)


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("web", ["web:latest"]),
        ("web+rack7", ["web:latest", "rack7:latest"]),
        ("web:2026-11+rack7+node12~1", ["web:2026-11", "rack7:latest", "node12:latest~1"]),
        ("+".join(f"i{number}" for number in range(16)), [f"i{n}:latest" for n in range(16)]),
    ],
)
def test_layers(text, images):
    specs = names.parse_layers(text)
    assert list(map(str, specs)) == images
    assert names.parse_layers(names.layers_text(specs)) == specs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name an image"),
        ("+", "name an image"),
        ("web+", "name an image"),
        ("+web", "name an image"),
        ("web++rack7", "name an image"),
        ("web + rack7", "name an image"),
        ("web:a+", "name an image"),
        ("web:+rack7", "name a tag"),
        ("web~+rack7", "versions to go back"),
        ("web+rack7:a:b", "name a tag"),
        ("web+web", "twice"),
        ("web:a+rack7+web:b", "twice"),
        ("+".join(f"i{number}" for number in range(17)), "17 layers"),
        ("+" * 100_000, "layers"),
    ],
)
def test_layers_that_make_no_sense(text, says):
    with pytest.raises(Usage, match=says) as caught:
        names.parse_layers(text)
    assert len(str(caught.value)) < 300


@given(st.text("web:+~1", max_size=20))
def test_any_text_is_layers_or_a_usage_error(text):
    try:
        specs = names.parse_layers(text)
    except Usage:
        return
    assert specs == tuple(map(names.parse_spec, text.split("+")))
    assert names.parse_layers(names.layers_text(specs)) == specs

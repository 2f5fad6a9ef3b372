"""Entries: what passes is an equal entry, at every limit; what is refused is in `hostile.json`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt
from chunkstore.objects import entry, names, record
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    KIND_LETTERS,
    KIND_OF_FORMAT,
    SYMLINK,
    Entry,
)

numbers = st.integers(0, 2**32 - 2)
xattrs = st.dictionaries(
    st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name),
    st.binary(max_size=20),
    max_size=4,
).map(lambda found: tuple(sorted(found.items())))
common = {
    "path": st.sampled_from([b"a", b"a/b", b"\xff\n", b"x" * 255]),
    "mode": st.integers(0, 0o7777),
    "uid": numbers,
    "gid": numbers,
    "mtime": st.integers(-(2**63), 2**64 - 1),
    "xattrs": xattrs,
    "flags": st.integers(0, 2**32 - 1),
}
links = st.sampled_from([b"", b"A", b"0/1"])


def entries_of(kind, **fields):
    defaults = {name: st.just(value) for name, value in Entry._field_defaults.items()}
    return st.builds(Entry, **(defaults | common | fields | {"kind": st.just(kind)}))


lists = st.integers(0, 128).map(lambda count: bytes(40 * count))
targets = st.binary(min_size=1, max_size=100).filter(lambda target: b"\0" not in target)
devices = st.builds(DEVICE.pack, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
honest = st.one_of(
    entries_of(FILE, size=st.integers(0, 2**63 - 1), content=lists, link=links),
    entries_of(DIRECTORY),
    entries_of(SYMLINK, content=targets, link=links),
    entries_of(CHARACTER, content=devices, link=links),
    entries_of(BLOCK, content=devices, link=links),
    entries_of(FIFO, link=links),
)


@given(honest)
def test_round_trip(item):
    data = record.encode(item)
    found = entry.check(record.decode(data, "here"), "here")
    assert found == item
    assert type(found) is Entry
    assert record.encode(found) == data


largest = Entry(
    path=b"/".join([b"d" * 255] * 16),
    kind=FILE,
    mode=0o7777,
    uid=2**32 - 2,
    gid=2**32 - 2,
    mtime=2**64 - 1,
    size=2**63 - 1,
    content=bytes(40 * 128),
    depth=4,
    xattrs=tuple((b"%03d" % number + b"n" * 252, bytes(64 * 1024)) for number in range(7)),
    flags=2**32 - 1,
    link=b"/".join([b"c" * 255] * 16),
)


def test_every_limit_can_be_reached():
    assert len(largest.path) == names.MAX_PATH
    data = record.encode(largest)
    assert len(data) <= entry.MAX_ENTRY
    assert entry.check(record.decode(data, "here"), "here") == largest


def test_every_lower_limit_can_be_reached():
    least = Entry(b"", DIRECTORY, 0, 0, 0, -(2**63))
    assert entry.check(tuple(least), "here") == least


def test_the_error_names_the_place_and_the_path():
    with pytest.raises(Corrupt, match=r"^node 7: bad entry a\\nb: ") as caught:
        entry.check(tuple(Entry(b"a\nb", FILE, -1, 0, 0, 0)), "node 7")
    assert caught.value.where == "node 7"


def test_kinds_are_those_of_the_system():
    assert set(KIND_LETTERS) == set(KIND_OF_FORMAT.values()) == set(range(1, 7))
    assert "".join(KIND_LETTERS[kind] for kind in range(1, 7)) == "-dlcbp"


plain = Entry(b"a", FILE, 0o644, 0, 0, 0, 6, bytes(40))


@pytest.mark.parametrize(
    ("old", "new", "letter"),
    [
        (None, plain, "A"),
        (plain, None, "D"),
        (plain, Entry(b"a", DIRECTORY, 0o755, 0, 0, 0), "T"),
        (plain, plain._replace(content=b"\1" * 40), "M"),
        (plain, plain._replace(size=7), "M"),
        (plain, plain._replace(mode=0o600), "m"),
        (plain, plain._replace(mtime=1), "m"),
        (plain, plain._replace(xattrs=((b"user.a", b""),)), "m"),
        (plain, plain._replace(flags=16), "m"),
        (plain, plain._replace(link=b"A"), "m"),
    ],
)
def test_change_letter(old, new, letter):
    assert entry.change_letter(old, new) == letter

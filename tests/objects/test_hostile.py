"""What no honest writer makes, and what was honest once and is damaged: declared errors only."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, Unsupported, Untrusted
from chunkstore.objects import chunklist, codec, documents, manifest, pack, record
from chunkstore.objects.digest import SIZE, chunk_digest, pack_hasher, version_digest
from chunkstore.objects.manifest import NodeRef
from chunkstore.trust import keyfile
from chunkstore.trust.root import parse_root

HOSTILE = json.loads((Path(__file__).parent.parent / "golden" / "hostile.json").read_bytes())
ERRORS = {"Corrupt": Corrupt, "Unsupported": Unsupported}
NULL = bytes(SIZE)
STORE_ID = bytes(range(16))


def fitting_ref(data: bytes) -> NodeRef:
    """A reference that agrees with a node wherever it can be understood at all."""
    first, entries, size = b"f", 1, 6
    try:
        _, level, records = msgpack.unpackb(data, use_list=False, strict_map_key=False)
        first = records[0][0]
        entries = sum(item[3] for item in records) if level else len(records)
        size = sum(item[4 if level else 6] for item in records)
    except (ValueError, TypeError, LookupError):
        pass
    return NodeRef(first, chunk_digest(data), len(data), entries, size)


READERS = {
    "record": lambda data: record.decode(data, "here"),
    "leaf": lambda data: manifest.read_node(fitting_ref(data), data),
    "node": lambda data: manifest.read_node(fitting_ref(data), data),
    "list_node": lambda data: chunklist.read_node(data, 0, chunk_digest(data)),
    "version": lambda data: documents.parse_version(data, version_digest(data)),
    "ref": lambda data: documents.parse_ref(data, "example", STORE_ID),
    "root": lambda data: parse_root(data, "here"),
    "key": lambda data: keyfile.parse_secret(data, "here"),
    "locate": lambda data: documents.parse_locate(data, NULL),
    "index": lambda data: pack.parse_index(data, "here"),
    "settings": lambda data: documents.parse_settings(data, "here"),
}


def unsqueeze(data) -> bytes:
    if isinstance(data, str):
        return bytes.fromhex(data)
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part[0]) * part[1]
        for part in data
    )


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, cases in HOSTILE.items() for name in cases]
)
def test_hostile(group, name):
    case = HOSTILE[group][name]
    with pytest.raises(Corrupt) as caught:
        READERS[group](unsqueeze(case["data"]))
    assert type(caught.value) is ERRORS[case["error"]]
    assert case["says"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ref_of_another_store_or_image_is_refused(golden):
    data = golden.read("ref")
    with pytest.raises(Corrupt, match="another"):
        documents.parse_ref(data, "example", NULL[:16])
    with pytest.raises(Corrupt, match="another"):
        documents.parse_ref(data, "other", golden.store_id)


def test_a_version_under_another_name_is_refused(golden):
    with pytest.raises(Corrupt, match="does not match"):
        documents.parse_version(golden.read("version"), NULL)


@pytest.mark.parametrize(
    "change",
    [
        {"first": b"a"},
        {"length": 1},
        {"entries": 18},
        {"entries": 20},
        {"size": 0},
        {"size": 2**62},
    ],
)
def test_a_node_that_is_not_what_its_reference_says_is_refused(golden, change):
    data = golden.read("leaf.bin")
    ref = fitting_ref(data)
    manifest.read_node(ref, data)
    with pytest.raises(Corrupt):
        manifest.read_node(ref._replace(**change), data)


def golden_readers(golden):
    """(name, bytes, reader, whether every change at all must be seen) of the golden files."""
    refs = {name: fitting_ref(golden.read(name)) for name in ("leaf.bin", "inner.bin")}
    node = golden.read("list-node.bin")
    return [
        ("store.json", lambda data: documents.parse_settings(data, "here"), False),
        ("version", lambda data: documents.parse_version(data, golden.version_id), True),
        ("ref", lambda data: documents.parse_ref(data, "example", golden.store_id), False),
        ("store/roots/1", parse_root, False),
        ("open.key", lambda data: keyfile.parse_secret(data, "here"), False),
        ("sealed.key", lambda data: keyfile.parse_secret(data, "here"), False),
        ("locate", lambda data: documents.parse_locate(data, golden.version_id), False),
        ("index", lambda data: pack.parse_index(data, "here"), True),
        ("tiny.idx", lambda data: pack.parse_index(data, "here"), True),
        ("leaf.bin", lambda data: manifest.read_node(refs["leaf.bin"], data), False),
        ("inner.bin", lambda data: manifest.read_node(refs["inner.bin"], data), False),
        ("list-node.bin", lambda data: chunklist.read_node(data, 0, chunk_digest(node)), False),
    ]


def flips(data: bytes, most: int = 12_000):
    """The data with each of its bits flipped, or as many as that, spread over it."""
    bits = len(data) * 8
    for bit in range(0, bits, max(1, bits // most)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)


def test_flipped_bits_end_in_declared_errors(golden):
    for name, read, must_be_seen in golden_readers(golden):
        data = golden.read(name)
        read(data)
        for bit, changed in flips(data):
            try:
                read(changed)
            except (Corrupt, Untrusted):
                continue
            assert not must_be_seen, f"{name}: bit {bit} went unseen"


def test_a_changed_node_never_has_its_digest(golden):
    for name in ("leaf.bin", "inner.bin", "list-node.bin"):
        data = golden.read(name)
        name_of = chunk_digest(data)
        assert all(chunk_digest(changed) != name_of for _, changed in flips(data, 500))


def test_truncations_and_trailing_bytes_are_corrupt(golden):
    for name, read, _ in golden_readers(golden):
        data = golden.read(name)
        # JSON may end in any white space.
        whole = data.rstrip() if name == "store.json" else data
        for length in range(len(whole)):
            with pytest.raises(Corrupt):
                read(whole[:length])
        for tail in (b"\0", b"\xc0", data):
            with pytest.raises(Corrupt):
                read(data + tail)


def test_magic_and_version_are_looked_at_first(golden):
    for name, read, _ in golden_readers(golden):
        data = golden.read(name)
        if data[:4] != b"IMGS" or name == "version":
            continue
        for number in (0, 2, 2**32 - 1):
            with pytest.raises(Unsupported, match=f"version {number}"):
                read(data[:8] + number.to_bytes(4, "little") + data[12:])
        for other in (b"IMGSPACK", b"IMGSVERS", b"imgsindx", bytes(8)):
            with pytest.raises(Corrupt, match="is not a") as caught:
                read(other + data[8:])
            assert type(caught.value) is Corrupt


def read_pack(data: bytes) -> None:
    record.check_header(data, pack.PACK_MAGIC, pack.VERSION, "here")
    start, stop = pack.index_extent(data[-pack.FOOTER.size :], len(data), "here")
    index = pack.parse_index(data[start:stop], "here")
    frames = [
        codec.decompress(frame.codec, data[frame.offset :][: frame.stored], frame.raw, "here")
        for frame in index.frames
    ]
    for name, number, offset, length in index.places():
        if chunk_digest(frames[number][offset : offset + length]) != name:
            raise Corrupt("a chunk is not what the index says")


def test_damage_to_a_pack_is_seen(golden):
    data = golden.read("pack")
    read_pack(data)
    frames = pack.parse_index(golden.read("index"), "index").frames
    # Only its name vouches for the reserved word, and a compressor has more than one way to say
    # the same: what passes `read_pack` holds the right chunks.
    silent = set(range(12, 16))
    for frame in frames:
        if frame.codec != codec.RAW:
            silent.update(range(frame.offset, frame.offset + frame.stored))
    for bit, changed in flips(data, 8_000):
        try:
            read_pack(changed)
        except Corrupt:
            continue
        assert bit // 8 in silent, f"bit {bit} went unseen"
    for length in range(0, len(data), 7):
        with pytest.raises(Corrupt):
            read_pack(data[:length])
    with pytest.raises(Corrupt):
        read_pack(data + b"\0")


def test_a_changed_pack_has_another_name(golden):
    data = golden.read("pack")
    for _, changed in flips(data, 200):
        hasher = pack_hasher()
        hasher.update(changed)
        assert hasher.digest() != golden.pack_id


FUZZED = sorted(READERS)


@pytest.mark.parametrize("group", FUZZED)
@given(data=st.binary(max_size=400))
def test_any_bytes_end_in_a_value_or_corrupt(group, data):
    with suppress(Corrupt):
        READERS[group](data)


field = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64 - 1, -(2**63), True, False, None, 1.0]),
    st.binary(max_size=41),
    st.sampled_from([NULL, NULL[:16], b"a", b"..", b"a/b", bytes(40), "x", "latest", "example"]),
    st.text(max_size=3),
)
value = st.recursive(field, lambda inner: st.lists(inner, max_size=8).map(tuple), max_leaves=40)
MAGICS = {"version": b"IMGSVERS", "ref": b"IMGSREF ", "locate": b"IMGSLOCA"}


def replaced(tree, path, new):
    """A nested tuple with one place exchanged; `path` picks it, wherever it may lead."""
    if not isinstance(tree, tuple) or not tree or not path:
        return new
    place = path[0] % len(tree)
    return (*tree[:place], replaced(tree[place], path[1:], new), *tree[place + 1 :])


@pytest.mark.parametrize("group", ["leaf", "node", "list_node", *MAGICS])
@given(path=st.lists(st.integers(0, 20), min_size=1, max_size=5), new=value)
def test_any_field_of_any_type_ends_in_a_value_or_corrupt(golden, group, path, new):
    file = {"leaf": "leaf.bin", "node": "inner.bin", "list_node": "list-node.bin"}
    data = golden.read(file.get(group, group))
    start = 12 if group in MAGICS else 0
    good = msgpack.unpackb(data[start:], use_list=False)
    if group == "ref":
        payload = msgpack.unpackb(good[0], use_list=False)
        changed = (msgpack.packb(replaced(payload, path, new)), good[1])
    else:
        changed = replaced(good, path, new)
    with suppress(Corrupt):
        READERS[group](data[:start] + msgpack.packb(changed))

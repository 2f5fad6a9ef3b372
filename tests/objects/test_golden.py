"""Golden files: format 1 is what it was on the day these were made, for reading and for writing.

Compressed frames are only read: another release of a compressor may write other bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chunkstore.objects import chunklist, codec, delta, digest, documents, manifest, pack, record
from chunkstore.objects.digest import HOLE, chunk_digest
from chunkstore.objects.documents import PackUse, Ref, Tag, Version
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.trust import keyfile
from chunkstore.trust.keys import from_secret
from chunkstore.trust.refs import check_signature
from chunkstore.trust.root import check_first, parse_root

ROOT = Path(__file__).resolve().parents[2]


def revive(value, golden):
    """A value of `expected.json` with its bytes and tuples back."""
    if isinstance(value, str):
        return golden.bytes_of(value)
    if isinstance(value, list):
        return tuple(revive(item, golden) for item in value)
    return value


def ref_of(fields, golden):
    return NodeRef(**{name: revive(value, golden) for name, value in fields.items()})


def entry_of(fields, golden):
    return Entry(**{name: revive(value, golden) for name, value in fields.items()})


def test_the_generator_still_writes_these_files():
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests/golden/generate.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_settings(golden):
    data = golden.read("store.json")
    settings = documents.parse_settings(data, "store.json")
    assert settings.store_id == golden.store_id
    assert settings.chunker._asdict() == golden.expected["chunker"]
    assert settings.compression == golden.expected["compression"]
    assert settings.encode() == data


def test_version(golden):
    data = golden.read("version")
    expected = golden.expected["version"]
    version = documents.parse_version(data, golden.version_id)
    assert version == Version(
        ref_of(expected["root"], golden),
        golden.bytes_of(expected["parent"]),
        expected["time"],
        expected["message"],
    )
    assert version.encode() == data


def test_ref(golden):
    data = golden.read("ref")
    expected = golden.expected["ref"]
    tags = tuple(
        Tag(tag["name"], golden.bytes_of(tag["version"]), tag["length"]) for tag in expected["tags"]
    )
    ref = documents.parse_ref(data, "example", golden.store_id)
    numbers = tuple(expected[name] for name in ("root", "sequence", "time", "expires"))
    assert ref == Ref(golden.store_id, expected["image"], *numbers, tags)
    envelope = documents.open_ref(data, "here")[1]
    assert envelope.payload == ref.payload
    assert documents.encode_ref(envelope) == data
    assert ref.find("latest") == tags[1]
    assert tags[1].length == len(golden.read("version"))


def test_locate(golden):
    data = golden.read("locate")
    uses = documents.parse_locate(data, golden.version_id)
    (expected,) = golden.expected["locate"]
    assert uses == [
        PackUse(golden.bytes_of(expected["pack"]), expected["pack_size"], expected["index_size"])
    ]
    assert uses == [PackUse(golden.pack_id, len(golden.read("pack")), len(golden.read("index")))]
    assert documents.encode_locate(golden.version_id, uses) == data


def unpack(data: bytes, name: str = "pack") -> tuple[pack.Index, dict[bytes, bytes]]:
    """The index and all chunks of a whole pack."""
    record.check_header(data, pack.PACK_MAGIC, pack.VERSION, name)
    start, stop = pack.index_extent(data[-pack.FOOTER.size :], len(data), name)
    index = pack.parse_index(data[start:stop], name)
    raw = [
        codec.decompress(frame.codec, data[frame.offset :][: frame.stored], frame.raw, name)
        for frame in index.frames
    ]
    chunks = {
        found: raw[number][offset : offset + length]
        for found, number, offset, length in index.places()
    }
    return index, chunks


def test_pack(golden):
    data = golden.read("pack")
    expected = golden.expected["pack"]
    hasher = digest.pack_hasher()
    hasher.update(data)
    assert hasher.hexdigest() == expected["id"]
    assert len(data) == expected["size"]
    index, chunks = unpack(data)
    assert [list(frame) for frame in index.frames] == expected["frames"]
    assert {frame.codec for frame in index.frames} == {codec.RAW, codec.LZ4, codec.ZSTD}
    places = [[golden.bytes_of(place[0]), *place[1:]] for place in expected["places"]]
    assert [list(place) for place in index.places()] == places
    assert all(chunk_digest(chunk) == name for name, chunk in chunks.items())
    last = index.frames[-1]
    assert last.offset + last.stored + len(golden.read("index")) + 16 == len(data)


def test_index(golden):
    data = golden.read("index")
    index, _ = unpack(golden.read("pack"))
    assert pack.parse_index(data, "index") == index
    assert pack.encode_index(index.frames, index.chunks) == data
    whole = golden.read("pack")
    assert whole.startswith(pack.encode_header())
    assert whole.endswith(data + pack.encode_footer(data))


@pytest.mark.parametrize(
    ("name", "file"), [("leaf", "leaf.bin"), ("tiny_leaf", "tiny-leaf.bin"), ("inner", "inner.bin")]
)
def test_manifest_node(golden, name, file):
    data = golden.read(file)
    expected = golden.expected[name]
    ref = ref_of(expected["ref"], golden)
    make = ref_of if expected["level"] else entry_of
    assert chunk_digest(data) == ref.digest
    node = manifest.read_node(ref, data)
    assert node.level == expected["level"]
    assert node.records == tuple(make(item, golden) for item in expected["records"])
    assert record.encode((manifest.FORMAT, node.level, node.records)) == data


@pytest.mark.parametrize(("name", "file"), [("leaf", "leaf.bin"), ("tiny_leaf", "tiny-leaf.bin")])
def test_building_gives_the_same_leaf(golden, name, file):
    expected = golden.expected[name]
    entries = [entry_of(item, golden) for item in expected["records"]]
    stored = {}

    def save(data):
        stored[chunk_digest(data)] = data
        return chunk_digest(data)

    assert manifest.build(entries, save) == ref_of(expected["ref"], golden)
    assert list(stored.values()) == [golden.read(file)]


def test_list_node(golden):
    data = golden.read("list-node.bin")
    expected = golden.expected["list_node"]
    records = [revive(item, golden) for item in expected["records"]]
    blob = chunklist.read_node(data, expected["level"], chunk_digest(data))
    assert list(chunklist.RECORD.iter_unpack(blob)) == records
    assert records[-1][0] == HOLE
    writer = chunklist.ListWriter(lambda node: chunk_digest(node) if node == data else b"")
    for item in records:
        writer.add(*item)
    (big,) = [item for item in golden.expected["leaf"]["records"] if item["path"] == "text:var/big"]
    assert writer.finish() == (golden.bytes_of(big["content"]), big["depth"])


def test_the_golden_store_is_whole(golden):
    """From the ref down to the last chunk, by nothing but what the documents say."""
    tag = documents.parse_ref(golden.read("ref"), "example").find("latest")
    assert tag is not None
    version = documents.parse_version(golden.read("version"), tag.version)
    _, chunks = unpack(golden.read("pack"))
    found = [new for _, new in delta.diff(None, version.root, chunks.__getitem__)]
    assert found == list(manifest.walk(version.root, chunks.__getitem__))
    sizes = {}
    for entry in found:
        data = b""
        for name, length in chunklist.walk(entry, chunks.__getitem__):
            data += bytes(length) if name == HOLE else chunks[name]
        assert len(data) == entry.size
        sizes[entry.path] = len(data)
    assert len(sizes) == version.root.entries == 19
    assert sizes[b"var/big"] == 140 * 6 + 2**20
    assert sizes[b"var/sparse"] == 4096


@pytest.mark.parametrize("count", [1, 100, 20_000])
def test_the_shape_of_manifests_is_frozen(golden, count):
    # The generator's own loop over these is what `--check` compares; here the tree is built from
    # entries that went through a record, and read again.
    expected = golden.expected["shapes"][f"manifest of {count} files"]
    stored = {}

    def save(data):
        stored[chunk_digest(data)] = data
        return chunk_digest(data)

    time = 1_795_000_000_000_000_000
    entries = [Entry(b"", 2, 0o755, 0, 0, time)]
    for number in range(count):
        data = b"file %d\n" % number
        content = chunk_digest(data) + len(data).to_bytes(8, "little")
        entries.append(Entry(b"%05d" % number, 1, 0o644, 0, 0, time + number, len(data), content))
    root = manifest.build(entries, save)
    assert root == ref_of(expected["root"], golden)
    assert len(stored) == expected["nodes"]
    assert list(manifest.walk(root, stored.__getitem__)) == entries


@pytest.mark.parametrize("count", [128, 129, 640, 641, 50_000])
def test_the_shape_of_chunk_lists_is_frozen(golden, count):
    expected = golden.expected["shapes"][f"list of {count} records"]
    nodes = set()

    def save(data):
        nodes.add(chunk_digest(data))
        return chunk_digest(data)

    writer = chunklist.ListWriter(save)
    for number in range(count):
        if number % 50 == 49:
            writer.add(HOLE, 1 << 20)
        else:
            writer.add(chunk_digest(b"chunk %d" % number), 1000 + number)
    content, depth = writer.finish()
    assert depth == expected["depth"]
    assert len(nodes) == expected["nodes"]
    assert chunk_digest(content) == golden.bytes_of(expected["content"])


def test_root(golden):
    data = golden.read("store/roots/1")
    expected = golden.expected["root"]
    signed = parse_root(data)
    assert signed.encode() == data
    root = check_first(signed)
    assert root.payload == signed.envelope.payload
    assert root.store_id == golden.store_id
    assert [root.version, root.time, root.expires] == [
        expected[name] for name in ("version", "time", "expires")
    ]
    for role, name in ((root.roots, "roots"), (root.refs, "refs")):
        assert role.threshold == expected[name]["threshold"]
        ids = [golden.bytes_of(key["id"]) for key in expected[name]["keys"]]
        assert [key.id for key in role.keys] == ids
    ref, envelope = documents.open_ref(golden.read("ref"), "here")
    check_signature(ref, envelope, root)


def test_keys(golden):
    expected = golden.expected["keys"]
    opened = keyfile.parse_secret(golden.read("open.key"), "open.key")
    sealed = keyfile.parse_secret(golden.read("sealed.key"), "sealed.key")
    public = keyfile.parse_public(golden.read("open.key.pub").decode(), "open.key.pub")
    assert not opened.needs_passphrase
    assert sealed.needs_passphrase
    secret = golden.bytes_of(expected["secret"])
    assert opened.open().secret == sealed.open(expected["passphrase"].encode()).secret == secret
    assert opened.key == sealed.key == public == from_secret(secret).key
    assert public.id == golden.bytes_of(expected["id"])
    assert keyfile.encode_secret(opened.open()) == golden.read("open.key")
    assert keyfile.encode_public(public).encode() == golden.read("open.key.pub")


def test_the_signature_in_the_format_is_what_openssl_says(golden, tmp_path):
    """What is signed, laid out by hand, and checked by another program."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    _, envelope = documents.open_ref(golden.read("ref"), "here")
    kind = b"imgstore ref"
    head = f"DSSEv1 {len(kind)} ".encode() + kind + f" {len(envelope.payload)} ".encode()
    (tmp_path / "message").write_bytes(head + envelope.payload)
    (tmp_path / "signature").write_bytes(envelope.signatures[0].value)
    (key,) = parse_root(golden.read("store/roots/1")).root.refs.keys
    # SubjectPublicKeyInfo of Ed25519 is these twelve bytes and the key.
    (tmp_path / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + key.public)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin"]
    files = ["-inkey", "key", "-in", "message", "-sigfile", "signature"]
    done = subprocess.run([*command, *files], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done

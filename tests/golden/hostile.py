"""What no honest writer makes: one record, object or document for each thing a reader must refuse.

Part of `generate.py`. Every case is valid but for what its name says, and comes with the error
it must end in and words of the message, so that it can't be refused for some other reason. What
is only damaged (cut short, a bit flipped) is not here: the tests do that to the golden files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from chunkstore.objects import codec, manifest, names
from chunkstore.objects import digest as digests
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.documents import Settings
from chunkstore.objects.entry import BLOCK, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK, Entry

HELLO = b"hello\n"
CHUNK_LIST = RECORD.pack(digests.chunk_digest(HELLO), len(HELLO))
STORE_ID = bytes(range(16))
TIME = 1_795_000_000_000_000_000


class Raw(bytes):
    """Bytes that already are MessagePack, to be laid into a record as they are."""


def packed(value: Any) -> bytes:
    """MessagePack as anybody might write it; `Raw` parts are taken as they are."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, tuple | list):
        head = msgpack.Packer().pack_array_header(len(value))
        return bytes(head) + b"".join(map(packed, value))
    return bytes(msgpack.packb(value, use_bin_type=True))


Case = tuple[str, bytes, str, str]
"""Name, bytes, error class, and words its message must hold."""


def hostile_records() -> Iterator[Case]:
    """Values of a record in a form that is not the canonical one."""
    for name, hex_, says in [
        ("int8 for a small number", "d001", "canonical"),
        ("uint8 for a small number", "cc01", "canonical"),
        ("uint16 for a byte", "cd00ff", "canonical"),
        ("uint32 for 16 bits", "ce0000ffff", "canonical"),
        ("uint64 for 32 bits", "cf00000000ffffffff", "canonical"),
        ("int64 for a small negative", "d3ffffffffffffffff", "canonical"),
        ("int64 for a positive", "d37fffffffffffffff", "canonical"),
        ("float32", "ca3f800000", "canonical"),
        ("array16 for one", "dc000101", "canonical"),
        ("array32 for one", "dd0000000101", "canonical"),
        ("bin16 for one byte", "c5000141", "canonical"),
        ("bin32 for one byte", "c60000000141", "canonical"),
        ("str8 for one letter", "d90141", "canonical"),
        ("str16 for one letter", "da000141", "canonical"),
        ("str that is not UTF-8", "a1ff", "record"),
        ("str with a surrogate", "a3eda080", "record"),
        ("empty map", "80", "map"),
        ("map", "810102", "record"),
        ("map in an array", "9180", "map"),
        ("map16, empty", "de0000", "map"),
        ("fixext", "d40500", "record"),
        ("empty extension", "c70005", "extension"),
        ("timestamp", "d6ff00000000", "record"),
        ("byte that is never used", "c1", "record"),
        ("nothing", "", "record"),
        ("two values", "0101", "record"),
        ("array cut short", "9301", "record"),
        ("array of 2^32-1", "ddffffffff", "record"),
        ("bin of 2^32-1", "c6ffffffff00", "record"),
        ("bin cut short", "c40541", "record"),
    ]:
        yield name, bytes.fromhex(hex_), "Corrupt", says
    yield "2000 arrays in one another", b"\x91" * 2000 + b"\x01", "Corrupt", "record"
    # Every array claims as many elements as there are bytes, so that making room for them all
    # at once would take gigabytes.
    head = b"\xdd" + struct.pack(">I", 400_000)
    nested = head * 900
    yield "arrays that all claim more", nested + bytes(400_000 - len(nested)), "Corrupt", "record"


def entry_record(**changes: Any) -> list[Any]:
    """The fields of a file's entry, some of them changed to what they should not be."""
    fields: dict[str, Any] = Entry(b"f", FILE, 0o644, 0, 0, TIME, 6, CHUNK_LIST)._asdict()
    assert not changes.keys() - fields.keys()
    return list((fields | changes).values())


def hostile_entries() -> Iterator[Case]:
    """Entries, each alone in a leaf, that no tree holds."""
    directory = {"kind": DIRECTORY, "size": 0, "content": b""}
    deep = b"/".join([b"d" * 255] * 16)
    assert len(deep) == names.MAX_PATH
    cases: list[tuple[str, dict[str, Any], str]] = [
        *(
            (f"path {label}", {"path": path}, "component")
            for label, path in [
                ("..", b".."),
                (".", b"."),
                ("a/..", b"a/.."),
                ("a/../b", b"a/../b"),
                ("a/./b", b"a/./b"),
                ("absolute", b"/etc/passwd"),
                ("only a slash", b"/"),
                ("ending in a slash", b"a/"),
                ("with an empty component", b"a//b"),
                ("with a component of 256 bytes", b"a/" + b"x" * 256),
            ]
        ),
        ("path with NUL", {"path": b"a\0b"}, "NUL"),
        ("path of 4096 bytes", {"path": deep[:-1] + b"/x"}, "too long"),
        ("path .imgstore", {"path": b".imgstore"}, "own directory"),
        ("path in .imgstore", {"path": b".imgstore/journal"}, "own directory"),
        ("path as text", {"path": "f"}, "not bytes"),
        ("root that is a file", {"path": b""}, "root"),
        ("kind 0", {"kind": 0}, "0"),
        ("kind 7", {"kind": 7}, "7"),
        ("kind as true", {"kind": True}, "not an integer"),
        ("kind as float", {"kind": 1.0}, "not an integer"),
        ("mode with a file type", {"mode": 0o100644}, "range"),
        ("mode -1", {"mode": -1}, "range"),
        ("mode as nil", {"mode": None}, "not an integer"),
        ("uid -1", {"uid": -1}, "range"),
        ("uid that chown ignores", {"uid": 2**32 - 1}, "range"),
        ("gid that chown ignores", {"gid": 2**32 - 1}, "range"),
        ("mtime as float", {"mtime": 1.5}, "not an integer"),
        ("mtime as text", {"mtime": "now"}, "not an integer"),
        ("size -1", {"size": -1}, "range"),
        ("size 2^63", {"size": 2**63}, "range"),
        ("content as text", {"content": "x" * 40}, "not bytes"),
        ("content as nil", {"content": None}, "not bytes"),
        ("content of 39 bytes", {"content": CHUNK_LIST[:39]}, "cut short"),
        ("content of 129 records", {"content": CHUNK_LIST * 129}, "too long"),
        ("depth 5", {"depth": 5}, "range"),
        ("depth -1", {"depth": -1}, "range"),
        ("depth without content", {"depth": 1, "content": b"", "size": 0}, "empty file"),
        ("directory with a size", directory | {"size": 1}, "size"),
        ("directory with content", directory | {"content": CHUNK_LIST}, "content"),
        ("directory with depth", directory | {"depth": 1}, "size"),
        ("directory as hardlink", directory | {"link": b"a"}, "hardlink"),
        ("fifo with content", {"kind": FIFO, "size": 0}, "content"),
        ("symlink to nowhere", {"kind": SYMLINK, "size": 0, "content": b""}, "target"),
        ("symlink with NUL", {"kind": SYMLINK, "size": 0, "content": b"a\0"}, "target"),
        ("symlink of 4096", {"kind": SYMLINK, "size": 0, "content": b"a" * 4096}, "target"),
        ("device of 7 bytes", {"kind": CHARACTER, "size": 0, "content": bytes(7)}, "8 bytes"),
        ("device of 9 bytes", {"kind": BLOCK, "size": 0, "content": bytes(9)}, "8 bytes"),
        ("flags 2^32", {"flags": 2**32}, "range"),
        ("flags -1", {"flags": -1}, "range"),
        ("link to itself", {"link": b"f"}, "before"),
        ("link forward", {"link": b"g"}, "before"),
        ("link into itself", {"link": b"f/x"}, "before"),
        ("link ..", {"link": b"a/../b"}, "component"),
        ("link absolute", {"link": b"/etc/shadow"}, "component"),
        ("link in .imgstore", {"link": b".imgstore/x"}, "own directory"),
        ("link as nil", {"link": None}, "not bytes"),
        ("link as text", {"link": "a"}, "not bytes"),
        ("xattrs out of order", {"xattrs": ((b"user.b", b""), (b"user.a", b""))}, "sorted"),
        ("xattr twice", {"xattrs": ((b"user.a", b""), (b"user.a", b"1"))}, "sorted"),
        ("xattr without a name", {"xattrs": ((b"", b""),)}, "name"),
        ("xattr name of 256", {"xattrs": ((b"n" * 256, b""),)}, "too long"),
        ("xattr name with NUL", {"xattrs": ((b"a\0b", b""),)}, "too long"),
        ("xattr value too long", {"xattrs": ((b"user.a", bytes(65537)),)}, "too long"),
        ("xattr name as text", {"xattrs": (("user.a", b""),)}, "not bytes"),
        ("xattr value as nil", {"xattrs": ((b"user.a", None),)}, "not bytes"),
        ("xattr of three", {"xattrs": ((b"a", b"b", b"c"),)}, "unpack"),
        ("xattr of one", {"xattrs": ((b"a",),)}, "unpack"),
        ("xattr that is a number", {"xattrs": (1,)}, "unpack"),
        ("xattr that is three bytes", {"xattrs": (b"abc",)}, "unpack"),
        ("xattrs as nil", {"xattrs": None}, "list"),
        ("xattrs as 0", {"xattrs": 0}, "list"),
        ("xattrs as false", {"xattrs": False}, "list"),
        ("xattrs as bytes", {"xattrs": b""}, "list"),
        ("xattrs as text", {"xattrs": ""}, "list"),
        ("xattrs as an extension", {"xattrs": Raw(b"\xc7\x00\x05")}, "extension"),
        ("xattrs as a map", {"xattrs": Raw(b"\x80")}, "map"),
    ]
    for name, changes, says in cases:
        yield name, packed((1, 0, [entry_record(**changes)])), "Corrupt", says
    yield "entry of 11 fields", packed((1, 0, [entry_record()[:11]])), "Corrupt", "entry"
    yield "entry of 13 fields", packed((1, 0, [[*entry_record(), 0]])), "Corrupt", "entry"
    yield "entry that is 12 bytes", packed((1, 0, [b"twelve bytes"])), "Corrupt", "not bytes"
    yield "entry that is a number", packed((1, 0, [7])), "Corrupt", "entry"
    yield "entry that is nil", packed((1, 0, [None])), "Corrupt", "entry"


def hostile_nodes() -> Iterator[Case]:
    """Manifest nodes that are wrong as a whole."""
    one, two = entry_record(), entry_record(path=b"g")
    yield "version 2", packed((2, 0, [one])), "Unsupported", "version 2"
    yield "version 2 with other fields", packed((2, "anything")), "Unsupported", "version 2"
    yield "version 0", packed((0, 0, [one])), "Unsupported", "version 0"
    yield "version as true", packed((True, 0, [one])), "Corrupt", "not a manifest node"
    yield "version as float", packed((1.0, 0, [one])), "Corrupt", "not a manifest node"
    yield "not an array", packed(1), "Corrupt", "not a manifest node"
    yield "no records", packed((1, 0, [])), "Corrupt", "not a manifest node"
    yield "records as bytes", packed((1, 0, b"abc")), "Corrupt", "not a manifest node"
    yield "records as nil", packed((1, 0, None)), "Corrupt", "not a manifest node"
    yield "four fields", packed((1, 0, [one], 0)), "Corrupt", "not a manifest node"
    yield "level 8", packed((1, 8, [one])), "Corrupt", "level 8"
    yield "level -1", packed((1, -1, [one])), "Corrupt", "level -1"
    yield "level as false", packed((1, False, [one])), "Corrupt", "not a manifest node"
    yield "entries at level 1", packed((1, 1, [one])), "Corrupt", "reference"
    yield "same path twice", packed((1, 0, [one, one])), "Corrupt", "order"
    yield "paths out of order", packed((1, 0, [two, one])), "Corrupt", "order"
    yield (
        "order of plain bytes",  # a-b before a/b: right for memcmp, wrong for paths
        packed((1, 0, [entry_record(path=b"a-b"), entry_record(path=b"a/b")])),
        "Corrupt",
        "order",
    )
    good = [b"f", bytes(32), 100, 1, 6]
    bad_references: list[tuple[str, dict[int, Any]]] = [
        ("digest of 31", {1: bytes(31)}),
        ("digest of 33", {1: bytes(33)}),
        ("length 0", {2: 0}),
        ("length -1", {2: -1}),
        ("length beyond the cap", {2: manifest.MAX_NODE_BYTES + 1}),
        ("length as true", {2: True}),
        ("no entries", {3: 0}),
        ("entries as true", {3: True}),
        ("size -1", {4: -1}),
        ("size as float", {4: 6.0}),
        ("first as text", {0: "f"}),
    ]
    for name, changes in bad_references:
        item = [changes.get(place, value) for place, value in enumerate(good)]
        yield f"reference with {name}", packed((1, 1, [item])), "Corrupt", "reference"
    yield "reference of four", packed((1, 1, [good[:4]])), "Corrupt", "reference"
    yield "reference to ..", packed((1, 1, [[b"..", *good[1:]]])), "Corrupt", "component"
    yield "references out of order", packed((1, 1, [[b"g", *good[1:]], good])), "Corrupt", "order"
    yield "reference twice", packed((1, 1, [good, good])), "Corrupt", "order"


def hostile_list_nodes() -> Iterator[Case]:
    """List nodes of what should be level 0."""
    record = CHUNK_LIST
    yield "version 2", packed((2, 0, record)), "Unsupported", "version 2"
    yield "version as true", packed((True, 0, record)), "Corrupt", "list node"
    yield "level 1", packed((1, 1, record)), "Corrupt", "level 0"
    yield "level as false", packed((1, False, record)), "Corrupt", "list node"
    yield "level -1", packed((1, -1, record)), "Corrupt", "level 0"
    yield "no records", packed((1, 0, b"")), "Corrupt", "list node"
    yield "record cut short", packed((1, 0, record[:-1])), "Corrupt", "list node"
    yield "513 records", packed((1, 0, record * 513)), "Corrupt", "list node"
    yield "records as text", packed((1, 0, "x" * 40)), "Corrupt", "list node"
    yield "records as array", packed((1, 0, [record])), "Corrupt", "list node"
    yield "four fields", packed((1, 0, record, 0)), "Corrupt", "list node"
    yield "a chunk", HELLO, "Corrupt", "record"


def document(magic: bytes, number: int, value: Any) -> bytes:
    return struct.pack("<8sI", magic, number) + packed(value)


def hostile_versions() -> Iterator[Case]:
    """Version records; they are read under their right name."""
    root = [b"", bytes(32), 100, 1, 6]
    good = [root, b"", TIME, "m"]

    def made(changes: dict[int, Any]) -> bytes:
        return document(b"IMGSVERS", 1, [changes.get(n, value) for n, value in enumerate(good)])

    yield "magic of a ref", document(b"IMGSREF ", 1, good), "Corrupt", "not a IMGSVERS"
    yield "format 2", document(b"IMGSVERS", 2, good), "Unsupported", "version 2"
    yield "format 0", document(b"IMGSVERS", 0, good), "Unsupported", "version 0"
    yield "only a header", struct.pack("<8sI", b"IMGSVERS", 1), "Corrupt", "record"
    yield "nothing", b"", "Corrupt", "too short"
    yield "three fields", document(b"IMGSVERS", 1, good[:3]), "Corrupt", "version record"
    yield "parent of 31", made({1: bytes(31)}), "Corrupt", "version record"
    yield "parent as nil", made({1: None}), "Corrupt", "version record"
    yield "time as float", made({2: 1.0}), "Corrupt", "version record"
    yield "time as true", made({2: True}), "Corrupt", "version record"
    yield "message as bytes", made({3: b"m"}), "Corrupt", "version record"
    yield "message too long", made({3: "ä" * 8193}), "Corrupt", "version record"
    yield "root that begins later", made({0: [b"a", *root[1:]]}), "Corrupt", "version record"
    yield "root of no bytes", made({0: [b"", bytes(32), 0, 1, 6]}), "Corrupt", "reference"
    yield "root of 2^62 bytes", made({0: [b"", bytes(32), 2**62, 1, 6]}), "Corrupt", "reference"
    yield "root of no entries", made({0: [b"", bytes(32), 100, 0, 6]}), "Corrupt", "reference"
    yield "root of -1 bytes of data", made({0: [b"", bytes(32), 100, 1, -1]}), "Corrupt", "refer"
    yield "root as bytes", made({0: bytes(32)}), "Corrupt", "version record"


def hostile_refs() -> Iterator[Case]:
    """Refs; they are read as the ref of `example`."""
    tag = ["latest", bytes(32), 100]
    good = ["imgstore ref", STORE_ID, "example", 1, 1, TIME, 0, [tag]]
    mark = [bytes(32), b"s" * 64]

    def made(changes: dict[int, Any]) -> bytes:
        fields = [changes.get(n, value) for n, value in enumerate(good)]
        return document(b"IMGSREF ", 1, (packed(fields), ()))

    def tagged(*tags: Any) -> bytes:
        return made({7: tags})

    yield "magic of a version", document(b"IMGSVERS", 1, (packed(good), ())), "Corrupt", "REF"
    yield "format 2", document(b"IMGSREF ", 2, (packed(good), ())), "Unsupported", "version 2"
    yield "without payload", document(b"IMGSREF ", 1, ()), "Corrupt", "not a ref"
    yield "payload not packed", document(b"IMGSREF ", 1, (good, ())), "Corrupt", "not a ref"
    yield "signatures as nil", document(b"IMGSREF ", 1, (packed(good), None)), "Corrupt", "not a"
    yield "a signature", document(b"IMGSREF ", 1, (packed(good), (b"s",))), "Corrupt", "not a ref"
    yield "payload and more", document(b"IMGSREF ", 1, (packed(good) + b"\0", ())), "Corrupt", "rec"
    yield "another type", made({0: "imgstore root"}), "Corrupt", "not a ref"
    yield "another store", made({1: bytes(16)}), "Corrupt", "another"
    yield "store id of 15", made({1: bytes(15)}), "Corrupt", ""
    yield "another image", made({2: "other"}), "Corrupt", "another"
    yield "image as bytes", made({2: b"example"}), "Corrupt", "not a ref"
    yield "image of 129 letters", made({2: "x" * 129}), "Corrupt", "not a ref"
    yield "image with a slash", made({2: "../x"}), "Corrupt", "not a ref"
    yield "root -1", made({3: -1}), "Corrupt", "not a ref"
    yield "root 2^63", made({3: 2**63}), "Corrupt", "not a ref"
    yield "root as true", made({3: True}), "Corrupt", "not a ref"
    yield "sequence -1", made({4: -1}), "Corrupt", "not a ref"
    yield "sequence 2^63", made({4: 2**63}), "Corrupt", "not a ref"
    yield "sequence as true", made({4: True}), "Corrupt", "not a ref"
    yield "time as float", made({5: 1.0}), "Corrupt", "not a ref"
    yield "expires as false", made({6: False}), "Corrupt", "not a ref"
    yield "tags as nil", made({7: None}), "Corrupt", "not a ref"
    for name, marks, says in [
        ("a signature twice", [mark, mark], "order"),
        ("signatures out of order", [[b"\1" * 32, b"s"], mark], "order"),
        ("signature of a short key id", [[bytes(31), b"s"]], "bad signature"),
        ("signature of no bytes", [[bytes(32), b""]], "bad signature"),
        ("signature of 1025 bytes", [[bytes(32), b"s" * 1025]], "bad signature"),
        ("signature as text", [[bytes(32), "s"]], "bad signature"),
        ("33 signatures", [[bytes([n]) * 32, b"s"] for n in range(33)], "not a ref"),
    ]:
        yield name, document(b"IMGSREF ", 1, (packed(good), marks)), "Corrupt", says
    yield "tag twice", tagged(tag, ["latest", b"\1" * 32, 100]), "Corrupt", "order"
    yield "tags out of order", tagged(tag, ["base", bytes(32), 100]), "Corrupt", "order"
    yield "tag with a slash", tagged(["../../etc", bytes(32), 100]), "Corrupt", "bad tag"
    yield "tag without a name", tagged(["", bytes(32), 100]), "Corrupt", "bad tag"
    yield "tag beginning with a dot", tagged([".x", bytes(32), 100]), "Corrupt", "bad tag"
    yield "tag of 129 letters", tagged(["x" * 129, bytes(32), 100]), "Corrupt", "bad tag"
    yield "tag with a newline", tagged(["x\n", bytes(32), 100]), "Corrupt", "bad tag"
    yield "tag as bytes", tagged([b"latest", bytes(32), 100]), "Corrupt", "bad tag"
    yield "tag of a short digest", tagged(["x", bytes(31), 100]), "Corrupt", "bad tag"
    yield "tag of length 0", tagged(["x", bytes(32), 0]), "Corrupt", "bad tag"
    yield "tag of length 65537", tagged(["x", bytes(32), 65537]), "Corrupt", "bad tag"
    yield "tag of length true", tagged(["x", bytes(32), True]), "Corrupt", "bad tag"
    yield "tag of two", tagged(["x", bytes(32)]), "Corrupt", "bad tag"


def hostile_roots() -> Iterator[Case]:
    """Root documents; what they say of keys is judged elsewhere."""
    one, two = ["ed25519", b"a" * 32], ["ed25519", b"b" * 32]
    refs, roots = ["ref", 1, [one]], ["root", 1, [one, two]]
    good = ["imgstore root", STORE_ID, 1, TIME, 0, [refs, roots]]

    def made(changes: dict[int, Any]) -> bytes:
        fields = [changes.get(n, value) for n, value in enumerate(good)]
        return document(b"IMGSROOT", 1, (packed(fields), ()))

    def with_keys(*keys: Any, threshold: Any = 1) -> bytes:
        return made({5: [refs, ["root", threshold, keys]]})

    yield "magic of a ref", document(b"IMGSREF ", 1, (packed(good), ())), "Corrupt", "ROOT"
    yield "format 2", document(b"IMGSROOT", 2, (packed(good), ())), "Unsupported", "version 2"
    yield "too long", made({1: bytes(70_000)}), "Corrupt", "longer"
    yield "another type", made({0: "imgstore ref"}), "Corrupt", "not a root"
    yield "store id of 15", made({1: bytes(15)}), "Corrupt", "not a root"
    yield "version 0", made({2: 0}), "Corrupt", "not a root"
    yield "version 2^63", made({2: 2**63}), "Corrupt", "not a root"
    yield "version as true", made({2: True}), "Corrupt", "not a root"
    yield "time as float", made({3: 1.0}), "Corrupt", "not a root"
    yield "expires as false", made({4: False}), "Corrupt", "not a root"
    yield "no roles", made({5: []}), "Corrupt", "not a root"
    yield "one role", made({5: [roots]}), "Corrupt", "not a root"
    yield "roles out of order", made({5: [roots, refs]}), "Corrupt", "not a root"
    yield "a third role", made({5: [refs, roots, ["x", 1, [one]]]}), "Corrupt", "not a root"
    yield "no keys", with_keys(), "Corrupt", "bad role"
    yield "17 keys", with_keys(*(["x", bytes([n])] for n in range(17))), "Corrupt", "bad role"
    yield "a key twice", with_keys(one, one), "Corrupt", "bad role"
    yield "keys out of order", with_keys(two, one), "Corrupt", "bad role"
    yield "threshold 0", with_keys(one, threshold=0), "Corrupt", "bad role"
    yield "threshold of two with one key", with_keys(one, threshold=2), "Corrupt", "bad role"
    yield "threshold as true", with_keys(one, threshold=True), "Corrupt", "bad role"
    yield "key of no bytes", with_keys(["ed25519", b""]), "Corrupt", "bad key"
    yield "key of 4097 bytes", with_keys(["ed25519", bytes(4097)]), "Corrupt", "bad key"
    yield "algorithm as bytes", with_keys([b"ed25519", b"a" * 32]), "Corrupt", "bad key"
    yield "algorithm with a newline", with_keys(["ed25519\n", b"a" * 32]), "Corrupt", "bad key"
    yield "algorithm without a name", with_keys(["", b"a" * 32]), "Corrupt", "bad key"


def hostile_keys() -> Iterator[Case]:
    """Secret key files."""
    scrypt = ["scrypt chacha20-poly1305", 15, 8, 1, bytes(16)]

    def made(*fields: Any) -> bytes:
        return document(b"IMGSKEY ", 1, fields)

    def sealed(**changes: Any) -> bytes:
        names = ("kind", "log_n", "r", "p", "salt")
        fields = [changes.get(name, value) for name, value in zip(names, scrypt, strict=True)]
        return made("ed25519", b"a" * 32, fields, bytes(48))

    good = ("ed25519", b"a" * 32, [], bytes(32))
    yield "format 2", document(b"IMGSKEY ", 2, good), "Unsupported", "version 2"
    yield "another algorithm", made("rsa", b"a" * 32, [], bytes(32)), "Corrupt", "not a secret"
    yield "short public part", made("ed25519", b"a" * 31, [], bytes(32)), "Corrupt", "not a secret"
    yield "short secret", made("ed25519", b"a" * 32, [], bytes(31)), "Corrupt", "not a secret"
    yield "sealed secret of 32", made("ed25519", b"a" * 32, scrypt, bytes(32)), "Corrupt", "not a s"
    yield "another way to seal", sealed(kind="rot13"), "Corrupt", "not a secret"
    yield "N of 2^21", sealed(log_n=21), "Corrupt", "not a secret"
    yield "N of 2^63", sealed(log_n=63), "Corrupt", "not a secret"
    yield "N of 1", sealed(log_n=0), "Corrupt", "not a secret"
    yield "512 MiB", sealed(log_n=19, r=8), "Corrupt", "not a secret"
    yield "p of 17", sealed(p=17), "Corrupt", "not a secret"
    yield "r as true", sealed(r=True), "Corrupt", "not a secret"
    yield "salt of 15", sealed(salt=bytes(15)), "Corrupt", "not a secret"
    yield "too long", made("ed25519", b"a" * 32, [], bytes(5000)), "Corrupt", "too long"


def hostile_locates() -> Iterator[Case]:
    """Locate hints; they are read as that of the version 00...00."""
    use = [bytes(32), 1000, 100]

    def made(*uses: Any) -> bytes:
        return document(b"IMGSLOCA", 1, (bytes(32), uses))

    yield "format 2", document(b"IMGSLOCA", 2, (bytes(32), [use])), "Unsupported", "version 2"
    yield "another version", document(b"IMGSLOCA", 1, (b"\1" * 32, [use])), "Corrupt", "hint"
    yield "uses as bytes", document(b"IMGSLOCA", 1, (bytes(32), b"")), "Corrupt", "hint"
    yield "pack of 31", made([bytes(31), 1000, 100]), "Corrupt", "bad pack"
    yield "pack size 0", made([bytes(32), 0, 100]), "Corrupt", "bad pack"
    yield "pack size true", made([bytes(32), True, 100]), "Corrupt", "bad pack"
    yield "index size 0", made([bytes(32), 1000, 0]), "Corrupt", "bad pack"
    yield "index size -1", made([bytes(32), 1000, -1]), "Corrupt", "bad pack"
    yield "index size 2^62", made([bytes(32), 1000, 2**62]), "Corrupt", "bad pack"
    yield "use of two", made(use[:2]), "Corrupt", "bad pack"


def index_of(
    frames: list[tuple[int, int, int, int]],
    chunks: list[tuple[bytes, int]],
    counts: tuple[int, int] | None = None,
    tail: bytes = b"",
) -> bytes:
    """An index with a right checksum, whatever it says."""
    number_of_frames, number_of_chunks = counts or (len(frames), len(chunks))
    body = struct.pack("<8sIII", b"IMGSINDX", 1, number_of_frames, number_of_chunks)
    body += b"".join(struct.pack("<IIII", *frame) for frame in frames)
    body += b"".join(struct.pack("<32sI", *chunk) for chunk in chunks)
    return body + tail + digests.index_digest(body + tail)


def hostile_indexes() -> Iterator[Case]:
    """Indexes whose checksum is right."""
    digest = digests.chunk_digest(HELLO)
    frame, chunk = (6, 6, 1, codec.RAW), (digest, 6)
    big = codec.MAX_FRAME
    cases: list[tuple[str, bytes, str]] = [
        ("2^32-1 frames", index_of([frame], [chunk], (2**32 - 1, 1)), "damaged"),
        ("2^32-1 chunks", index_of([frame], [chunk], (1, 2**32 - 1)), "damaged"),
        ("one frame more", index_of([frame], [chunk], (2, 1)), "damaged"),
        ("one chunk more", index_of([frame], [chunk], (1, 2)), "damaged"),
        ("bytes between", index_of([frame], [chunk], tail=b"\0"), "damaged"),
        ("frame of no bytes", index_of([(0, 6, 1, codec.ZSTD)], [chunk]), "frame"),
        ("frame of nothing", index_of([(6, 0, 1, codec.RAW)], [chunk]), "frame"),
        ("frame that grew", index_of([(7, 6, 1, codec.ZSTD)], [chunk]), "frame"),
        ("frame over 1 MiB", index_of([(6, big + 1, 1, codec.ZSTD)], [(digest, big + 1)]), "frame"),
        ("raw frame that shrank", index_of([(5, 6, 1, codec.RAW)], [chunk]), "frame"),
        ("frame without chunks", index_of([(6, 6, 0, codec.RAW)], []), "frame"),
        ("frame with 2^32-1 chunks", index_of([(6, 6, 2**32 - 1, 0)], [chunk]), "frame"),
        ("chunk in no frame", index_of([frame], [chunk, chunk]), "no frame"),
        ("chunk of no length", index_of([(6, 6, 2, 0)], [chunk, (digest, 0)]), "no length"),
        ("chunk beyond its frame", index_of([frame], [(digest, 7)]), "fill"),
        ("chunks short of a frame", index_of([frame], [(digest, 5)]), "fill"),
        ("chunk of 2^32-1", index_of([frame], [(digest, 2**32 - 1)]), "fill"),
    ]
    for name, data, says in cases:
        yield name, data, "Corrupt", says
    yield "codec 3", index_of([(6, 6, 1, 3)], [chunk]), "Unsupported", "codec"
    yield "padding not zero", index_of([(6, 6, 1, 0x100)], [chunk]), "Unsupported", "codec"
    version_2 = struct.pack("<8sIII", b"IMGSINDX", 2, 0, 0)
    yield "version 2", version_2 + digests.index_digest(version_2), "Unsupported", "version 2"
    yield "only a header", struct.pack("<8sIII", b"IMGSINDX", 1, 0, 0), "Corrupt", "short"


def hostile_settings() -> Iterator[Case]:
    """Settings that are not."""
    good = json.loads(Settings(STORE_ID, Parameters(8192, 32768, 131072), "auto").encode())

    def made(**changes: Any) -> bytes:
        return json.dumps(good | changes).encode()

    def cut(**changes: Any) -> bytes:
        return made(chunker=good["chunker"] | changes)

    yield "empty", b"", "Corrupt", "settings"
    yield "not JSON", b"hello", "Corrupt", "settings"
    yield "not UTF-8", b'{"imgstore": "\xff"}', "Corrupt", "settings"
    yield "a list", b"[1]", "Corrupt", "settings"
    yield "nothing in it", b"{}", "Corrupt", "settings"
    yield "deep", b"[" * 60_000, "Corrupt", "settings"
    yield "a number of 5000 digits", b'{"imgstore": ' + b"1" * 5000 + b"}", "Corrupt", "settings"
    yield "format 2", made(imgstore=2), "Unsupported", "store format 2"
    yield "format as text", made(imgstore="1"), "Unsupported", "store format"
    yield "id of 15 bytes", made(id="00" * 15), "Corrupt", "store id"
    yield "id that is not hex", made(id="zz" * 16), "Corrupt", "settings"
    yield "id as number", made(id=5), "Corrupt", "settings"
    yield "chunker as text", made(chunker="fastcdc"), "Corrupt", "settings"
    yield "another chunker", cut(algorithm="rabin"), "Unsupported", "chunker"
    yield "minimum as text", cut(min="8192"), "Corrupt", "numbers"
    yield "minimum as true", cut(min=True), "Corrupt", "numbers"
    yield "average as float", cut(avg=32768.0), "Corrupt", "numbers"
    yield "minimum 0", cut(min=0), "Unsupported", "parameters"
    yield "minimum over average", cut(min=65536), "Unsupported", "parameters"
    yield "average not a power of two", cut(avg=32769), "Unsupported", "parameters"
    yield "maximum over 512 KiB", cut(max=524289), "Unsupported", "parameters"
    yield "compression unknown", made(compression="bzip2"), "Corrupt", "settings"
    yield "compression zstd:0", made(compression="zstd:0"), "Corrupt", "settings"
    yield "compression zstd:20", made(compression="zstd:20"), "Corrupt", "settings"
    yield "compression as list", made(compression=["auto"]), "Corrupt", "settings"
    yield "nothing of refs", made(refs=None), "Corrupt", "settings"
    yield "signed as number", made(refs={"signed": 1, "lifetime": 0}), "Corrupt", "signed"
    yield "lifetime -1", made(refs={"signed": True, "lifetime": -1}), "Corrupt", "believed"
    yield (
        "lifetime of 10^12",
        made(refs={"signed": True, "lifetime": 10**12}),
        "Corrupt",
        "believed",
    )
    yield "lifetime as text", made(refs={"signed": True, "lifetime": "7"}), "Corrupt", "signed"


def hostile_cases() -> dict[str, Any]:
    """All cases, grouped by the reader they are meant for."""
    groups = {
        "record": hostile_records(),
        "leaf": hostile_entries(),
        "node": hostile_nodes(),
        "list_node": hostile_list_nodes(),
        "version": hostile_versions(),
        "ref": hostile_refs(),
        "root": hostile_roots(),
        "key": hostile_keys(),
        "locate": hostile_locates(),
        "index": hostile_indexes(),
        "settings": hostile_settings(),
    }
    found: dict[str, Any] = {}
    for group, cases in groups.items():
        found[group] = {}
        for name, data, error, says in cases:
            assert name not in found[group], name
            found[group][name] = {"error": error, "says": says, "data": squeeze(data)}
    return found


def squeeze(data: bytes) -> Any:
    """Bytes as hex; long ones as a list of hex and, where they repeat, [hex, times]."""
    if len(data) < 4096:
        return data.hex()
    parts: list[Any] = []
    start = 0
    while start < len(data):
        for width in (1, 2, 5, 40):
            unit = data[start : start + width]
            times = 1
            while data[start + times * width : start + (times + 1) * width] == unit:
                times += 1
            if times * width > 100:
                parts.append([unit.hex(), times])
                start += times * width
                break
        else:
            if parts and isinstance(parts[-1], str):
                parts[-1] += data[start : start + 1].hex()
            else:
                parts.append(data[start : start + 1].hex())
            start += 1
    return parts

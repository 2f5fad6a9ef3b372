#!/usr/bin/env python3
"""Write the golden files: one example of every format, and what it must be read as.

    PYTHONPATH=. python tests/golden/generate.py [--check]

Run it when a format gets a new version or a new example is wanted, never to make a red test green:
stores that people have keep their bytes. `--check` writes nothing and exits 1 when a file on disk
is not what would be written. The result depends on nothing but this file, `chunkstore.objects` and
`chunkstore.trust`; the two compressed frames were made once (by lz4 1.9.4 and zstd 1.5.7, level 19)
and are kept here, because other releases of those libraries compress the same bytes to different
ones.

    store/           a whole store of format 1 with the one version `example:latest`
    leaf.bin         the manifest of that version, which is a single leaf
    list-node.bin    the node of the chunk list of its file `var/big`
    inner.bin        a manifest node of level 1: the root over 400 files
    tiny-leaf.bin    a manifest of two entries; `docs/format.md` takes it apart byte by byte
    tiny.idx         the same for an index
    delta.pack       a delta pack of one frame, whose base is the content of `etc/lines`
    deltas.bin       the hint that names it
    open.key         the secret root key of the store; `sealed.key` the same with a passphrase,
                     `open.key.pub` its public part
    expected.json    what all of these say; digests of larger trees and lists
    hostile.json     what no honest writer makes, with the error each must end in
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
from hostile import hostile_cases

from chunkstore.objects import chunklist, codec, deltapack, manifest, pack, torrent
from chunkstore.objects import digest as digests
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.documents import (
    PackUse,
    Ref,
    Settings,
    Tag,
    Version,
    encode_locate,
    encode_ref,
)
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    SYMLINK,
    Entry,
)
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.pack import Frame
from chunkstore.trust import keyfile
from chunkstore.trust.keys import Role, from_secret
from chunkstore.trust.refs import sign_ref
from chunkstore.trust.root import Root, role, sign_root

HERE = Path(__file__).resolve().parent

FOX = b"The quick brown fox jumps over the lazy dog.\n" * 20
FOX_LZ4 = bytes.fromhex(
    "ff1e54686520717569636b2062726f776e20666f78206a756d7073206f76657220746865206c617a7920646f672e"
    "0a2d00ffffff4250646f672e0a"
)
LINES = b"".join(b"line %d of a file that compresses\n" % number for number in range(60))
LINES_ZSTD = bytes.fromhex(
    "28b52ffd60ee068d030002061210a03df8f8e9df0100d8dd99190a7e4ec1850cf1debce10b19e2bd79831732c47b"
    "f3862e6488f7e60d5cc810efcdbb850cf1debc4022295184ed1d9d464d456c25359a9e06456eb13ca811c0bbff67"
    "f035d6112404ffaf108ce30fcb1ad49e56a8bd2912e4940ccb142208016415"
)
# The same, edited, as a frame over what it was.
EDITED = LINES.replace(b"line 30 ", b"line thirty ") + b"one more line\n"
EDITED_DELTA = bytes.fromhex(
    "28b52ffd600007250100a86c7468697274796f6e65206d6f7265206c696e650a0300dfebcf15482aa9f9f157f90a"
)
HELLO = b"hello\n"
WORLD = b"world\n"

SECOND = 1_000_000_000
TIME = 1_795_000_000 * SECOND
STORE_ID = bytes(range(16))
ROOT_SECRET, ONLINE_SECRET = b"r" * 32, b"o" * 32
PASSPHRASE = "correct horse"

# POSIX ACL of the kernel's form: version 2, then (tag, permissions, id) of the owner, user 1000,
# the group, the mask and others.
ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(0x01, 7, 0xFFFFFFFF),
    *(0x02, 5, 1000),
    *(0x04, 5, 0xFFFFFFFF),
    *(0x10, 5, 0xFFFFFFFF),
    *(0x20, 5, 0xFFFFFFFF),
)
# File capabilities, revision 2, effective: cap_net_raw is permitted.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
IMMUTABLE = 0x10


def plain(value: Any) -> Any:
    """A value as JSON can hold it: bytes as `text:` where they are, else as `hex:`."""
    if isinstance(value, bytes):
        text = value.decode("ascii", "replace")
        return f"text:{text}" if value and text.isprintable() else f"hex:{value.hex()}"
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def inline(*records: tuple[bytes, int]) -> bytes:
    """A chunk list that fits into an entry."""
    return b"".join(chunklist.RECORD.pack(*record) for record in records)


def whole(data: bytes) -> bytes:
    """The chunk list of a file that is one chunk."""
    return inline((digests.chunk_digest(data), len(data)))


class Nodes:
    """Keeps the nodes it is given in memory."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}

    def save(self, data: bytes) -> bytes:
        digest = digests.chunk_digest(data)
        self.stored[digest] = data
        return digest


def big_list() -> Iterator[tuple[bytes, int]]:
    """The chunks of `var/big`: more than an entry holds, and a hole at the end."""
    for _ in range(70):
        yield digests.chunk_digest(HELLO), len(HELLO)
        yield digests.chunk_digest(WORLD), len(WORLD)
    yield digests.HOLE, 1 << 20


def example_entries(nodes: Nodes) -> list[Entry]:
    """A small tree that has one of everything."""
    writer = chunklist.ListWriter(nodes.save)
    size = 0
    for digest, length in big_list():
        writer.add(digest, length)
        size += length
    big, depth = writer.finish()
    hole = inline((digests.chunk_digest(HELLO), 6), (digests.HOLE, 4090))
    ping = ((b"security.capability", CAPABILITY),)
    acl = ((b"system.posix_acl_access", ACL), (b"user.note", b""))
    return [
        Entry(b"", DIRECTORY, 0o755, 0, 0, TIME),
        Entry(b"bin", SYMLINK, 0o777, 0, 0, TIME, content=b"usr/bin"),
        Entry(b"dev", DIRECTORY, 0o755, 0, 0, TIME),
        Entry(b"dev/initctl", FIFO, 0o600, 0, 0, TIME),
        Entry(b"dev/null", CHARACTER, 0o666, 0, 0, TIME, content=DEVICE.pack(1, 3)),
        Entry(b"dev/sda", BLOCK, 0o660, 0, 6, TIME, content=DEVICE.pack(8, 0)),
        Entry(b"etc", DIRECTORY, 0o755, 0, 0, TIME, xattrs=acl),
        Entry(b"etc/empty", FILE, 0o644, 0, 0, 0),
        Entry(b"etc/hostname", FILE, 0o644, 0, 0, TIME + 1, len(HELLO), whole(HELLO)),
        Entry(b"etc/lines", FILE, 0o640, 0, 4, TIME, len(LINES), whole(LINES), flags=IMMUTABLE),
        # A byte order that plain comparison of paths would get wrong: '-' sorts below '/'.
        Entry(b"etc-old", DIRECTORY, 0o700, 1000, 2**32 - 2, -5 * SECOND),
        Entry(b"nam\xe9 \n", FILE, 0o644, 0, 0, TIME, len(FOX), whole(FOX)),
        Entry(b"usr", DIRECTORY, 0o755, 0, 0, TIME),
        Entry(b"usr/bin", DIRECTORY, 0o755, 0, 0, TIME),
        Entry(b"usr/bin/ping", FILE, 0o4755, 0, 0, TIME, len(FOX), whole(FOX), 0, ping),
        Entry(
            *(b"usr/bin/ping4", FILE, 0o4755, 0, 0, TIME, len(FOX), whole(FOX), 0, ping),
            link=b"usr/bin/ping",
        ),
        Entry(b"var", DIRECTORY, 0o1777, 0, 0, 2**63),
        Entry(b"var/big", FILE, 0o644, 0, 0, TIME, size, big, depth),
        Entry(b"var/sparse", FILE, 0o644, 0, 0, TIME, 4096, hole),
    ]


def tiny_entries() -> list[Entry]:
    """Two entries to take apart by hand."""
    return [
        Entry(b"", DIRECTORY, 0o755, 0, 0, 0),
        Entry(b"hi", FILE, 0o644, 0, 0, SECOND, len(HELLO), whole(HELLO)),
    ]


def many_entries(count: int) -> Iterator[Entry]:
    """A root and `count` files in it."""
    yield Entry(b"", DIRECTORY, 0o755, 0, 0, TIME)
    for number in range(count):
        data = b"file %d\n" % number
        path = b"%05d" % number
        yield Entry(path, FILE, 0o644, 0, 0, TIME + number, len(data), whole(data))


def many_records(count: int) -> Iterator[tuple[bytes, int]]:
    """A chunk list of `count` records, every 50th a hole."""
    for number in range(count):
        if number % 50 == 49:
            yield digests.HOLE, 1 << 20
        else:
            yield digests.chunk_digest(b"chunk %d" % number), 1000 + number


def lay_pack(content: list[tuple[int, bytes, list[bytes]]]) -> tuple[bytes, bytes]:
    """A pack and its index, of frames (codec, stored bytes, chunks)."""
    offset = pack.HEADER.size
    frames = []
    records = b""
    for method, stored, chunks in content:
        raw = sum(map(len, chunks))
        frames.append(Frame(offset, len(stored), raw, len(chunks), method))
        records += b"".join(pack.CHUNK.pack(digests.chunk_digest(c), len(c)) for c in chunks)
        offset += len(stored)
    index = pack.encode_index(frames, records)
    body = pack.encode_header() + b"".join(stored for _, stored, _ in content)
    return body + index + pack.encode_footer(index), index


def lay_delta_pack() -> bytes:
    """A delta pack of one frame."""
    chunk = pack.CHUNK.pack(digests.chunk_digest(EDITED), len(EDITED))
    base = pack.CHUNK.pack(digests.chunk_digest(LINES), len(LINES))
    offset = pack.HEADER.size
    frame = deltapack.DeltaFrame(offset, len(EDITED_DELTA), len(EDITED), chunk, base)
    index = deltapack.encode_index([frame])
    return deltapack.encode_header() + EDITED_DELTA + index + deltapack.encode_footer(index)


def plain_pack(packed: bytes, content: list[tuple[int, bytes, list[bytes]]]) -> dict[str, Any]:
    """What a pack must be read as, from what went into it."""
    places = []
    frames = []
    offset = pack.HEADER.size
    for number, (method, stored, chunks) in enumerate(content):
        frames.append([offset, len(stored), sum(map(len, chunks)), len(chunks), method])
        offset += len(stored)
        start = 0
        for chunk in chunks:
            places.append([plain(digests.chunk_digest(chunk)), number, start, len(chunk)])
            start += len(chunk)
    return {"size": len(packed), "frames": frames, "places": places}


def plain_root(root: Root) -> dict[str, Any]:
    """A root document as JSON can hold it."""

    def keys(of: Role) -> dict[str, Any]:
        found = [{"id": plain(key.id), **plain(key)} for key in of.keys]
        return {"threshold": of.threshold, "keys": found}

    return {**plain(root), "roots": keys(root.roots), "refs": keys(root.refs)}


def good_files() -> dict[str, bytes]:
    """All golden files but `hostile.json`, by name."""
    nodes = Nodes()
    entries = example_entries(nodes)
    (list_node,) = nodes.stored.values()
    root = manifest.build(entries, nodes.save)
    leaf = nodes.stored[root.digest]

    content = [
        (codec.RAW, HELLO + WORLD, [HELLO, WORLD]),
        (codec.LZ4, FOX_LZ4, [FOX]),
        (codec.ZSTD, LINES_ZSTD, [LINES]),
        (codec.RAW, list_node + leaf, [list_node, leaf]),
    ]
    packed, index = lay_pack(content)
    hasher = digests.pack_hasher()
    hasher.update(packed)
    pack_id = hasher.digest()

    swarm = torrent.make(pack_id, len(packed), [packed])
    settings = Settings(STORE_ID, Parameters(8192, 32768, 131072), "auto")
    version = Version(root, b"", TIME, "the first\nof many: ä")
    version_data = version.encode()
    version_id = digests.version_digest(version_data)
    tag = Tag("base", version_id, len(version_data))
    ref = Ref(STORE_ID, "example", 1, 2, TIME, 0, (tag, tag._replace(name="latest")))
    root_key, online_key = from_secret(ROOT_SECRET), from_secret(ONLINE_SECRET)
    root_document = sign_root(
        Root(STORE_ID, 1, TIME, 0, roots=role([root_key.key]), refs=role([online_key.key])),
        [root_key],
    )
    uses = [PackUse(pack_id, len(packed), len(index))]

    tiny_nodes = Nodes()
    tiny_root = manifest.build(tiny_entries(), tiny_nodes.save)
    tiny_leaf = tiny_nodes.stored[tiny_root.digest]
    _, tiny_index = lay_pack([(codec.RAW, HELLO + tiny_leaf, [HELLO, tiny_leaf])])

    inner_nodes = Nodes()
    inner_root = manifest.build(many_entries(400), inner_nodes.save)
    inner = inner_nodes.stored[inner_root.digest]
    _, inner_level, inner_refs = msgpack.unpackb(inner, use_list=False, raw=False)

    delta_packed = lay_delta_pack()
    delta_hasher = digests.delta_pack_hasher()
    delta_hasher.update(delta_packed)
    index_size = deltapack.INDEX_HEADER.size + deltapack.FRAME.size + 2 * pack.CHUNK.size + 32
    delta_use = PackUse(delta_hasher.digest(), len(delta_packed), index_size)

    pack_name, version_name = pack_id.hex(), version_id.hex()
    files = {
        "store/store.json": settings.encode(),
        "store/images/example/ref": encode_ref(sign_ref(ref, [online_key])),
        "store/roots/1": root_document.encode(),
        "open.key": keyfile.encode_secret(root_key),
        "open.key.pub": keyfile.encode_public(root_key.key).encode(),
        "sealed.key": keyfile.encode_secret(
            root_key, passphrase=PASSPHRASE.encode(), salt=bytes(range(16))
        ),
        f"store/versions/{version_name}": version_data,
        f"store/locate/{version_name}": encode_locate(version_id, uses),
        f"store/packs/{pack_name}.pack": packed,
        f"store/packs/{pack_name}.idx": index,
        f"store/packs/{pack_name}.torrent": swarm.encode(),
        "leaf.bin": leaf,
        "list-node.bin": list_node,
        "inner.bin": inner,
        "tiny-leaf.bin": tiny_leaf,
        "tiny.idx": tiny_index,
        "delta.pack": delta_packed,
        "deltas.bin": deltapack.encode_deltas(version_id, [delta_use]),
    }
    expected = {
        "store_id": plain(STORE_ID),
        "chunker": plain(settings.chunker),
        "compression": settings.compression,
        "version": {"id": version_name, **plain(version)},
        "ref": plain(ref),
        "root": plain_root(root_document.root),
        "keys": {
            "secret": plain(root_key.secret),
            "passphrase": PASSPHRASE,
            "id": plain(root_key.key.id),
        },
        "locate": plain(uses),
        "pack": {"id": pack_name, **plain_pack(packed, content)},
        "torrent": {"info_hash": swarm.info_hash.hex(), **plain(swarm)},
        "leaf": {"ref": plain(root), "level": 0, "records": plain(entries)},
        "list_node": {"level": 0, "records": plain(list(big_list()))},
        "inner": {
            "ref": plain(inner_root),
            "level": inner_level,
            "records": [plain(NodeRef(*item)) for item in inner_refs],
        },
        "tiny_leaf": {"ref": plain(tiny_root), "level": 0, "records": plain(tiny_entries())},
        "shapes": shapes(),
        "delta": {
            "use": plain(delta_use),
            "base": plain(digests.chunk_digest(LINES)),
            "chunk": plain(digests.chunk_digest(EDITED)),
            "size": len(EDITED),
        },
    }
    files["expected.json"] = to_json(expected)
    return files


def shapes() -> dict[str, Any]:
    """What larger trees and lists come to: these hold the cut rules."""
    found: dict[str, Any] = {}
    for count in (1, 100, 20_000):
        nodes = Nodes()
        root = manifest.build(many_entries(count), nodes.save)
        found[f"manifest of {count} files"] = {"nodes": len(nodes.stored), "root": plain(root)}
    for count in (128, 129, 640, 641, 50_000):
        nodes = Nodes()
        writer = chunklist.ListWriter(nodes.save)
        for digest, length in many_records(count):
            writer.add(digest, length)
        content, depth = writer.finish()
        found[f"list of {count} records"] = {
            "nodes": len(nodes.stored),
            "depth": depth,
            "content": plain(digests.chunk_digest(content)),
        }
    return found


def to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=True).encode() + b"\n"


def all_files() -> dict[str, bytes]:
    """Every file this program writes, by its name below this directory."""
    return good_files() | {"hostile.json": to_json(hostile_cases())}


def main(arguments: list[str]) -> int:
    files = all_files()
    if arguments == ["--check"]:
        wrong = [
            name
            for name, data in files.items()
            if not (HERE / name).exists() or (HERE / name).read_bytes() != data
        ]
        for name in wrong:
            print(f"differs: {name}")  # noqa: T201
        return 1 if wrong else 0
    if arguments:
        print(__doc__)  # noqa: T201
        return 2
    for name, data in files.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

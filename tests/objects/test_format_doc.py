"""`docs/format.md` says what the code does: its dumps, tables and numbers are held against both."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from blake3 import blake3

from chunkstore.objects import (
    chunklist,
    codec,
    deltapack,
    digest,
    documents,
    entry,
    envelope,
    manifest,
    names,
    pack,
    torrent,
)
from chunkstore.objects.chunker import ALGORITHM, Parameters, cut
from chunkstore.trust import keyfile, keys, root
from chunkstore.worktree import metadata

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "format.md").read_text()


def section(title: str) -> str:
    """The text below a heading."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, less their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [
        row
        for row, after in zip(cells, [*cells[1:], [""]], strict=True)
        if not row[0].startswith("--") and not after[0].startswith("--")
    ]


def dumped(name: str) -> bytes:
    """The bytes of a dump in the text."""
    block = TEXT.split(f"<!-- file: {name} -->\n```\n")[1].split("```")[0]
    lines = [re.split(r" {2,}", line, maxsplit=1) for line in block.splitlines()]
    return bytes.fromhex("".join(rest[0].split("|")[0] for _, *rest in lines if rest))


@pytest.mark.parametrize("name", re.findall(r"<!-- file: (\S+) -->", TEXT))
def test_dumps_are_the_files(name):
    assert dumped(name) == (ROOT / name).read_bytes()


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Example: a manifest leaf", "tests/golden/tiny-leaf.bin"),
        ("Example: an index", "tests/golden/tiny.idx"),
    ],
)
def test_examples_are_taken_apart_rightly(title, name):
    data = (ROOT / name).read_bytes()
    taken = rows(section(title))
    assert taken[0][0] == "00"
    starts = [int(row[0], 16) for row in taken]
    for (_, shown, _), start, stop in zip(taken, starts, [*starts[1:], len(data)], strict=True):
        found = data[start:stop].hex()
        first, _, last = re.sub(r"[` ]", "", shown).partition("…")
        assert found.startswith(first)
        assert found.endswith(last) if last else found == first


LIMITS = {
    "component of a path": names.MAX_COMPONENT,
    "path, symlink target": names.MAX_PATH,
    "name of an image or tag": 128,
    "`store.json`": documents.MAX_SETTINGS,
    "version record": documents.MAX_VERSION,
    "message": documents.MAX_MESSAGE,
    "ref": documents.MAX_REF,
    "root document": root.MAX_ROOT,
    "keys of a role": root.MAX_KEYS,
    "signatures of a document": envelope.MAX_SIGNATURES,
    "signature": envelope.MAX_SIGNATURE,
    "public part of a key": keys.MAX_PUBLIC,
    "secret key file": keyfile.MAX_KEY_FILE,
    "locate hint": documents.MAX_LOCATE,
    "smallest chunker minimum": 1024,
    "largest chunker maximum": 512 * 1024,
    "chunk, frame (raw)": codec.MAX_FRAME,
    "zstd window": codec.MAX_FRAME,
    "frames of a pack": pack.MAX_FRAMES,
    "chunks of a pack": pack.MAX_CHUNKS,
    "index": pack.MAX_INDEX,
    "torrent": torrent.MAX_TORRENT,
    "pack that has a torrent": torrent.MAX_PACK,
    "frames of a pack before the next is begun": pack.TARGET_BYTES,
    "bases of a frame, raw": deltapack.MAX_BASE,
    "frames of a delta pack": deltapack.MAX_FRAMES,
    "chunks of a delta pack, and bases": deltapack.MAX_RECORDS,
    "index of a delta pack": deltapack.MAX_INDEX,
    "delta packs of a version": deltapack.MAX_PACKS,
    "deltas": deltapack.MAX_DELTAS,
    "encoded entry": entry.MAX_ENTRY,
    "xattr name": entry.MAX_XATTR_NAME,
    "xattr value": entry.MAX_XATTR_VALUE,
    "records of a chunk list in an entry": chunklist.MAX_INLINE,
    "records of a list node, at least (but the last)": chunklist.MIN_NODE,
    "records of a list node, at most": chunklist.MAX_NODE,
    "levels of list nodes": entry.MAX_DEPTH,
    "manifest node: bytes of records before it may end": manifest.MIN_NODE,
    "manifest node: bytes of records at which it ends": manifest.MAX_NODE,
    "encoded manifest node": manifest.MAX_NODE_BYTES,
    "highest level of a manifest node": manifest.MAX_LEVEL,
}


def test_limits_are_those_of_the_code():
    assert {
        what: int(number.replace(",", "")) for what, number in rows(section("Limits"))
    } == LIMITS


def test_contexts_and_magics_are_those_of_the_code():
    checked = [digest.VERSION_CONTEXT, digest.PACK_CONTEXT]
    contexts = [*checked, digest.KEY_CONTEXT, digest.STATEMENT_CONTEXT, digest.INDEX_CONTEXT]
    contexts += [digest.DELTA_PACK_CONTEXT, digest.DELTA_INDEX_CONTEXT]
    assert re.findall(r"\| context `([^`]+)`", section("Digests")) == contexts
    for context in [*checked, *contexts[4:]]:
        assert f"--derive-key '{context}'" in section("Digests")
    magics = re.findall(r"`(IMGS[A-Z ]{4})`", TEXT)
    assert {magic.encode() for magic in magics} == {
        pack.PACK_MAGIC,
        pack.END_MAGIC,
        pack.INDEX_MAGIC,
        b"IMGSVERS",
        b"IMGSREF ",
        root.MAGIC,
        b"IMGSKEY ",
        b"IMGSLOCA",
        deltapack.PACK_MAGIC,
        deltapack.INDEX_MAGIC,
        b"IMGSDELT",
    }
    assert f"`{ALGORITHM}`" in section("Settings: `store.json`")


def test_the_flags_kept_are_those_of_the_code():
    assert f"the mask 0x{metadata.KEPT_FLAGS:08X}" in section("Entry")


def test_the_fields_of_an_entry_are_those_of_the_code():
    fields = ", ".join(entry.Entry._fields)
    assert f"    ({fields})\n" in section("Entry")
    listed = [name for row in rows(section("Entry")) for name in row[0].split(", ")]
    assert [name for name in listed if name in entry.Entry._fields] == list(entry.Entry._fields)
    assert f"    ({', '.join(manifest.NodeRef._fields)})\n" in section("Manifest")


def gear() -> list[int]:
    """The table in the appendix."""
    block = section("Appendix: the table of the chunker").split("```")[1]
    return [int(number, 16) for number in block.split()]


def cut_as_described(data: bytes, parameters: Parameters) -> list[int]:
    """The steps of the section "Chunk", to the letter."""
    minimum, average, maximum = parameters
    table = gear()
    bits = average.bit_length() - 1
    centre = max(0, average - minimum - (minimum + 1) // 2)
    lengths = []
    start = 0
    while start < len(data):
        limit = min(maximum, len(data) - start)
        length = limit
        value = 0
        for place in range(minimum, limit):
            value = (value // 2 + table[data[start + place]]) % 2**32
            zeros = bits + 1 if place < centre else bits - 1
            if value % 2**zeros == 0:
                length = place + 1
                break
        lengths.append(length)
        start += length
    return lengths


@pytest.mark.parametrize(
    "parameters",
    [(1024, 2048, 4096), (1024, 8192, 16384), (3000, 4096, 9999), (8192, 32768, 131072)],
)
def test_the_chunker_is_the_one_described(parameters):
    assert len(gear()) == 256
    source = random.Random(1)
    data = source.randbytes(150_000) + bytes(20_000) + b"text and text " * 3_000
    assert list(cut(data, Parameters(*parameters))) == cut_as_described(
        data, Parameters(*parameters)
    )


def test_the_digests_of_the_examples_are_right():
    leaf = (ROOT / "tests/golden/tiny-leaf.bin").read_bytes()
    index = (ROOT / "tests/golden/tiny.idx").read_bytes()
    hello = blake3(b"hello\n").digest()
    assert leaf[0x29:0x49] == index[0x24:0x44] == hello
    assert index[0x48:0x68] == blake3(leaf).digest()
    assert index[0x6C:] == blake3(index[:0x6C], derive_key_context=digest.INDEX_CONTEXT).digest()
    assert len(leaf) == 86
    assert 16 + 92 + len(index) + 16 == 264

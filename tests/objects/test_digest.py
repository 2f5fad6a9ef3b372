"""Digests against the official BLAKE3 vectors and against `b3sum`, an independent program."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from blake3 import blake3

from chunkstore.errors import Corrupt
from chunkstore.objects import digest

# From test_vectors.json of the BLAKE3 reference implementation; input byte n is n mod 251.
CONTEXT = "BLAKE3 2019-12-27 16:29:52 test vectors context"
VECTORS = [
    (
        0,
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    ),
    (
        1,
        "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
    ),
    (
        1023,
        "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
        "74a16c1c3d44368a86e1ca6df64be6a2f64cce8f09220787450722d85725dea5",
    ),
    (
        1025,
        "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
        "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb",
    ),
    (
        4097,
        "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995",
        "aca51029626b55fda7117b42a7c211f8c6e9ba4fe5b7a8ca922f34299500ead8",
    ),
]


def data_of(length: int) -> bytes:
    return bytes(number % 251 for number in range(length))


@pytest.mark.parametrize(("length", "plain", "_derived"), VECTORS)
def test_chunk_digest_is_plain_blake3(length, plain, _derived):
    assert digest.chunk_digest(data_of(length)).hex() == plain
    assert digest.chunk_digest(memoryview(bytearray(data_of(length)))).hex() == plain


@pytest.mark.parametrize(("length", "_plain", "derived"), VECTORS)
def test_key_derivation_is_blake3s(length, _plain, derived):
    assert blake3(data_of(length), derive_key_context=CONTEXT).hexdigest() == derived


def b3sum(data: bytes, *arguments: str) -> str:
    program = shutil.which("b3sum")
    if program is None:
        pytest.skip("b3sum is not installed")
    run = subprocess.run([program, *arguments], input=data, capture_output=True, check=True)
    return run.stdout.decode().split()[0]


@pytest.mark.parametrize("length", [0, 1, 64, 1024, 1025, 70_000, 3_000_000])
def test_b3sum_agrees(length):
    data = data_of(length)
    hasher = digest.pack_hasher()
    for start in range(0, length, 50_000):
        hasher.update(data[start : start + 50_000])
    assert digest.chunk_digest(data).hex() == b3sum(data)
    assert digest.version_digest(data).hex() == b3sum(
        data, "--derive-key", "imgstore 2026-11 version"
    )
    assert digest.index_digest(data).hex() == b3sum(data, "--derive-key", "imgstore 2026-11 index")
    assert hasher.digest().hex() == b3sum(data, "--derive-key", "imgstore 2026-11 pack")


def test_the_same_bytes_have_a_different_name_for_each_purpose():
    data = b"one and the same"
    hasher = digest.pack_hasher()
    hasher.update(data)
    found = {
        digest.chunk_digest(data),
        digest.version_digest(data),
        digest.index_digest(data),
        hasher.digest(),
    }
    assert len(found) == 4


def test_parse_hex():
    assert digest.parse_hex("00" * 31 + "af") == bytes(31) + b"\xaf"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 63,
        "0" * 65,
        "A" * 64,
        "0" * 63 + "g",
        "0x" + "0" * 62,
        "0" * 30 + "  " * 17,
        "0" * 31 + "zz" + "0" * 31,
        "0" * 63 + "\n",
        "\u0660" * 64,
    ],
)
def test_parse_hex_refuses(text):
    with pytest.raises(Corrupt):
        digest.parse_hex(text)

"""Keys: which are refused, what a signature is over, how they are kept in files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.falsified import make_agent

from chunkstore.errors import Conflict, Corrupt, LocalError, NotFound, Untrusted, Usage
from chunkstore.objects.envelope import Signature, signed_bytes
from chunkstore.storage.agent import Agent
from chunkstore.storage.keyring import Keyring, read_secret, write_secret
from chunkstore.trust import keyfile, keys
from chunkstore.trust.keys import PublicKey, SecretKey, check_key, from_secret, is_signed
from chunkstore.trust.root import role

PAIR = from_secret(b"p" * 32)
P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P


def sum_of(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    """The sum of two points of the curve, by the formula of RFC 8032."""
    (x1, y1), (x2, y2) = one, two
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, P - 2, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, P - 2, P)
    return x % P, y % P


def point(data: bytes) -> tuple[int, int] | None:
    """The point that 32 bytes stand for, whether in canonical form or not; None if none."""
    number = int.from_bytes(data, "little")
    y, sign = (number & (2**255 - 1)) % P, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (P - x if x % 2 != sign else x), y


def has_small_order(data: bytes) -> bool:
    """By arithmetic: eight times the point is the neutral element."""
    found = point(data)
    assert found is not None
    for _ in range(3):
        found = sum_of(found, found)
    return found == (0, 1)


def encodings_of_small_order() -> list[bytes]:
    """All encodings there are, canonical or not, of the eight points."""
    eighth = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
    values = [0, 1, P - 1, eighth, P - eighth, P, P + 1]
    return [(y | sign << 255).to_bytes(32, "little") for y in values for sign in (0, 1)]


@pytest.mark.parametrize("data", encodings_of_small_order(), ids=bytes.hex)
def test_keys_of_small_order_are_refused(data: bytes) -> None:
    assert has_small_order(data)
    with pytest.raises(Untrusted, match="small order|canonical"):
        check_key(PublicKey("ed25519", data))
    with pytest.raises(Untrusted):
        is_signed(PublicKey("ed25519", data), b"anything", b"\1" + bytes(63))


def test_openssl_takes_what_is_refused_here() -> None:
    """Why there is a list: the library that does the arithmetic does not look."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    neutral = b"\1" + bytes(31)
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"whatever it says")


@given(st.binary(min_size=32, max_size=32))
def test_honest_keys_are_taken(secret: bytes) -> None:
    pair = from_secret(secret)
    assert check_key(pair.key) == pair.key
    assert not has_small_order(pair.key.public)
    assert is_signed(pair.key, b"message", pair.sign(b"message"))
    assert not is_signed(pair.key, b"massage", pair.sign(b"message"))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (PublicKey("ed448", bytes(57)), "unknown algorithm"),
        (PublicKey("ed25519", bytes(31)), "no Ed25519 key"),
        (PublicKey("ed25519", (P + 5).to_bytes(32, "little")), "canonical"),
        (PublicKey("ed25519", b"\xff" * 32), "canonical"),
    ],
)
def test_other_keys_are_refused(key: PublicKey, says: str) -> None:
    with pytest.raises(Untrusted, match=says):
        check_key(key)
    with pytest.raises(Untrusted, match=says):
        is_signed(key, b"message", bytes(64))


def test_what_is_signed_is_what_dsse_says() -> None:
    """The example of its specification."""
    assert (
        signed_bytes("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.text(max_size=20), st.binary(max_size=20), st.text(max_size=20), st.binary(max_size=20))
def test_two_documents_never_sign_the_same_bytes(
    kind: str, payload: bytes, other: str, another: bytes
) -> None:
    kind, other = (text.encode("ascii", "ignore").decode() for text in (kind, other))
    same = (kind, payload) == (other, another)
    assert (signed_bytes(kind, payload) == signed_bytes(other, another)) == same


class Liar(SecretKey):
    """Signs with another key than it says."""

    def sign(self, message: bytes) -> bytes:
        return from_secret(b"x" * 32).sign(message)


def test_a_signer_that_signs_with_another_key_is_found_out() -> None:
    with pytest.raises(Untrusted, match="did not"):
        keys.sign("kind", b"payload", [Liar(*PAIR)])


def test_signatures_of_strangers_are_not_even_looked_at() -> None:
    envelope = keys.sign("kind", b"payload", [PAIR])
    junk = Signature(bytes(32), b"x")
    envelope = envelope._replace(signatures=(junk, *envelope.signatures))
    role([PAIR.key]).check("kind", envelope, "it")
    with pytest.raises(Untrusted, match="bad signature"):
        role([PAIR.key]).check("another kind", envelope, "it")


def test_a_secret_is_not_shown() -> None:
    assert "p" * 32 not in repr(PAIR)
    assert PAIR.secret.hex() not in repr([PAIR])
    assert PAIR.key.fingerprint in repr(PAIR)


# Files


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_file_is_ours_alone(tmp_path: Path, passphrase: bytes | None) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        write_secret(str(path), PAIR, passphrase=passphrase)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = read_secret(str(path))
    assert file.needs_passphrase == (passphrase is not None)
    assert file.open(passphrase) == PAIR
    assert (PAIR.secret in path.read_bytes()) == (passphrase is None)
    with pytest.raises(Conflict):
        write_secret(str(path), PAIR)


def test_a_passphrase_is_needed_and_has_to_be_right(tmp_path: Path) -> None:
    write_secret(str(tmp_path / "key"), PAIR, passphrase=b"right")
    file = read_secret(str(tmp_path / "key"))
    with pytest.raises(Usage, match="needs its passphrase"):
        file.open()
    with pytest.raises(Untrusted, match="wrong passphrase"):
        file.open(b"wrong")
    with pytest.raises(Usage, match="empty"):
        write_secret(str(tmp_path / "other"), PAIR, passphrase=b"")


def test_two_files_of_one_key_have_nothing_in_common(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_secret(str(tmp_path / name), PAIR, passphrase=b"same")
    one, two = (read_secret(str(tmp_path / name)) for name in ("one", "two"))
    assert one.protection[-1] != two.protection[-1]
    assert one.secret != two.secret


def test_a_sealed_secret_is_bound_to_its_key(tmp_path: Path) -> None:
    """Else a file could be made to say it is another key."""
    data = keyfile.encode_secret(PAIR, passphrase=b"word", salt=bytes(16))
    other = from_secret(b"q" * 32).key.public
    file = keyfile.parse_secret(data.replace(PAIR.key.public, other), "file")
    with pytest.raises(Untrusted):
        file.open(b"word")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_secret(str(path), PAIR)
    path.chmod(mode)
    with pytest.raises(LocalError, match="chmod 600"):
        read_secret(str(path))


def test_what_is_no_file_is_no_key(tmp_path: Path) -> None:
    write_secret(str(tmp_path / "key"), PAIR)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo"):
        with pytest.raises(LocalError):
            read_secret(str(tmp_path / name))
    with pytest.raises(NotFound):
        read_secret(str(tmp_path / "nothing"))


def test_a_keyring(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    ring = Keyring(str(local))
    assert list(ring.files()) == []
    assert ring.find(PAIR.key.id) is None
    ring.keep(PAIR)
    assert stat.S_IMODE((local / "keys").stat().st_mode) == 0o700
    assert [file.key for file in ring.files()] == [PAIR.key]
    ring.drop(PAIR.key.id)
    ring.drop(PAIR.key.id)
    assert list(ring.files()) == []


@pytest.mark.parametrize("text", ["", "imgstore-key ed25519 12", "ssh-ed25519 AAAA", "\xff"])
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(Corrupt):
        keyfile.parse_public(text, "here")


def test_a_fingerprint_may_be_typed_in_groups() -> None:
    text = PAIR.key.fingerprint
    grouped = " ".join(text[start : start + 8] for start in range(0, 64, 8)).upper()
    assert keys.parse_fingerprint(grouped) == keys.parse_fingerprint(text) == PAIR.key.id
    for wrong in (text[:-1], text + "0", "g" * 64, ""):
        with pytest.raises(Usage):
            keys.parse_fingerprint(wrong)


def test_a_program_that_signs(tmp_path: Path) -> None:
    agent = Agent([str(make_agent(tmp_path, PAIR.secret))])
    assert agent.key == PAIR.key
    envelope = keys.sign("kind", b"payload", [agent])
    role([PAIR.key]).check("kind", envelope, "it")


@pytest.mark.parametrize(
    ("script", "says"),
    [("exit 3", "status 3"), ("exit 0", "failed"), ("head -c 9000 /dev/zero", "failed")],
)
def test_a_program_that_does_not(tmp_path: Path, script: str, says: str) -> None:
    path = tmp_path / "agent"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    with pytest.raises(LocalError, match=says):
        Agent([str(path)]).sign(b"message")
    with pytest.raises(LocalError, match="can't run"):
        Agent([str(tmp_path / "nothing")]).sign(b"message")

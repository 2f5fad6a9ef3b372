"""Each guard of trust taken out once: a test that is named here has to go red.

A copy of the project is changed and that test run in it. `make campaign` runs this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.campaign


class Guard(NamedTuple):
    """What stands in a file, what takes its place, and the test that must notice."""

    file: str
    old: str
    new: str
    test: str


ATTACKS = "tests/trust/attacks::test_"
KEYS, SIGNING, FUZZ = (f"tests/trust/test_{name}.py::test_" for name in ("keys", "signing", "fuzz"))
GUARDS = {
    # trust/keys.py
    "small order": Guard(
        "trust/keys.py", "if y in _SMALL_ORDER:", "if False:", f"{ATTACKS}a_key_of_small_order"
    ),
    "canonical": Guard(
        "trust/keys.py", "if y >= _PRIME:", "if False:", f"{KEYS}other_keys_are_refused"
    ),
    "algorithm": Guard(
        "trust/keys.py",
        "if key.algorithm != ED25519:",
        "if False:",
        f"{ATTACKS}a_key_of_an_unknown_algorithm",
    ),
    "signature": Guard(
        "trust/keys.py",
        "except (InvalidSignature, ValueError):\n        return False",
        "except (InvalidSignature, ValueError):\n        return True",
        f"{ATTACKS}a_ref_that_was_changed",
    ),
    "threshold": Guard(
        "trust/keys.py",
        "if valid >= self.threshold:",
        "if valid >= 1:",
        f"{ATTACKS}a_threshold_of_two",
    ),
    "keys of the role": Guard(
        "trust/keys.py",
        "if valid >= self.threshold:",
        "if valid >= self.threshold or envelope.signatures and not known:",
        f"{ATTACKS}a_ref_by_a_stranger",
    ),
    "no signature": Guard(
        "trust/keys.py",
        "if valid >= self.threshold:",
        "if valid >= self.threshold or not envelope.signatures:",
        f"{ATTACKS}a_ref_without_a_signature",
    ),
    "what was signed is checked": Guard(
        "trust/keys.py",
        "if not is_signed(signer.key, message, value):",
        "if False:",
        f"{KEYS}a_signer_that_signs_with_another_key_is_found_out",
    ),
    "secret in repr": Guard(
        "trust/keys.py",
        'return f"SecretKey({self.key.fingerprint})"',
        'return f"SecretKey({self.key.fingerprint}, {self.secret.hex()})"',
        f"{KEYS}a_secret_is_not_shown",
    ),
    "kind": Guard(
        "objects/envelope.py",
        "name = kind.encode()",
        'name = b"imgstore"',
        f"{ATTACKS}a_signature_for_another_kind_of_document",
    ),
    "encoding": Guard(
        "objects/envelope.py",
        'return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)',
        "return payload",
        f"{ATTACKS}a_signature_over_the_bare_payload",
    ),
    "nobody counts twice": Guard(
        "objects/envelope.py",
        "if keys != sorted(set(keys)):",
        "if False:",
        "tests/objects/test_hostile.py::test_hostile",
    ),
    # trust/root.py
    "its own threshold": Guard(
        "trust/root.py",
        "    signed.root.roots.check(ROOT_KIND, signed.envelope, signed.where)\n    return",
        "    return",
        f"{ATTACKS}a_next_root_that_does_not_vouch_for_itself",
    ),
    "the old threshold": Guard(
        "trust/root.py",
        "    old.roots.check(ROOT_KIND, signed.envelope, signed.where)\n",
        "",
        f"{ATTACKS}a_next_root_with_keys_of_its_own",
    ),
    "one step": Guard(
        "trust/root.py",
        "if new.version != old.version + 1:",
        "if new.version <= old.version:",
        f"{ATTACKS}a_root_that_is_left_out",
    ),
    "root of the store": Guard(
        "trust/root.py",
        "if new.store_id != old.store_id:",
        "if False:",
        f"{ATTACKS}a_root_of_another_store",
    ),
    "keys of a root": Guard(
        "trust/root.py",
        "        if key.algorithm == ED25519:\n            check_key(key)",
        "        pass",
        f"{ATTACKS}a_key_of_small_order",
    ),
    "a pinned key has signed": Guard(
        "trust/root.py",
        "    Role(len(keys), keys).check(ROOT_KIND, signed.envelope, signed.where)\n",
        "",
        f"{ATTACKS}a_pinned_key_that_is_only_named",
    ),
    "all pinned keys": Guard(
        "trust/root.py",
        "if len(keys) != len(wanted):",
        "if not keys:",
        f"{ATTACKS}pinning_another_key",
    ),
    # trust/refs.py
    "store": Guard(
        "trust/refs.py",
        "if ref.store_id != store_id:",
        "if False:",
        f"{ATTACKS}a_layer_of_another_store",
    ),
    "image": Guard(
        "trust/refs.py",
        "if ref.image != image:",
        "if False:",
        f"{ATTACKS}the_ref_of_another_image",
    ),
    "the newest root": Guard(
        "trust/refs.py",
        "if ref.root != root.version:",
        "if False:",
        f"{ATTACKS}what_was_signed_before_a_rotation_of_the_root_key_is_void",
    ),
    "signed by the role": Guard(
        "trust/refs.py",
        "    root.refs.check(REF_KIND, envelope, where)\n",
        "",
        f"{ATTACKS}a_ref_by_a_stranger",
    ),
    "lower": Guard(
        "trust/refs.py",
        "if place < (known.root, known.sequence):",
        "if False:",
        f"{ATTACKS}rollback_to_an_older_ref",
    ),
    "the root first": Guard(
        "trust/refs.py",
        "if place < (known.root, known.sequence):",
        "if place[1] < known.sequence:",
        f"{ATTACKS}recovery_from_a_sequence_pushed_to_its_end",
    ),
    "the same with another": Guard(
        "trust/refs.py",
        "and seen(ref, envelope) != known:",
        "and False:",
        f"{ATTACKS}two_statements_under_one_sequence_number",
    ),
    "expiry": Guard(
        "trust/refs.py",
        "if expires and max(clock, latest) >= expires:",
        "if False:",
        f"{ATTACKS}freeze_until_the_ref_has_expired",
    ),
    "expiry to the moment": Guard(
        "trust/refs.py",
        "if expires and max(clock, latest) >= expires:",
        "if expires and max(clock, latest) > expires:",
        f"{ATTACKS}freeze_until_the_ref_has_expired",
    ),
    "latest": Guard(
        "trust/refs.py",
        "if expires and max(clock, latest) >= expires:",
        "if expires and clock >= expires:",
        f"{ATTACKS}a_dead_clock_does_not_revive_what_has_expired",
    ),
    "never": Guard(
        "trust/refs.py",
        "if expires and max(clock, latest) >= expires:",
        "if max(clock, latest) >= expires:",
        f"{ATTACKS}without_expiry_nothing_expires",
    ),
    # trust/memory.py
    "known by its digest": Guard(
        "trust/memory.py",
        "if found != known or ref.root != self.root.version:",
        "if found != (known or found):",
        f"{ATTACKS}a_first_ref_by_a_stranger",
    ),
    "progress": Guard(
        "trust/memory.py",
        "        refs.check_progress(ref, envelope, known)\n",
        "",
        f"{ATTACKS}rollback_of_the_whole_store",
    ),
    "latest goes on": Guard(
        "trust/memory.py",
        "latest = max(self.latest, ref.time)",
        "latest = self.latest",
        f"{ATTACKS}a_dead_clock_does_not_revive_what_has_expired",
    ),
    "latest begins anew": Guard(
        "trust/memory.py",
        "return Memory(signed, root.time, self.images)",
        "return Memory(signed, max(root.time, self.latest), self.images)",
        f"{ATTACKS}recovery_from_a_time_far_ahead",
    ),
    "images are kept over a root": Guard(
        "trust/memory.py",
        "return Memory(signed, root.time, self.images)",
        "return Memory(signed, root.time, ())",
        f"{ATTACKS}refs_of_two_roots",
    ),
    "expiry of the root": Guard(
        "trust/memory.py",
        "        self.check_root_expiry(clock=clock, latest=latest)\n",
        "",
        f"{ATTACKS}freeze_until_the_root_has_expired",
    ),
    # trust/keyfile.py
    "scrypt is bounded": Guard(
        "trust/keyfile.py",
        "and 128 * 2**log_n * r * p <= _MOST_MEMORY",
        "",
        "tests/objects/test_hostile.py::test_hostile",
    ),
    "sealed to its key": Guard(
        "trust/keyfile.py",
        'return b"imgstore key file " + key.id',
        'return b"imgstore key file "',
        f"{KEYS}a_sealed_secret_is_bound_to_its_key",
    ),
    # storage/
    "on top of what was signed here": Guard(
        "storage/authority.py",
        "            refs.check_signature(ref, envelope, root)\n",
        "",
        f"{SIGNING}nothing_is_signed_on_top_of_what_was_put_there",
    ),
    "own root": Guard(
        "storage/authority.py",
        "        check_next(own, following)\n",
        "",
        f"{SIGNING}a_root_of_others_is_not_taken_for_an_interrupted_rotation",
    ),
    "mode of a key": Guard(
        "storage/keyring.py",
        "fsio.write_durably(path, data, mode=0o600)",
        "fsio.write_durably(path, data)",
        f"{KEYS}a_key_file_is_ours_alone",
    ),
    "open keys": Guard(
        "storage/keyring.py",
        "if status.st_mode & 0o077:",
        "if False:",
        f"{KEYS}a_key_that_others_can_reach_is_refused",
    ),
    "key through a link": Guard(
        "storage/keyring.py",
        "os.O_RDONLY | os.O_NOFOLLOW |",
        "os.O_RDONLY |",
        f"{KEYS}what_is_no_file_is_no_key",
    ),
    "pinning does not go back": Guard(
        "storage/believe.py",
        "if known is not None and newest.root.version < known.root.version:",
        "if False:",
        f"{ATTACKS}pinning_again_does_not_go_back",
    ),
    "unsigned is a choice": Guard(
        "pull/remote.py",
        "if memory is None and options.trust is Trust.UNSIGNED:",
        "if options.trust is Trust.UNSIGNED:",
        f"{ATTACKS}a_ref_as_of_a_store_that_signs_nothing",
    ),
    "first use is a choice": Guard(
        "pull/remote.py",
        "if memory is None and options.trust is Trust.FIRST:",
        "if memory is None:",
        f"{ATTACKS}a_node_that_trusts_nobody",
    ),
    "insecure is for unsigned": Guard(
        "storage/believe.py",
        "if ref.root or envelope.signatures:",
        "if False:",
        f"{ATTACKS}the_word_for_an_unsigned_store_is_none_for_a_signed_one",
    ),
    "a bad mirror is asked no more": Guard(
        "storage/backends/mirrors.py",
        "            refused.add(source.number)\n",
        "",
        "tests/trust/test_mirrors.py::test_a_place_that_is_wrong_too_often_comes_last",
    ),
    "another place for a ref": Guard(
        "storage/believe.py",
        "                if not repository.doubt_ref(image):\n                    raise",
        "                raise",
        "tests/trust/test_mirrors.py::test_a_ref_that_is_not_believed_is_asked_for_elsewhere",
    ),
    "another place for a pack": Guard(
        "storage/chunks.py",
        "                if not self._is_elsewhere(wanted):\n                    return loaded",
        "                return loaded",
        "tests/trust/test_mirrors.py::test_what_one_has_wrong_the_other_has_right",
    ),
    "token goes home": Guard(
        "storage/backends/http.py",
        "is_home = url.origin == self._base.origin and self._authorization",
        "is_home = self._authorization",
        "tests/storage/test_access.py::test_a_token_goes_home_only",
    ),
    "certificate goes home": Guard(
        "storage/backends/http_pool.py",
        "if origin == self._home:",
        "if True:",
        "tests/storage/test_access.py::test_a_certificate_is_shown_at_home_only",
    ),
    "mirrors are strangers": Guard(
        "storage/backends/__init__.py",
        'access._replace(token="", certificate="", key="")',
        "access",
        "tests/storage/test_access.py::test_a_mirror_is_not_told_who_we_are",
    ),
    "a token is asked for": Guard(
        "server/entry.py",
        "if not hmac.compare_digest(given, wanted):",
        "if False:",
        "tests/storage/test_access.py::test_a_token_lets_in",
    ),
    "a certificate is asked for": Guard(
        "server/entry.py",
        "context.verify_mode = ssl.CERT_REQUIRED",
        "context.verify_mode = ssl.CERT_OPTIONAL",
        "tests/storage/test_access.py::test_a_certificate_lets_in",
    ),
    "handshakes aside": Guard(
        "server/listening.py",
        "        task = asyncio.create_task(_connect(accepted, guard, factory, tls, patience))\n",
        "        await _connect(accepted, guard, factory, tls, patience)\n        continue\n",
        "tests/storage/test_access.py::test_a_slow_handshake_keeps_nobody_waiting",
    ),
    "memory goes over with an exchange": Guard(
        "pull/atomic.py",
        "            if context.state.memory is not None:",
        "            if False:",
        f"{ATTACKS}rollback_is_refused_after_going_back_here",
    ),
}


def located(test: str) -> str:
    """A test by its file: attacks lie in several."""
    folder, _, name = test.partition("::")
    if folder.endswith(".py"):
        return test
    files = (PROJECT / folder).glob("test_*.py")
    [file] = [file.name for file in files if f"def {name}(" in file.read_text()]
    return f"{folder}/{file}::{name}"


def run(place: Path, *tests: str) -> subprocess.CompletedProcess[bytes]:
    paths = os.pathsep.join(map(str, (place, place / "cli", place / "tests")))
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *map(located, tests),
        ],
        cwd=place,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("copy")
    for name in ("chunkstore", "cli", "tests"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, place / name, ignore=ignore)
    shutil.copy(PROJECT / "pyproject.toml", place)
    done = run(place, *{guard.test for guard in GUARDS.values()})
    assert done.returncode == 0, done.stdout.decode()
    return place


@pytest.mark.parametrize("name", GUARDS)
def test_without_its_guard_the_test_goes_red(copy: Path, name: str) -> None:
    guard = GUARDS[name]
    path = copy / "chunkstore" / guard.file
    whole = path.read_text()
    assert whole.count(guard.old) == 1, f"{guard.file} has changed: {guard.old!r}"
    path.write_text(whole.replace(guard.old, guard.new))
    try:
        done = run(copy, guard.test)
        assert done.returncode == 1, done.stdout.decode()
    finally:
        path.write_text(whole)

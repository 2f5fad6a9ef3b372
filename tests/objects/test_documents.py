"""Settings, versions, refs, locate hints. Those that lie are in `hostile.json`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt
from chunkstore.objects import documents
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.digest import version_digest
from chunkstore.objects.documents import PackUse, Ref, Settings, Tag, Version
from chunkstore.objects.envelope import Envelope, Signature
from chunkstore.objects.manifest import MAX_NODE_BYTES, NodeRef
from chunkstore.objects.pack import MAX_INDEX

digests = st.binary(min_size=32, max_size=32)
times = st.integers(-(2**63), 2**64 - 1)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
roots = st.builds(
    NodeRef,
    st.just(b""),
    digests,
    st.integers(1, MAX_NODE_BYTES),
    st.integers(1, 2**63),
    st.integers(0, 2**64 - 1),
)
messages = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)


@given(st.builds(Version, roots, st.one_of(st.just(b""), digests), times, messages))
def test_version(version):
    data = version.encode()
    assert documents.parse_version(data, version_digest(data)) == version


def test_the_longest_message():
    version = Version(NodeRef(b"", bytes(32), 1, 1, 0), b"", 0, "ä" * 8192)
    data = version.encode()
    assert documents.parse_version(data, version_digest(data)) == version
    assert len(data) <= documents.MAX_VERSION


def test_a_message_that_is_not_unicode_is_a_declared_error():
    with pytest.raises(Corrupt):
        Version(NodeRef(b"", bytes(32), 1, 1, 0), b"", 0, "\udcff").encode()


tags = st.dictionaries(names, st.tuples(digests, st.integers(1, documents.MAX_VERSION)), max_size=5)
refs = st.builds(
    lambda store, image, root, sequence, time, expires, found: Ref(
        store, image, root, sequence, time, expires, tuple(Tag(n, *found[n]) for n in sorted(found))
    ),
    st.binary(min_size=16, max_size=16),
    names,
    st.integers(0, documents.MAX_COUNTER),
    st.integers(0, documents.MAX_COUNTER),
    times,
    times,
    tags,
)


signatures = st.dictionaries(digests, st.binary(min_size=1, max_size=1024), max_size=3)


def sealed(ref, found=()):
    return documents.encode_ref(
        Envelope(ref.payload, tuple(Signature(key, found[key]) for key in sorted(found)))
    )


@given(refs, signatures)
def test_ref(ref, found):
    data = sealed(ref, found)
    assert documents.open_ref(data, "here")[1].signatures == tuple(sorted(found.items()))
    assert documents.parse_ref(data, ref.image) == ref
    assert documents.parse_ref(data, ref.image, ref.store_id) == ref


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_store_id_is_16_bytes_for_who_knows_no_store_too(length):
    data = sealed(Ref(bytes(length), "web", 1, 1, 0, 0, ()))
    with pytest.raises(Corrupt, match="not a ref"):
        documents.parse_ref(data, "web")


@given(refs, names, digests)
def test_tags_stay_sorted_and_unique(ref, name, digest):
    tag = Tag(name, digest, 100)
    changed = ref.with_tag(tag)
    assert changed.find(name) == tag
    assert documents.parse_ref(sealed(changed), ref.image) == changed
    assert changed.with_tag(tag) == changed
    without = changed.without_tag(name)
    assert without.find(name) is None
    assert without == ref.without_tag(name)
    others = {other.name for other in ref.tags} - {name}
    assert {other.name for other in without.tags} == others


uses = st.builds(PackUse, digests, st.integers(1, 2**63), st.integers(1, MAX_INDEX))


@given(digests, st.lists(uses, max_size=10))
def test_locate(version_id, found):
    data = documents.encode_locate(version_id, found)
    assert documents.parse_locate(data, version_id) == found


@given(
    st.binary(min_size=16, max_size=16),
    st.sampled_from(
        [Parameters(1024, 2048, 4096), Parameters(), Parameters(65536, 131072, 524288)]
    ),
    st.sampled_from(["auto", "lz4", "none", "zstd:1", "zstd:19"]),
    st.booleans(),
    st.integers(0, documents.MAX_LIFETIME),
)
def test_settings(store_id, chunker, compression, is_signed, lifetime):
    settings = Settings(store_id, chunker, compression, is_signed, lifetime)
    assert documents.parse_settings(settings.encode(), "here") == settings


def test_settings_may_be_laid_out_by_hand_and_hold_more():
    settings = Settings(bytes(16), Parameters(), "auto")
    document = json.loads(settings.encode())
    by_hand = json.dumps(document | {"comment": "ours"}, indent=8, sort_keys=True).encode()
    assert documents.parse_settings(by_hand + b"\n\n", "here") == settings

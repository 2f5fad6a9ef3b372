"""Members in any order, over each other: where GNU tar unpacks them, we find the same tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from support import trees
from support.tarballs import END, block, file, folder, hardlink, symlink

from chunkstore.archive.reading.members import TarReader
from chunkstore.archive.reading.source import Source
from chunkstore.archive.reading.tree import Tree
from chunkstore.archive.reading.unpacking import unpack
from chunkstore.errors import Corrupt
from chunkstore.objects import entry as entries
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.digest import chunk_digest

NAMES = st.lists(st.sampled_from(["a", "b", "c-", "c"]), min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.builds(lambda name, data: file(name.encode(), data), NAMES, st.binary(max_size=3)),
    st.builds(lambda name, mode: folder(name.encode() + b"/", mode=mode), NAMES, st.just(0o755)),
    st.builds(lambda name, other: hardlink(name.encode(), other.encode()), NAMES, NAMES),
    st.builds(lambda name: symlink(name.encode(), b"nowhere"), NAMES),
    st.builds(lambda name: block(name.encode(), flavour=b"6"), NAMES),
)
FORMS = {
    entries.FILE: "file",
    entries.DIRECTORY: "directory",
    entries.SYMLINK: "symlink",
    entries.FIFO: "fifo",
}


class Kept:
    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        pass

    def store_node(self, data: bytes) -> bytes:
        return chunk_digest(data)


@pytest.fixture(scope="module")
def folder_() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="imgstore-test-"))
    yield path
    shutil.rmtree(path)


@trees.needs_root
@trees.needs("tar")
@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=80)
@given(members=st.lists(MEMBERS, min_size=1, max_size=10))
@example(members=[file(b"a/b", b"x"), hardlink(b"a", b"a")])
@example(members=[file(b"a", b"x"), hardlink(b"a", b"a")])
def test_any_members(members: list[bytes], folder_: Path) -> None:
    data = folder() + b"".join(members) + END
    into = folder_ / "theirs"
    into.mkdir()
    try:
        done = subprocess.run(
            ["tar", "-xpf", "-", "-C", into, "--numeric-owner", "--overwrite-dir"],
            input=data,
            capture_output=True,
            check=False,
        )
        try:
            with Tree(str(folder_)) as tree:
                reader = TarReader(Source(iter([data]), "test.tar"))
                unpack(reader, tree, Parameters(), Kept())
                found = list(tree.entries())
        except Corrupt:
            assert done.returncode != 0
            event("both refuse")
            return
        for item in found:
            entries.check(tuple(item), "test")
        if done.returncode:
            event("only tar refuses")  # a directory that is not empty makes no room there
            return
        event("both unpack")
        theirs = trees.facts(into)
    finally:
        shutil.rmtree(into)
    firsts = {item.path: item.link or item.path for item in found}
    shared = {item.link for item in found}
    # The first of a group by the order of entries, and by that of plain bytes.
    groups = {
        first: min(path for path in firsts if firsts[path] == first) for first in shared if first
    }
    ours = {
        item.path: (
            FORMS[item.kind],
            item.size,
            item.content if item.kind == entries.SYMLINK else b"",
            groups.get(firsts[item.path], b""),
        )
        for item in found
    }
    assert ours == {
        path: (fact.form, fact.size, fact.target, fact.group) for path, fact in theirs.items()
    }
    assert os.listdir(folder_) == []

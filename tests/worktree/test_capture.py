"""Reading one path: what comes out, and what happens when it does not hold still."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import stores, trees
from support.stores import SMALL, record

from chunkstore.errors import LocalError
from chunkstore.objects import chunker, chunklist
from chunkstore.objects.digest import HOLE, chunk_digest
from chunkstore.objects.entry import Entry
from chunkstore.worktree import capture as capturing
from chunkstore.worktree.capture import Unsteady, Vanished, capture
from chunkstore.worktree.scan import Found

MIB = 1 << 20


class Kept:
    """A sink that keeps everything, and does something at each call if told to."""

    def __init__(self, at_store: Callable[[int], None] = lambda _: None) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.nodes: dict[bytes, bytes] = {}
        self._at_store = at_store
        self._calls = 0

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        for digest, data in chunks:
            assert chunk_digest(data) == digest
            self.chunks[digest] = bytes(data)
        self._at_store(self._calls)
        self._calls += 1

    def store_node(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self.nodes[digest] = data
        return digest

    def content(self, entry: Entry) -> bytes:
        return b"".join(
            bytes(length) if digest == HOLE else self.chunks[digest]
            for digest, length in chunklist.walk(entry, self.nodes.__getitem__)
        )


def found(path: Path) -> Found:
    folder = os.open(path.parent, os.O_RDONLY)
    return Found(b"x", path.lstat(), folder, os.fsencode(path.name), b"")


def read(path: Path, sink: Kept, parameters: chunker.Parameters = SMALL) -> Entry:
    return capture(found(path), parameters, sink)


SIZES = [0, 1, 1023, 1024, 1025, 4096, 16384, 16385, 100_000, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1]


@pytest.mark.parametrize("size", [*SIZES, 4 * MIB + 16384, 8 * MIB, 9 * MIB + 777, 12 * MIB + 1])
def test_content_is_cut_as_if_it_were_read_at_once(quick: Path, size: int) -> None:
    data = trees.pseudo_random("content", size)
    (quick / "file").write_bytes(data)
    sink = Kept()
    entry = read(quick / "file", sink)
    assert entry.size == size
    assert sink.content(entry) == data
    lengths = [length for _, length in chunklist.walk(entry, sink.nodes.__getitem__)]
    assert lengths == list(chunker.cut(data, SMALL))


def test_a_file_of_one_repeated_byte(quick: Path) -> None:
    data = b"a" * (9 * MIB + 5)
    (quick / "file").write_bytes(data)
    sink = Kept()
    entry = read(quick / "file", sink)
    lengths = [length for _, length in chunklist.walk(entry, sink.nodes.__getitem__)]
    assert lengths == list(chunker.cut(data, SMALL))


@pytest.mark.parametrize("parameters", [SMALL, chunker.Parameters()])
@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (1 << 20, [(0, 4096)]),
        (1 << 20, [(1 << 19, 4096)]),
        (1 << 20, [((1 << 20) - 4096, 4096)]),
        (1 << 20, []),
        (12_288, [(8192, 4096)]),
        (12_288, [(0, 4096)]),
        (5000, []),
        (1, []),
        (1_000_003, [(500_000, 3)]),
        (20 << 20, [(4096, 10 << 20)]),
    ],
)
def test_holes_are_kept(
    quick: Path, size: int, pieces: list[tuple[int, int]], parameters: chunker.Parameters
) -> None:
    content = [(offset, trees.pseudo_random(offset, length)) for offset, length in pieces]
    trees.sparse_file(quick / "file", size, *content)
    with open(quick / "file", "rb") as file:
        data = trees.data_ranges(file.fileno(), size)
    whole = (quick / "file").read_bytes()
    sink = Kept()
    entry = read(quick / "file", sink, parameters)
    assert sink.content(entry) == whole
    ranges, offset = [], 0
    for digest, length in chunklist.walk(entry, sink.nodes.__getitem__):
        if digest != HOLE:
            if ranges and ranges[-1][1] == offset:
                ranges[-1] = (ranges[-1][0], offset + length)
            else:
                ranges.append((offset, offset + length))
        offset += length
    assert tuple(ranges) == data


def test_long_lists_are_cut_into_nodes_of_two_levels(quick: Path) -> None:
    size = 64 * MIB
    block = trees.pseudo_random("comb", 4096)
    pieces = [(offset, b"%08d" % offset + block[8:]) for offset in range(0, size, 8192)]
    trees.sparse_file(quick / "file", size, *pieces)
    sink = Kept()
    entry = read(quick / "file", sink)
    assert entry.depth == 2
    assert len(entry.content) <= chunklist.MAX_INLINE * chunklist.RECORD.size
    assert sink.content(entry) == (quick / "file").read_bytes()


# Files that do not hold still


@pytest.mark.parametrize("size", [500, 9 * MIB])
def test_a_file_that_changes_once_is_read_again(quick: Path, size: int) -> None:
    path = quick / "file"
    path.write_bytes(trees.pseudo_random("before", size))
    after = trees.pseudo_random("after", size + 100)

    def change(call: int) -> None:
        if call == 0:
            path.write_bytes(after)

    sink = Kept(change)
    entry = read(path, sink)
    assert sink.content(entry) == after
    assert entry.mtime == path.stat().st_mtime_ns


@pytest.mark.parametrize("left", [0, 10, 5 * MIB, 9 * MIB - 1])
def test_a_file_that_shrinks_is_read_again(quick: Path, left: int) -> None:
    path = quick / "file"
    data = trees.pseudo_random("before", 9 * MIB)
    path.write_bytes(data)
    sink = Kept(lambda call: os.truncate(path, left) if call == 0 else None)
    entry = read(path, sink)
    assert sink.content(entry) == data[:left]


def test_a_file_that_always_shrinks_is_recorded_as_read_last(quick: Path) -> None:
    path = quick / "file"
    path.write_bytes(trees.pseudo_random("before", 10 * MIB))
    sink = Kept(lambda _: os.truncate(path, path.stat().st_size - 1))
    with pytest.raises(Unsteady) as caught:
        read(path, sink)
    assert len(sink.content(caught.value.entry)) == caught.value.entry.size


@pytest.mark.parametrize("size", [500, 9 * MIB])
def test_a_file_that_keeps_changing_is_recorded_as_read_last(quick: Path, size: int) -> None:
    path = quick / "file"
    path.write_bytes(trees.pseudo_random("before", size))

    def append(_: int) -> None:
        with open(path, "ab") as file:
            file.write(b"more")

    sink = Kept(append)
    with pytest.raises(Unsteady) as caught:
        read(path, sink)
    content = sink.content(caught.value.entry)
    assert len(content) == caught.value.entry.size
    assert path.read_bytes().startswith(content)


def test_metadata_that_changes_while_reading_is_read_again(quick: Path) -> None:
    path = quick / "file"
    path.write_bytes(b"x" * 500)
    entry = read(path, Kept(lambda call: path.chmod(0o4711) if call == 0 else None))
    assert entry.mode == 0o4711


def test_a_commit_of_a_file_that_grows_reports_it(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "steady").write_bytes(b"steady")
    (tree / "growing").write_bytes(bytes(8 * MIB))
    store = stores.make_store(place / "store")
    script = "import sys\nfile = open(sys.argv[1], 'ab', 0)\nwhile True: file.write(b'x')"
    writer = stores.python(script, tree / "growing")
    while (tree / "growing").stat().st_size == 8 * MIB:
        assert writer.poll() is None
    try:
        # A busy machine may leave the writer no time during a read, but not during all of these.
        unsteady: list[list[bytes]] = []
        while [b"growing"] not in unsteady and len(unsteady) < 100:
            unsteady.append(record(store, tree).unsteady)
    finally:
        writer.kill()
        writer.communicate()
    assert [b"growing"] in unsteady
    assert all(paths in ([], [b"growing"]) for paths in unsteady)
    stores.settle()
    report = record(store, tree)
    assert report.unsteady == []
    stores.restore(store, "web", place / "out")
    trees.assert_same(tree, place / "out")


# Paths that become something else between the scan and the reading


def test_a_path_that_is_gone(quick: Path) -> None:
    path = quick / "file"
    path.write_bytes(b"")
    item = found(path)
    path.unlink()
    with pytest.raises(Vanished):
        capture(item, SMALL, Kept())


def test_a_fifo_in_place_of_a_file_does_not_hold_us_up(quick: Path) -> None:
    path = quick / "file"
    path.write_bytes(b"x")
    item = found(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Vanished):
        capture(item, SMALL, Kept())


def test_a_symlink_in_place_of_a_file_is_not_followed(quick: Path) -> None:
    path = quick / "file"
    path.write_bytes(b"x")
    (quick / "secret").write_bytes(b"secret")
    item = found(path)
    path.unlink()
    os.symlink("secret", path)
    sink = Kept()
    with pytest.raises(OSError, match="symbolic"):
        capture(item, SMALL, sink)
    assert sink.chunks == {}


def test_a_symlink_in_place_of_a_directory_is_not_followed(quick: Path) -> None:
    path = quick / "directory"
    path.mkdir()
    item = found(path)
    path.rmdir()
    os.symlink("/", path)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        capture(item, SMALL, Kept())


def test_a_directory_that_vanishes_is_an_error_not_a_hole_in_the_image(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry could not be read, yet what is in it could: an image without its parents."""
    tree = place / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/file").write_bytes(b"")
    real = capturing.capture_other

    def flicker(item: Found) -> Entry:
        if item.path == b"folder":
            raise FileNotFoundError(2, "renamed away, and back a moment later")
        return real(item)

    monkeypatch.setattr(capturing, "capture_other", flicker)
    store = stores.make_store(place / "store")
    with pytest.raises(LocalError, match="folder"):
        record(store, tree)
    assert store.images() == []


@trees.needs_root
def test_reading_leaves_no_marks(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 10**18))
    read(path, Kept())
    assert path.stat().st_atime_ns == 1


def test_the_hardlink_is_dropped_when_the_file_was_replaced(quick: Path) -> None:
    path = quick / "file"
    path.write_bytes(b"one")
    item = found(path)._replace(link=b"first")
    assert capture(item, SMALL, Kept()).link == b"first"
    (quick / "new").write_bytes(b"two")
    os.rename(quick / "new", path)
    assert capture(item, SMALL, Kept()).link == b""


def bytes_read() -> int:
    """What this process has been given by `read` so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_large_file_passes_in_blocks(quick: Path) -> None:
    import resource

    trees.sparse_file(quick / "file", 3 << 30, (0, b"begin"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = bytes_read()
    entry = read(quick / "file", Kept())
    assert entry.size == 3 << 30
    assert bytes_read() - taken < 1 << 20, "holes are not read"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import stores

from chunkstore.errors import LocalError
from chunkstore.objects.codec import RAW
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.pack import CHUNK, Frame, Index
from chunkstore.storage.catalog import Catalog, FramePlace, Place


def digest(number: int) -> bytes:
    return chunk_digest(b"%d" % number)


def index(*frames: list[int]) -> Index:
    """An index with a frame for each list of chunk numbers, each chunk ten bytes."""
    table, records, offset = [], [], 16
    for chunks in frames:
        table.append(Frame(offset, 10 * len(chunks), 10 * len(chunks), len(chunks), RAW))
        records += [CHUNK.pack(digest(number), 10) for number in chunks]
        offset += 10 * len(chunks)
    return Index(table, b"".join(records))


A, B, C = (bytes([number]) * 32 for number in range(3))


@pytest.fixture
def path(quick: Path) -> str:
    return str(quick / "catalog.sqlite")


@pytest.fixture(params=["file", "memory"])
def catalog(request: pytest.FixtureRequest, path: str) -> Iterator[Catalog]:
    made = Catalog(path if request.param == "file" else None)
    yield made
    made.close()


def test_what_was_learnt_is_found(catalog: Catalog) -> None:
    catalog.learn(A, index([1, 2], [3]))
    catalog.learn(B, index([4]))
    assert catalog.packs == {A, B}
    assert catalog.places([digest(2), digest(3), digest(4), digest(5)]) == {
        digest(2): Place(FramePlace(A, 16, 20, 20, RAW), 10, 10),
        digest(3): Place(FramePlace(A, 36, 10, 10, RAW), 0, 10),
        digest(4): Place(FramePlace(B, 16, 10, 10, RAW), 0, 10),
    }
    assert catalog.packs_of([digest(1), digest(4), digest(5)]) == {digest(1): A, digest(4): B}
    assert catalog.places([]) == {}


def test_frames_of_one_pack_are_one_object(catalog: Catalog) -> None:
    """Readers tell frames apart by value, and there are many chunks to a frame."""
    catalog.learn(A, index(list(range(50))))
    places = catalog.places([digest(number) for number in range(50)])
    assert len({id(place.frame) for place in places.values()}) == 1


def test_more_than_one_batch(catalog: Catalog) -> None:
    numbers = list(range(2000))
    catalog.learn(A, index(*(numbers[start : start + 100] for start in range(0, 2000, 100))))
    digests = [digest(number) for number in range(3000)]
    assert catalog.places(digests).keys() == set(digests[:2000])
    assert catalog.packs_of(digests).keys() == set(digests[:2000])


def test_a_pack_is_learnt_once(catalog: Catalog) -> None:
    catalog.learn(A, index([1]))
    catalog.learn(A, index([2]))
    assert catalog.places([digest(1), digest(2)]).keys() == {digest(1)}


def test_a_chunk_in_two_packs_survives_the_loss_of_one(catalog: Catalog) -> None:
    catalog.learn(A, index([1, 2]))
    catalog.learn(B, index([2, 3]))
    catalog.forget([A])
    assert catalog.packs == {B}
    assert catalog.places([digest(number) for number in (1, 2, 3)]).keys() == {digest(2), digest(3)}
    catalog.forget([B, C])
    assert catalog.places([digest(number) for number in (1, 2, 3)]) == {}
    catalog.learn(A, index([1, 2]))
    assert catalog.places([digest(1)]).keys() == {digest(1)}


def test_a_chunk_twice_in_one_pack(catalog: Catalog) -> None:
    catalog.learn(A, index([1, 1], [1]))
    assert catalog.places([digest(1)])[digest(1)].frame.pack == A


def test_it_is_kept_from_one_time_to_the_next(path: str) -> None:
    first = Catalog(path)
    first.learn(A, index([1]))
    first.close()
    second = Catalog(path)
    assert second.packs == {A}
    assert second.places([digest(1)]).keys() == {digest(1)}
    second.close()


def test_two_learn_the_same(path: str) -> None:
    one, other = Catalog(path), Catalog(path)
    one.learn(A, index([1]))
    other.learn(A, index([1]))
    other.learn(B, index([2]))
    assert one.places([digest(2)]).keys() == {digest(2)}
    one.close()
    other.close()


def test_rebuilding_replaces_all(catalog: Catalog) -> None:
    catalog.learn(A, index([1]))
    catalog.rebuild([(B, index([2])), (C, index([3]))])
    assert catalog.packs == {B, C}
    digests = [digest(number) for number in (1, 2, 3)]
    assert catalog.places(digests).keys() == set(digests[1:])


@pytest.mark.parametrize("damage", [b"", b"no database", b"\0" * 4096])
def test_a_file_that_is_no_database_is_replaced(path: str, damage: bytes) -> None:
    Path(path).write_bytes(damage)
    catalog = Catalog(path)
    assert catalog.packs == frozenset()
    catalog.learn(A, index([1]))
    catalog.close()


def test_another_schema_is_replaced(path: str) -> None:
    database = sqlite3.connect(path)
    database.executescript("CREATE TABLE pack (x); PRAGMA user_version=999;")
    database.close()
    catalog = Catalog(path)
    catalog.learn(A, index([1]))
    assert catalog.places([digest(1)]).keys() == {digest(1)}
    catalog.close()


def test_missing_tables_are_made_again(path: str) -> None:
    catalog = Catalog(path)
    catalog.learn(A, index([1]))
    catalog.close()
    database = sqlite3.connect(path)
    database.execute("DROP TABLE chunk")
    database.close()
    catalog = Catalog(path)
    assert catalog.places([digest(1)]) == {}
    catalog.learn(A, index([1]))
    assert catalog.places([digest(1)]).keys() == {digest(1)}
    catalog.close()


def test_damage_anywhere_is_met_by_starting_again(path: str) -> None:
    catalog = Catalog(path)
    for number, pack in enumerate((A, B, C)):
        start = number * 1000
        catalog.learn(pack, index(list(range(start, start + 1000))))
    catalog.close()
    good = Path(path).read_bytes()
    pages = range(0, len(good), 4096)
    assert len(pages) > 10
    digests = [digest(number) for number in range(3000)]
    for page in pages:
        for fill in (b"\xff" * 2048, b"\0" * 2048):
            for suffix in ("-wal", "-shm"):
                Path(path + suffix).unlink(missing_ok=True)
            Path(path).write_bytes(good[:page] + fill + good[page + 2048 :])
            catalog = Catalog(path)
            catalog.forget([B])
            catalog.places(digests)
            new = bytes([200]) * 32
            catalog.learn(new, index([5000]))
            catalog.rebuild([(A, index([1])), (new, index([5000]))])
            for pack, number in ((A, 1), (new, 5000)):
                catalog.learn(pack, index([number]))
                assert catalog.places([digest(number)])[digest(number)].frame.pack == pack
            catalog.close()


def test_a_full_disk_is_no_damage(path: str) -> None:
    """The file stays as it is, and what is learnt from now on is kept in memory."""
    told: list[str] = []
    catalog = Catalog(path, notice=told.append)
    catalog.learn(A, index([1]))
    catalog._database.execute("PRAGMA max_page_count=8")
    catalog.learn(B, index(list(range(2000))))
    assert told == [f"going on without a catalog: No space left on device ({path})"]
    assert catalog.packs == {B}
    assert len(catalog.places(map(digest, range(2000)))) == 2000
    catalog.close()
    catalog = Catalog(path)
    assert catalog.packs == {A}
    catalog.close()


def test_where_there_can_be_no_file(quick: Path) -> None:
    told: list[str] = []
    path = str(quick / "nowhere/catalog.sqlite")
    catalog = Catalog(path, notice=told.append)
    assert told == [f"going on without a catalog: No such file or directory ({path})"]
    catalog.learn(A, index([1]))
    assert catalog.places([digest(1)]).keys() == {digest(1)}
    catalog.close()


@pytest.mark.parametrize(
    "change",
    [
        *("chunk SET offset = 'x'", "chunk SET length = x'00'", "frame SET stored = 'x'"),
        *("frame SET raw = 1 << 50", "frame SET offset = -1", "frame SET codec = 0.5"),
        "pack SET id = 'text'",
    ],
)
def test_rows_nobody_wrote_are_damage(path: str, change: str) -> None:
    told: list[str] = []
    with closing(Catalog(path)) as catalog:
        catalog.learn(A, index([1]))
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE {change}")
        database.commit()
    with closing(Catalog(path, notice=told.append)) as catalog:
        assert catalog.places([digest(1)]) == {}
        assert len(told) == 1
        catalog.learn(A, index([1]))
        assert catalog.places([digest(1)]).keys() == {digest(1)}


def test_damage_is_told(path: str) -> None:
    told: list[str] = []
    Path(path).write_bytes(b"no database" * 1000)
    Catalog(path, notice=told.append).close()
    assert told == [f"the catalog {path} is damaged: making a new one"]
    Catalog(path, notice=told.append).close()
    assert len(told) == 1


def test_a_temporary_catalog_is_no_cache() -> None:
    """What it forgets nobody could learn again."""
    catalog = Catalog("")
    catalog.learn(A, index([1]))
    catalog._database.execute("PRAGMA max_page_count=8")
    with pytest.raises(LocalError, match=r"No space left on device \(a temporary file"):
        catalog.learn(B, index(list(range(2000))))
    catalog.close()


def test_processes_share_a_file(path: str) -> None:
    script = """
import sys
from chunkstore.objects.pack import CHUNK, Frame, Index
from chunkstore.storage.catalog import Catalog
catalog = Catalog(sys.argv[1])
for number in range(40):
    pack = bytes([number]) * 32
    catalog.learn(pack, Index([Frame(16, 5, 5, 1, 0)], CHUNK.pack(pack, 5)))
assert len(catalog.packs) == 40
catalog.close()
"""
    running = [stores.python(script, path) for _ in range(3)]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    catalog = Catalog(path)
    packs = [bytes([number]) * 32 for number in range(40)]
    assert catalog.packs == frozenset(packs)
    assert {place.frame.pack for place in catalog.places(packs).values()} == set(packs)
    catalog.close()

"""Pulls that fetch differences: fewer bytes, the same tree, whatever the delta packs are like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Live
from support.servers import nginx

from chunkstore.objects import deltapack
from chunkstore.objects.documents import PackUse
from chunkstore.server import running
from chunkstore.storage import layout
from chunkstore.swarm.reader import SwarmReader

SIZE = 1_500_000


def edited(data: bytes, salt: int = 0) -> bytes:
    """Much of it again, with a byte changed every 512 bytes, so that no chunk stays."""
    return bytes(b ^ (i % 512 == 7 + salt) for i, b in enumerate(data))


def renew(live: Live, salt: int = 0) -> str:
    path = live.tree / "library"
    path.write_bytes(edited(path.read_bytes(), salt))
    (live.tree / "boot/vmlinuz-6.1.0-21").write_bytes(
        edited((live.tree / "boot/vmlinuz-6.1.0-18").read_bytes(), salt)
    )
    (live.tree / "unlike").write_bytes(trees.pseudo_random(f"unlike {salt}", 700_000))
    version = live.commit()
    stores.settle()
    return version


@pytest.fixture
def live(quick: Path) -> Live:
    live = Live(quick)
    (live.tree / "boot").mkdir()
    (live.tree / "boot/vmlinuz-6.1.0-18").write_bytes(trees.pseudo_random("kernel", SIZE))
    (live.tree / "library").write_bytes(trees.pseudo_random("library", SIZE))
    (live.tree / "unrelated").write_bytes(b"text\n" * 10)
    live.install()
    return live


def pulled(live: Live, *arguments: object) -> dict[str, int]:
    document = live.pull("--json", *arguments).document
    return {
        "deltas": document["delta_chunks"],
        "fetched": document["fetched"]["chunks"],
        "moving": document["moving_bytes"],
        "received": document["received_bytes"],
    }


def test_an_update_moves_differences(live: Live) -> None:
    renew(live)
    dry = pulled(live, "--dry-run")
    found = pulled(live)
    assert 0 < found["deltas"] < found["fetched"]
    assert 700_000 < dry["moving"] == found["moving"] < 1.2 * SIZE
    assert found["received"] < 1.4 * SIZE
    live.is_image()
    assert live.run("verify", live.node).code == 0
    assert list((live.node / ".imgstore").glob("stage*/**/*.pack")) == []


def test_over_http_by_another_server(live: Live) -> None:
    renew(live)
    with nginx(Path(live.store.root), live.place / "server") as url:
        found = live.run("pull", f"{url}/web", live.node, "--json").document
    assert found["delta_chunks"] > 0
    assert found["received_bytes"] < 1.4 * SIZE
    live.is_image()


def test_all_that_is_to_be_fetched_is_foreseen_at_once(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else deltas and the rest could each be too little for a swarm that both are worth."""
    renew(live)
    told: list[set[str]] = []
    monkeypatch.setattr(
        SwarmReader, "foresee", lambda _self, spans, *, reserve: told.append(set(spans))
    )
    with running(live.store.root) as url:
        found = live.run("pull", f"{url}/web", live.node, "--json", "--no-seed").document
    assert found["delta_chunks"] > 0
    live.is_image()
    kinds = [{name.partition("/")[0] for name in names} for names in told]
    assert kinds[0] == {"deltas", "packs"}
    assert told[-1] <= told[0]


def test_two_versions_behind(live: Live) -> None:
    renew(live)
    (live.tree / "library").write_bytes(edited((live.tree / "library").read_bytes(), 100))
    live.commit()
    found = pulled(live)
    live.is_image()
    # The library that the node has is not the one the frames are made against.
    assert found["moving"] > SIZE


@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_what_was_changed_here_is_no_base(live: Live, atomic: list[str]) -> None:
    renew(live)
    (live.node / "library").write_bytes(b"changed here")
    found = pulled(live, *atomic)
    live.is_image()
    assert 0 < found["deltas"] < found["fetched"]
    assert SIZE < found["moving"] - 700_000 < 1.8 * SIZE


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(20, len(data) - 20, 97):
        data[place] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("what", ["", ".idx", ".pack"])
@pytest.mark.parametrize("how", [Path.unlink, damage, truncate, empty])
def test_any_damage_costs_bytes_and_nothing_else(
    live: Live, what: str, how: Callable[[Path], None]
) -> None:
    renew(live)
    for path in (Path(live.store.root) / "deltas").iterdir():
        if path.suffix == what:
            how(path)
    found = pulled(live)
    live.is_image()
    assert found["deltas"] == 0 or how is damage or how is truncate
    assert found["received"] < 4 * SIZE


def test_a_pack_that_holds_something_else(live: Live) -> None:
    """A hint may name delta packs of another version; all of it is checked by digest."""
    first = renew(live)
    second = renew(live, 50)
    deltas = Path(live.store.root) / "deltas"
    packs = {
        version: sorted(
            path for path in deltas.glob("*.pack") if path.stem.encode() in _named(deltas / version)
        )
        for version in (first, second)
    }
    (one,), (other,) = packs[first], packs[second]
    for suffix in (".pack", ".idx"):
        other.with_suffix(suffix).write_bytes(one.with_suffix(suffix).read_bytes())
    pulled(live)
    live.is_image()


def _named(hint: Path) -> bytes:
    return hint.read_bytes().hex().encode()


def test_cut_off_and_resumed(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    renew(live)
    from chunkstore.pull import change

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(change.Aside, "make", full)
        live.pull(code=7)
    found = pulled(live)
    assert found["deltas"] > 0
    assert found["received"] < 100_000
    live.is_image()


def test_little_is_not_worth_asking(live: Live) -> None:
    (live.tree / "unrelated").write_bytes(b"other text\n")
    live.commit()
    with nginx(Path(live.store.root), live.place / "server") as url:
        live.run("pull", f"{url}/web", live.node)
        log = (live.place / "server").rglob("access*")
        assert not any(layout.DELTAS in path.read_text() for path in log)
    live.is_image()


def test_frames_that_open_and_hold_other_bytes(live: Live) -> None:
    """A forged delta pack: its index names what is wanted, and its frames are of something else."""
    version = bytes.fromhex(renew(live))
    store = live.store
    hint = store.reader.get(layout.deltas(version), 0, 10_000)
    forged = []
    for use in deltapack.parse_deltas(hint, version):
        name = layout.delta_index(use.pack)
        body, frames = deltapack.encode_header(), []
        with store.chunks() as chunks:
            for frame in deltapack.parse_index(store.reader.get(name, 0, use.index_size), name):
                base = b"".join(chunks.get(digest) for digest, _ in deltapack.records(frame.bases))
                stored = deltapack.compress(base[:100].ljust(frame.raw, b"!"), base)
                frames.append(frame._replace(offset=len(body), stored=len(stored)))
                body += stored
        index = deltapack.encode_index(frames)
        body += index + deltapack.encode_footer(index)
        (Path(store.root) / layout.delta_pack(use.pack)).write_bytes(body)
        (Path(store.root) / name).write_bytes(index)
        forged.append(PackUse(use.pack, len(body), len(index)))
    lie = deltapack.encode_deltas(version, forged)
    (Path(store.root) / layout.deltas(version)).write_bytes(lie)
    assert pulled(live)["deltas"] == 0
    live.is_image()


def test_a_base_that_changes_while_it_is_used(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was as it should be when the frames were chosen; what it makes is seen to be wrong."""
    renew(live)
    from chunkstore.pull.deltas import DeltaChunks

    real = DeltaChunks.fetch

    def late(*arguments: object, **options: object) -> None:
        real(*arguments, **options)  # type: ignore[arg-type]
        with (live.node / "library").open("r+b") as file:
            file.write(b"changed here")

    monkeypatch.setattr(DeltaChunks, "fetch", late)
    found = pulled(live)
    live.is_image()
    assert 0 < found["deltas"] < found["fetched"]


def test_a_base_that_goes_while_it_is_used(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    renew(live)
    from chunkstore.pull.deltas import DeltaChunks

    real = DeltaChunks.fetch

    def late(*arguments: object, **options: object) -> None:
        real(*arguments, **options)  # type: ignore[arg-type]
        (live.node / "library").unlink()

    monkeypatch.setattr(DeltaChunks, "fetch", late)
    assert pulled(live)["deltas"] > 0
    live.is_image()


def test_bases_that_nobody_vouches_for_are_read(live: Live) -> None:
    """Without its baseline, as after a copy, a node does not know its files by their looks."""
    renew(live)
    (live.node / ".imgstore/baseline.sqlite").unlink()
    found = pulled(live)
    assert 0 < found["deltas"] < found["fetched"]
    assert found["received"] < 1.4 * SIZE
    live.is_image()

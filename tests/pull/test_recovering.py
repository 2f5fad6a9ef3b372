"""`imgstore recover` and what the next pull makes of an interrupted one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Live

from chunkstore.objects.names import parse_layers
from chunkstore.pull import pull
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.worktree import apply


class Cut(BaseException):
    """The power went off here."""


@pytest.fixture
def live(place: Path) -> Live:
    live = Live(place)
    for number in range(8):
        (live.tree / f"{number}").write_bytes(b"one %d" % number)
    live.install()
    for number in range(0, 8, 2):
        (live.tree / f"{number}").write_bytes(b"two %d" % number)
    (live.tree / "1").unlink()
    (live.tree / "new").mkdir()
    (live.tree / "new/file").write_bytes(b"new")
    live.commit()
    return live


def interrupt(live: Live, after: int) -> None:
    """Pull, and stop after so many files were put into place."""
    real, count = apply.Applier._place, [0]

    def place(self: apply.Applier, made: object) -> None:
        if count[0] >= after:
            raise Cut
        count[0] += 1
        real(self, made)  # type: ignore[arg-type]

    reader = LocalBackend(live.store.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply.Applier, "_place", place)
        with pytest.raises(Cut):
            pull(
                *(reader, parse_layers("web"), str(live.node)),
                location=live.store.root,
                options=stores.trusting(),
            )


def hide_store(live: Live) -> None:
    os.rename(live.place / "store", live.place / "away")


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_it_is_finished_without_the_network(live: Live, after: int) -> None:
    interrupt(live, after)
    verified = live.run("verify", live.node, "--json", code=1)
    assert verified.document["pending"]
    hide_store(live)
    recovered = live.run("recover", live.node)
    assert "an interrupted update was finished" in recovered.lines[0]
    live.is_image()
    assert not (live.node / ".imgstore/journal").exists()
    assert not (live.node / ".imgstore/new").exists()
    assert live.run("recover", live.node, "--json").document["recovered"] is False


def test_what_is_changed_here_meanwhile_is_saved(live: Live) -> None:
    interrupt(live, 2)
    (live.node / "6").write_bytes(b"changed after the interruption")
    hide_store(live)
    live.run("recover", live.node)
    live.is_image()
    assert live.saved() == {"6": b"changed after the interruption"}


@pytest.mark.parametrize("what", ["journal", "damaged journal", "new"])
def test_without_journal_or_files_a_pull_compares_everything(live: Live, what: str) -> None:
    interrupt(live, 2)
    state = live.node / ".imgstore"
    match what:
        case "journal":
            (state / "journal").unlink()
        case "damaged journal":
            data = bytearray((state / "journal").read_bytes())
            data[len(data) // 2] ^= 1
            (state / "journal").write_bytes(data)
        case "new":
            shutil.rmtree(state / "new")
    (live.node / "mine").write_bytes(b"mine")
    refused = live.run("recover", live.node, code=7)
    assert "only 'imgstore pull" in refused.err
    live.pull()
    (live.node / "mine").unlink()
    live.is_image(but=(b"",))


def test_nothing_was_pulled_or_only_begun(place: Path) -> None:
    live = Live(place)
    (live.tree / "file").write_bytes(b"x")
    live.commit()
    (place / "node").mkdir()
    live.run("recover", live.node, code=3)
    real = LocalBackend.get

    def get(self: LocalBackend, name: str, start: int, stop: int) -> bytes:
        if name.startswith("packs/") and not name.endswith(".idx") and start == 16:
            raise Cut
        return real(self, name, start, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBackend, "get", get)
        try:
            pull(
                *(LocalBackend(live.store.root), parse_layers("web"), str(live.node)),
                location=live.store.root,
                options=stores.trusting(),
            )
        except Cut:
            pass
    ended = live.run("recover", live.node, code=None)
    assert ended.code in (0, 7)
    live.pull()
    live.is_image()


def test_a_stale_journal_means_nothing(live: Live) -> None:
    interrupt(live, 2)
    journal = (live.node / ".imgstore/journal").read_bytes()
    live.run("recover", live.node)
    (live.node / ".imgstore/journal").write_bytes(journal)
    (live.node / "1").write_bytes(b"came back, and is the node's own now")
    live.pull()
    live.run("recover", live.node)
    assert (live.node / "1").exists()
    found = trees.facts(live.node)
    assert b"new/file" in found

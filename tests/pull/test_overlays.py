"""Nodes that follow several images laid over each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import stores, trees
from support.live import Live, imgstore, remove, rewrite_unseen

from chunkstore import watch

SPEC = "web+rack7+node12"


class Fleet(Live):
    """The base is `tree`; `rack7` and `node12` lie beside it. `expected` is made by hand."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.rack, self.own = place / "rack7", place / "node12"
        self.remote = f"{place}/store/{SPEC}"
        (self.tree / "etc").mkdir()
        (self.tree / "usr").mkdir()
        for name in ("etc/hosts", "etc/motd", "etc/fstab", "usr/program", "usr/large"):
            (self.tree / name).write_bytes(trees.pseudo_random(name, 9000))
        os.link(self.tree / "etc/fstab", self.tree / "usr/linked")
        for layer in (self.rack, self.own):
            (layer / "etc").mkdir(parents=True)
        (self.rack / "etc/motd").write_text("rack 7")
        (self.rack / "etc/resolv.conf").write_text("nameserver 10.7.0.1")
        (self.rack / "etc/.wh.fstab").touch()
        (self.own / "etc/hostname").write_text("node12")
        (self.own / "etc/motd").write_text("node 12")

    def commit_all(self) -> None:
        self.commit()
        self.commit("rack7", self.rack)
        self.commit("node12", self.own)

    def follow(self, code: int = 0) -> list[str]:
        """Pull what moved, and hold it against a checkout of the same layers."""
        lines = self.pull("--dry-run", code=code).changes
        self.pull(code=code)
        self.is_layers(SPEC)
        return lines

    def is_layers(self, spec: str) -> None:
        copy = self.place / "copy"
        trees.remove_tree(copy)
        self.run("checkout", spec, copy, "--store", self.place / "store")
        trees.assert_same(copy, self.node)
        self.run("verify", self.node)


@pytest.fixture
def fleet(quick: Path) -> Fleet:
    fleet = Fleet(quick)
    fleet.commit_all()
    fleet.pull()
    stores.settle()
    return fleet


def test_layers_over_each_other(fleet: Fleet) -> None:
    node = fleet.node
    fleet.is_layers(SPEC)
    assert (node / "etc/motd").read_text() == "node 12"
    assert (node / "etc/resolv.conf").read_text() == "nameserver 10.7.0.1"
    assert not (node / "etc/fstab").exists()
    assert (node / "usr/linked").read_bytes() == (fleet.tree / "usr/linked").read_bytes()
    report = fleet.pull("--json").document
    assert [layer["image"] for layer in report["layers"]] == ["web", "rack7", "node12"]
    assert report["changed"] is False
    assert report["requests"] == 3


def test_each_layer_moves_by_itself(fleet: Fleet) -> None:
    (fleet.rack / "etc/resolv.conf").write_text("nameserver 10.7.0.2")
    fleet.commit("rack7", fleet.rack)
    assert "M\tetc/resolv.conf" in fleet.follow()
    (fleet.tree / "etc/hosts").write_text("new hosts")
    (fleet.tree / "etc/motd").write_text("hidden by the overlays")
    fleet.commit()
    lines = fleet.follow()
    assert "M\tetc/hosts" in lines
    assert "M\tetc/motd" not in lines
    (fleet.own / "etc/hostname").write_text("node 12 b")
    remove(fleet.own / "etc/motd")
    fleet.commit("node12", fleet.own)
    assert "M\tetc/motd" in fleet.follow()
    assert (fleet.node / "etc/motd").read_text() == "rack 7"


def test_deletions_come_and_go(fleet: Fleet) -> None:
    (fleet.own / ".wh.usr").touch()
    fleet.commit("node12", fleet.own)
    (fleet.node / "usr/program").write_bytes(b"own")
    report = fleet.pull("--json").document
    assert [item["path"] for item in report["saved"]] == ["usr/program"]
    fleet.is_layers(SPEC)
    assert not (fleet.node / "usr").exists()
    remove(fleet.rack / "etc/.wh.fstab")
    fleet.commit("rack7", fleet.rack)
    assert "A\tetc/fstab" in fleet.follow()
    remove(fleet.own / ".wh.usr")
    fleet.commit("node12", fleet.own)
    fleet.follow()
    assert (fleet.node / "usr/linked").samefile(fleet.node / "etc/fstab")


def test_layers_dropped_and_taken_up(fleet: Fleet) -> None:
    for spec in ("web+node12", "web", "web+rack7", SPEC, "web+node12+rack7"):
        fleet.run("pull", f"{fleet.place}/store/{spec}", fleet.node)
        fleet.is_layers(spec)
        assert fleet.pull("--json").document["changed"] is False


def test_local_changes_in_what_an_overlay_holds(fleet: Fleet) -> None:
    rewrite_unseen(fleet.node / "etc/motd", b"own  12")
    (fleet.node / "etc/hosts").write_bytes(b"own hosts")
    (fleet.node / "etc/mine").write_bytes(b"mine")
    assert fleet.run("verify", fleet.node, code=1).changes == [
        "m\tetc",
        "M\tetc/hosts",
        "?\tetc/mine",
        "M\tetc/motd",
    ]
    # The base changes what an overlay hides: nothing to be done, and nothing saved.
    (fleet.tree / "etc/motd").write_text("still hidden")
    fleet.commit()
    fleet.pull()
    assert (fleet.node / "etc/motd").read_bytes() == b"own  12"
    assert fleet.saved() == {}
    (fleet.own / "etc/motd").write_text("seen")
    fleet.commit("node12", fleet.own)
    fleet.pull()
    assert fleet.saved() == {"etc/motd": b"own  12"}
    fleet.run("verify", "--repair", fleet.node)
    assert sorted(fleet.saved()) == ["etc/hosts", "etc/motd"]
    fleet.run("verify", fleet.node)
    fleet.pull("--mirror")
    fleet.is_layers(SPEC)


def test_diff_speaks_of_what_a_pull_will_do(fleet: Fleet) -> None:
    store = ["--store", fleet.place / "store"]
    (fleet.rack / "etc/new").write_text("new")
    (fleet.tree / "usr/program").write_text("new")
    fleet.commit("rack7", fleet.rack)
    fleet.commit()
    diff = fleet.run("diff", "web~1+rack7~1+node12", SPEC, *store).lines
    assert fleet.pull("--dry-run").changes == diff


@pytest.mark.parametrize("atomic", [[], ["--atomic"]])
def test_rollback(fleet: Fleet, atomic: list[str]) -> None:
    before = trees.facts(fleet.node)
    (fleet.tree / "etc/hosts").write_text("new")
    (fleet.rack / "etc/.wh.usr").touch()
    fleet.commit_all()
    fleet.pull(*atomic)
    after = trees.facts(fleet.node)
    assert after != before
    report = fleet.run("rollback", fleet.node, "--json").document
    assert report["exchanged"] is bool(atomic)
    assert trees.facts(fleet.node) == before
    fleet.pull()
    assert trees.facts(fleet.node) == after


def test_a_layer_that_is_not_there(fleet: Fleet) -> None:
    before = trees.facts(fleet.node)
    ended = fleet.run("pull", f"{fleet.place}/store/web+rack8", fleet.node, code=3)
    assert "rack8" in ended.err
    assert trees.facts(fleet.node) == before
    fleet.is_layers(SPEC)


@pytest.mark.parametrize("image", ["web", "rack7", "node12"])
def test_watch_sees_any_layer_move(
    fleet: Fleet, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    days: list[str] = []

    def sleep(_: float) -> None:
        """A quiet interval; a commit; the third is one too many."""
        days.append((fleet.node / f"etc/{image}").read_text() if days else "")
        if len(days) == 2:
            assert not (fleet.node / "etc/again").exists()
        if len(days) == 3:
            raise KeyboardInterrupt
        tree = {"web": fleet.tree, "rack7": fleet.rack, "node12": fleet.own}[image]
        (tree / f"etc/{image}").write_text(f"interval {len(days)}")
        fleet.commit(image, tree)

    monkeypatch.setitem(watch.watch.__kwdefaults__, "sleep", sleep)
    ended = imgstore("pull", "--watch", fleet.node)
    assert (ended.code, ended.err) == (130, "imgstore: interrupted\n")
    assert days == ["", "interval 1", "interval 2"]
    assert sum("changed," in line for line in ended.lines) == 2
    fleet.is_layers(SPEC)


def test_an_overlay_is_itself_an_edited_copy(fleet: Fleet) -> None:
    """The upper directory of overlayfs, committed as it is."""
    os.mkdir(fleet.own / "usr")
    if os.geteuid() != 0:
        pytest.skip("needs root: overlayfs writes devices")
    os.mknod(fleet.own / "usr/large", 0o020000, os.makedev(0, 0))
    fleet.commit("node12", fleet.own)
    fleet.follow()
    assert not (fleet.node / "usr/large").exists()

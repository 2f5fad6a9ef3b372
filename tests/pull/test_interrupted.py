"""Pulls that are cut off or killed anywhere, and run again."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest
from support import stores, trees
from support.cuts import Versions, changes, interrupted, steps
from support.lines import Line, Recorder
from support.stores import bring

from chunkstore.errors import (
    TransferError,
)
from chunkstore.pull import recover
from chunkstore.storage.backends.memory import FailingBackend


def test_interrupted_at_every_call_of_the_remote(versions: Versions) -> None:
    for old, new in ((None, 0), (0, 1), (1, 2), (2, 0)):
        counter = FailingBackend(versions.remote)
        node = versions.fresh_node()
        if old is not None:
            bring(versions.remote, versions.specs[old], node)
        bring(counter, versions.specs[new], node)
        assert counter.calls > 2
        for after in range(counter.calls):
            node = versions.fresh_node()
            if old is not None:
                bring(versions.remote, versions.specs[old], node)
            with pytest.raises(TransferError):
                bring(FailingBackend(versions.remote, after=after), versions.specs[new], node)
            if old is not None:
                versions.is_version(node, old)  # the tree is not touched while it fetches
            bring(versions.remote, versions.specs[new], node)
            versions.is_version(node, new)
            trees.remove_tree(node)


def test_what_is_on_the_stage_is_not_fetched_again(line: Line) -> None:
    (line.tree / "old").write_bytes(b"old")
    line.commit()
    line.pull()
    for number in range(12):
        (line.tree / f"{number}").write_bytes(trees.pseudo_random(number, 3_000_000))
    line.commit()
    remote = stores.in_memory(line.store)
    counter = Recorder(remote)
    whole = sum(len(remote.get(name, 0, 1 << 30)) for name in remote.list("packs/"))
    received = []

    class Last(FailingBackend):
        """Delivers all but one range of the pack."""

        def get(self, name: str, start: int, stop: int) -> bytes:
            if name.endswith(".pack") and 20_000_000 < start < 25_000_000:
                time.sleep(0.3)
                raise TransferError("gone away")
            data = super().get(name, start, stop)
            received.append(len(data))
            return data

    with pytest.raises(TransferError):
        bring(Last(remote), "web", line.node)
    report = bring(counter, "web", line.node)
    line.same()
    assert sum(received) > 5_000_000
    assert report.received + sum(received) < whole + 300_000


@pytest.mark.parametrize(("old", "new"), [(None, 0), (None, 1), (0, 1), (1, 2), (2, 1)])
def test_cut_off_at_every_change_and_run_again(
    versions: Versions, old: int | None, new: int
) -> None:
    for limit in steps(changes(versions, old, new), 70):
        node = versions.fresh_node()
        if old is not None:
            bring(versions.remote, versions.specs[old], node)
        assert interrupted(versions, node, new, limit)
        if old is not None:
            finish_alone(versions, node, old, new)
        bring(versions.remote, versions.specs[new], node)
        versions.is_version(node, new)
        trees.remove_tree(node)


def finish_alone(versions: Versions, node: Path, old: int, new: int) -> None:
    """Without the network an interrupted update is finished, or had not begun."""
    is_begun = trees.differences(versions.copies[old], trees.facts(node)) != []
    report = recover(str(node))
    if is_begun:
        assert report.is_recovered or report.version.hex().startswith(versions.specs[new][4:])
    versions.is_version(node, new if report.version.hex()[:16] == versions.specs[new][4:] else old)


@pytest.mark.parametrize(
    ("old", "new", "instead"),
    [(None, 0, 1), (None, 1, 0), (None, 1, 2), (0, 1, 2), (0, 1, 0), (1, 2, 0), (2, 1, 0)],
)
def test_cut_off_and_another_version_instead(
    versions: Versions, old: int | None, new: int, instead: int
) -> None:
    for limit in steps(changes(versions, old, new), 40):
        node = versions.fresh_node()
        if old is not None:
            bring(versions.remote, versions.specs[old], node)
        assert interrupted(versions, node, new, limit)
        bring(versions.remote, versions.specs[instead], node)
        versions.is_version(node, instead)
        trees.remove_tree(node)


@pytest.mark.parametrize("old", [None, 0])
def test_cut_off_twice_on_the_way_to_different_versions(
    versions: Versions, old: int | None
) -> None:
    """What the first interruption left must not be forgotten by the second."""
    for first, second in itertools.product(steps(changes(versions, old, 1), 14), range(0, 120, 17)):
        for last in (2, 0):
            node = versions.fresh_node()
            if old is not None:
                bring(versions.remote, versions.specs[old], node)
            interrupted(versions, node, 1, first)
            interrupted(versions, node, last, second)
            bring(versions.remote, versions.specs[last], node)
            versions.is_version(node, last)
            trees.remove_tree(node)


PULLER = """
from chunkstore.objects.names import parse_spec
from chunkstore.pull import PullOptions, Trust, pull
from chunkstore.storage.backends.local import LocalBackend
import lz4.block, zstandard

def work(store, spec, node):
    pull(LocalBackend(store), [parse_spec(spec)], node, options=PullOptions(trust=Trust.FIRST))
"""


def killed_pulls(place: Path, rounds: int, seed: int, *, first: bool) -> int:
    """Kill pulls at random moments and run them again; how many were killed at work."""
    versions = Versions(place)
    chance = random.Random(seed)
    node = versions.fresh_node()
    killed = 0
    whole = 0.1
    with stores.Workers(PULLER) as workers:
        for number in range(rounds):
            if first:
                trees.remove_tree(node)
            for version in (1 + number % 2, chance.randrange(3)):
                seconds = chance.uniform(0, whole)
                if not workers.run(
                    versions.store.root, versions.specs[version], node, kill_after=seconds
                ):
                    versions.is_version(node, version)
                    whole *= 0.8
                else:
                    whole *= 1.2
                    killed += 1
            version = chance.randrange(3)
            bring(versions.remote, versions.specs[version], node)
            versions.is_version(node, version)
    return killed


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_random_moments(quick: Path, first: bool) -> None:
    assert killed_pulls(quick, 15, 1, first=first) > 5


@pytest.mark.campaign
@pytest.mark.parametrize("first", [True, False])
def test_killed_at_random_moments_for_long(place: Path, first: bool) -> None:
    assert killed_pulls(place, 300, 2, first=first) > 100

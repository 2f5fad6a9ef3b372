"""gc: killed at any step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.farm import Farm, assert_whole, collect, collect_elsewhere, pack_names

from chunkstore.gc import collection
from chunkstore.storage.store import Store


class _Killed(BaseException):
    """As if the process had ended: nothing may catch it and go on."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_leaves_a_whole_store(
    quick: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(collection, "MANY", 3)
    farm = Farm(quick)
    with farm.store:
        farm.line(6)
        collect(farm.store, keep=5)
        farm.write("changing", 60_000)
        farm.commit()
    source = quick / "source"
    os.rename(farm.store.root, source)
    steps = None
    step = 0
    while steps is None or step < steps:
        shutil.rmtree(farm.store.root, ignore_errors=True)
        shutil.copytree(source, farm.store.root)
        with Store(farm.store.root) as store:
            steps = _collect_and_die(store, monkeypatch, step, when)
        for _ in range(2):
            assert_whole(farm.store)
            farm.assert_kept(5, 6)
            collect_elsewhere(farm.store.root, keep=2, grace=0)
        assert len(pack_names(farm.store)) < 3
        step += 1
    assert steps > 15


def _collect_and_die(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: int, when: str
) -> int | None:
    """Collect, and die at one step that changes something; without so many, their number."""
    count = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def act(*args: object) -> object:
            nonlocal count
            count += 1
            if count == step + 1 and when == "before":
                raise _Killed
            result = real(*args)
            if count == step + 1:
                raise _Killed
            return result

        return act

    with monkeypatch.context() as patch:
        for name in ("put", "put_file", "delete"):
            patch.setattr(store.backend, name, dying(getattr(store.backend, name)))
        patch.setattr("chunkstore.storage.doomed.write", dying(_write_doomed))
        with suppress(_Killed):
            collect(store, keep=2, grace=0)
            return count
    return None


def _write_doomed(path: str, objects: dict[str, int]) -> None:
    lines = "".join(f"{name} {since}\n" for name, since in sorted(objects.items()))
    Path(path).write_text(lines)

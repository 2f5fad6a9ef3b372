"""An image, its store, and a node that follows it by the command line, run in this process."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgstore.app import main

from . import stores, trees


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code and what it printed."""

    code: int
    raw: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.raw.decode("utf-8", "surrogateescape").splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.raw)

    @property
    def changes(self) -> list[str]:
        """The lines that name a path after a letter."""
        return [line for line in self.lines if line[1:2] == "\t"]


def trusting(arguments: Iterable[object]) -> list[str]:
    """A command line of a test that does not care who signed: a first pull trusts what it sees."""
    words = [str(argument) for argument in arguments]
    if "pull" in words and not {"--insecure", "--trust-first"} & set(words):
        words.insert(words.index("pull") + 1, "--trust-first")
    return words


def without_trust(err: str) -> str:
    """What else was said than which key is trusted from now on."""
    return "".join(
        line for line in err.splitlines(keepends=True) if "seen here for the first time" not in line
    )


def imgstore(*arguments: object) -> Ended:
    """Run one command line."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(out, encoding="utf-8", write_through=True) as stdout,
        io.TextIOWrapper(err, encoding="utf-8", write_through=True) as stderr,
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        code = main(trusting(arguments))
        stdout.flush()
        stderr.flush()
        return Ended(code, out.getvalue(), without_trust(err.getvalue().decode()))


class Live:
    """`tree` is the image as it is edited, `node` what is pulled."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree = place / "tree"
        self.tree.mkdir()
        self.node = place / "node"
        self.store = stores.make_store(place / "store")
        self.remote = f"{place}/store/web"

    def commit(self, image: str = "web", tree: Path | None = None) -> str:
        """Record the tree; the version's id."""
        return stores.record(self.store, tree or self.tree, image).version.id.hex()

    def run(self, *arguments: object, code: int | None = 0) -> Ended:
        ended = imgstore(*arguments)
        assert code is None or ended.code == code, ended
        return ended

    def pull(self, *arguments: object, code: int = 0) -> Ended:
        """Pull into the node: from its remote the first time."""
        first = () if (self.node / ".imgstore").is_dir() else (self.remote,)
        return self.run("pull", *first, self.node, *arguments, code=code)

    def install(self) -> None:
        """Record the tree as it is and pull it; afterwards what changes is seen to have changed."""
        self.commit()
        self.pull()
        stores.settle()

    def saved(self) -> dict[str, bytes]:
        """Content of what was saved, by path below its stamp."""
        return saved(self.node)

    def is_image(self, *, but: tuple[bytes, ...] = ()) -> None:
        """The node is the tree, but for these paths."""
        one, other = trees.facts(self.tree), trees.facts(self.node)
        for path in but:
            one.pop(path, None)
            other.pop(path, None)
        assert trees.differences(one, other) == []


def saved(node: Path) -> dict[str, bytes]:
    found = {}
    for stamp in (node / ".imgstore/saved").glob("*"):
        for path in stamp.rglob("*"):
            if path.is_symlink():
                found[str(path.relative_to(stamp))] = b"-> " + os.fsencode(os.readlink(path))
            elif path.is_file():
                found[str(path.relative_to(stamp))] = path.read_bytes()
    return found


def state_facts(node: Path) -> dict[bytes, trees.Facts]:
    """Everything about a node, its own state included."""
    return trees.facts(node, skip=())


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rewrite_unseen(path: Path, data: bytes) -> None:
    """Other content of the same length under the same times: as `touch -r` hides a change."""
    before = path.stat()
    assert before.st_size == len(data)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

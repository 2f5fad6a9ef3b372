"""A generated tree of a given size, its store and a node, and what each verb costs on them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import programs
from archivers import Imgstore
from contest import OURS, Contender, Scenario, contest, nothing
from job import SETTLE, of_report, same
from measure import Command, run
from servers import Server, imgstore_server
from small_edit import SmallEdit
from tables import Table
from trees import configure, disk_usage, generate, warm

MANY = 300_000
"""Files from which on one round of what writes has to do."""


class Growing:
    """A generated tree, its store, and a node, in a directory of their own."""

    def __init__(self, work: Path, imgstore: Imgstore, files: int, rounds: int) -> None:
        self.files = files
        self.imgstore = imgstore
        self.tree = work / "tree"
        self.store = work / "store"
        self.node = work / "node"
        self.work = work
        self.rounds = rounds
        self.writing_rounds = 1 if files >= MANY else rounds
        work.mkdir(parents=True)
        generate(self.tree / "srv", files, median=660)
        configure(self.tree / "etc", 40)
        self.edit = SmallEdit(self.tree, work)
        warm(self.tree)
        time.sleep(SETTLE)

    def discard(self, path: Path) -> None:
        """Take something out of the way; it is removed at the end of all.

        ext4 without a journal does not use the inodes of deleted files again for minutes, and
        searches past them for every new file.
        """
        if path.exists():
            aside = self.work / "discarded"
            aside.mkdir(exist_ok=True)
            path.rename(aside / f"{path.name}-{len(list(aside.iterdir()))}")

    def commit(self) -> Command:
        """Record the tree."""
        return self.imgstore.again(self.store, self.tree)

    def pull(self, server: Server) -> Command:
        """The node becomes what the store has."""
        return self.imgstore.pull(f"http://127.0.0.1:{server.port}/web", self.node)

    def all_but_first(self) -> list[Table]:
        """Everything once the store is there."""
        with imgstore_server(self.imgstore.command, self.store) as server:
            found = [self.first_pull(server), self.unchanged(), self.nothing_to_do(server)]
            found += self.edited(server)
        return [*found, self.verify(), self.collect()]

    def first(self) -> Table:
        """An empty store each time; the last one stays."""
        archive = self.work / "image.tar.zst"
        tar = programs.archive(self.tree, programs.COMPRESSORS[programs.ZSTD], archive)
        contenders = [
            Contender(
                programs.ZSTD,
                same(tar),
                before=partial(self.discard, archive),
                size=partial(disk_usage, archive),
            ),
            Contender(
                OURS,
                self.commit,
                before=partial(self.discard, self.store),
                size=partial(disk_usage, self.store),
            ),
        ]
        if not shutil.which("zstd"):
            del contenders[0]
        found = self._contest(
            "first", "First commit", contenders, bytes_are="stored", rounds=self.writing_rounds
        )
        self.discard(archive)
        return found

    def first_pull(self, server: Server) -> Table:
        """An empty directory each time; the last one stays."""
        ours = self._pulling(server, partial(self.discard, self.node))
        return self._contest(
            "pull", "First pull", [ours], bytes_are="moved", rounds=self.writing_rounds
        )

    def unchanged(self) -> Table:
        """The commit that finds nothing, and the walk of others; rsync compares with the node."""
        contenders = [
            Contender(OURS, self.commit),
            Contender("find -printf", same(programs.find(self.tree))),
        ]
        if shutil.which("rsync"):
            options = ("-n", "--delete", "--exclude=/.imgstore")
            compare = programs.rsync(f"{self.tree}/", self.node, *options)
            contenders.append(Contender("rsync -n", same(compare)))
        run(self.commit())
        return self._contest("unchanged", "Nothing changed", contenders)

    def nothing_to_do(self, server: Server) -> Table:
        """The node is what it should be."""
        return self._contest("nothing", "Nothing to do", [self._pulling(server)])

    def edited(self, server: Server) -> list[Table]:
        """A small edit: its commit, the diff, the pull."""

        def another(number: int) -> None:
            self.edit.apply(number)
            time.sleep(SETTLE)

        commit = Contender(OURS, self.commit)
        committed = self._contest("edit", "Commit after a small edit", [commit], each_round=another)
        diff = Contender(OURS, same(self.imgstore.diff(self.store)))
        compared = self._contest("diff", "Diff of a small edit", [diff])

        def behind(number: int) -> None:
            run(self.pull(server))
            another(100 + number)
            run(self.commit())

        pulling = [self._pulling(server)]
        title = "Pull of a small edit"
        pulled = self._contest("update", title, pulling, each_round=behind)
        return [committed, compared, pulled]

    def verify(self) -> Table:
        """Every byte of the store."""
        ours = Contender(OURS, same(self.imgstore.verify(self.store)))
        return self._contest("verify", "Verify the store", [ours], rounds=self.writing_rounds)

    def collect(self) -> Table:
        """All versions but the last, of a copy of the store."""
        used = self.work / "used"

        def put_back() -> None:
            self.discard(used)
            run(Command(["cp", "-a", str(self.store), str(used)]))
            run(self.imgstore.untag_first(used))

        ours = Contender(
            OURS,
            same(self.imgstore.collect(used)),
            before=put_back,
            size=partial(disk_usage, used),
        )
        found = self._contest("gc", "gc", [ours], bytes_are="left", rounds=self.writing_rounds)
        self.discard(used)
        return found

    def _pulling(self, server: Server, before: Callable[[], None] = nothing) -> Contender:
        pull = same(self.pull(server))
        return Contender(OURS, pull, before=before, traffic=of_report, server=server)

    def _contest(
        self,
        key: str,
        title: str,
        contenders: list[Contender],
        *,
        rounds: int | None = None,
        bytes_are: str = "",
        each_round: Callable[[int], None] | None = None,
    ) -> Table:
        about = f"{self.files:,} files."
        scenario = Scenario(
            key, title, about, OURS, contenders, each_round=each_round, bytes_are=bytes_are
        )
        return contest(scenario, self.rounds if rounds is None else rounds)

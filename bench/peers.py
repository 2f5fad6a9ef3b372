"""The other programs that keep versions: restic, borg, casync, ostree.

Every one gets what it takes to keep a system tree whole (owners, hardlinks, xattrs, ACLs) as far as
it can, and its usual compression; zstd level 3 where there is a choice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from shlex import join, quote

from archivers import Archiver
from measure import Command, run, shell


class Restic:
    """restic, from inside the tree, so that paths are relative; it always encrypts."""

    name = "restic"
    note = "durable on return (fsync); encrypts"

    def _on(self, repository: Path, *arguments: str) -> list[str]:
        places = ["-r", str(repository / "repository"), "--cache-dir", str(repository / "cache")]
        return ["restic", "-q", *places, *arguments]

    def first(self, repository: Path, tree: Path) -> Command:
        """`init` and `backup`."""
        init = join(self._on(repository, "init", "--repository-version", "2"))
        return shell(f"{init}; {join(self.again(repository, tree).arguments)}", tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`backup`, which finds the snapshot before by the directory."""
        return Command(self._on(repository, "backup", "."), tree)

    def diff(self, repository: Path) -> Command:
        """`diff`."""
        *_, old, new = self._snapshots(repository)
        return Command(self._on(repository, "diff", old, new))

    def restore(self, repository: Path, target: Path) -> Command:
        """`restore` from the local disk."""
        first = self._snapshots(repository)[0]
        return Command(self._on(repository, "restore", first, "--target", str(target)))

    def verify(self, repository: Path) -> Command:
        """`check` of all data."""
        return Command(self._on(repository, "check", "--read-data"))

    def collect(self, repository: Path) -> Command:
        """`forget` and `prune`."""
        last = self._snapshots(repository)[:-1]
        return Command(self._on(repository, "forget", "--prune", *last))

    def _snapshots(self, repository: Path) -> list[str]:
        listed = run(Command(self._on(repository, "snapshots", "--json")))
        found = sorted(json.loads(listed), key=lambda snapshot: snapshot["time"])
        return [snapshot["id"] for snapshot in found]


class Borg:
    """borg without encryption, zstd level 3."""

    name = "borg zstd,3"
    note = "durable on return (fsync)"

    def _on(self, repository: Path, *arguments: str) -> list[str]:
        # Its cache of files would know, of a repository that was put back, what is to come.
        return ["env", f"BORG_BASE_DIR={repository / 'cache'}", "borg", *arguments]

    def _archive(self, repository: Path, name: str = "") -> str:
        return f"{repository / 'repository'}::{name}" if name else str(repository / "repository")

    def first(self, repository: Path, tree: Path) -> Command:
        """`init` and `create`."""
        init = join(self._on(repository, "init", "-e", "none", self._archive(repository)))
        made = f"mkdir -p {quote(str(repository / 'cache'))}"
        return shell(f"{made}; {init}; {join(self.again(repository, tree).arguments)}", tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`create`, which knows the tree by its cache."""
        archive = self._archive(repository, "{now:%Y%m%d%H%M%S.%f}")
        words = ("create", "--compression", "zstd,3", archive, ".")
        return Command(self._on(repository, *words), tree)

    def diff(self, repository: Path) -> Command:
        """`diff`."""
        old, new = self._list(repository, "--last", "2")
        return Command(self._on(repository, "diff", self._archive(repository, old), new))

    def restore(self, repository: Path, target: Path) -> Command:
        """`extract` from the local disk."""
        (first,) = self._list(repository, "--first", "1")
        words = ("extract", "--numeric-ids", self._archive(repository, first))
        return Command(self._on(repository, *words), target)

    def verify(self, repository: Path) -> Command:
        """`check` of all data."""
        return Command(self._on(repository, "check", "--verify-data", self._archive(repository)))

    def collect(self, repository: Path) -> Command:
        """`prune` and `compact`."""
        place = self._archive(repository)
        prune = self._on(repository, "prune", "--keep-last", "1", place)
        return shell(f"{join(prune)}; {join(self._on(repository, 'compact', place))}")

    def _list(self, repository: Path, *options: str) -> list[str]:
        words = ("list", "--short", *options, self._archive(repository))
        return run(Command(self._on(repository, *words))).split()


class Casync:
    """casync with its defaults (zstd, 64 KiB chunks), and a cache for the second time."""

    name = "casync"
    note = "not durable on return"

    def first(self, repository: Path, tree: Path) -> Command:
        """`make`, with an empty cache."""
        (repository / "cache").mkdir(parents=True)
        return self.again(repository, tree)

    def again(self, repository: Path, tree: Path) -> Command:
        """`make`, over the index of the last time but the first."""
        index = "last" if (repository / "first.caidx").exists() else "first"
        places = [f"--cache={repository}/cache", f"--store={repository}/default.castr"]
        return Command(["casync", "make", *places, f"{repository}/{index}.caidx", str(tree)])

    def diff(self, repository: Path) -> None:
        """It has none."""
        del repository

    def restore(self, repository: Path, target: Path) -> Command:
        """`extract` from the local disk."""
        return self.extract(f"{repository}/first.caidx", target)

    def extract(self, index: str, target: Path, *options: str) -> Command:
        """`extract`; the chunk store is found beside the index."""
        return Command(["casync", "extract", *options, index, str(target)])

    def verify(self, repository: Path) -> None:
        """It has no check of a store."""
        del repository

    def collect(self, repository: Path) -> Command:
        """`gc` of all chunks that the last index does not name."""
        store = f"--store={repository}/default.castr"
        return Command(["casync", "gc", store, f"{repository}/last.caidx"])


class Ostree:
    """ostree, an archive repository as web servers offer it; it keeps no times and no devices."""

    name = "ostree"
    note = "durable on return (fsync); keeps no times"

    def _on(self, repository: Path, *arguments: str) -> list[str]:
        return ["ostree", f"--repo={repository}", *arguments]

    def first(self, repository: Path, tree: Path) -> Command:
        """`init` and `commit`."""
        init = join(self._on(repository, "init", "--mode=archive"))
        made = f"mkdir -p {quote(str(repository))}"
        return shell(f"{made}; {init}; {join(self.again(repository, tree).arguments)}")

    def again(self, repository: Path, tree: Path) -> Command:
        """`commit`."""
        return Command(self._on(repository, "commit", "-b", "web", f"--tree=dir={tree}"))

    def diff(self, repository: Path) -> Command:
        """`diff`."""
        return Command(self._on(repository, "diff", "web^", "web"))

    def restore(self, repository: Path, target: Path) -> Command:
        """`checkout` from the local disk."""
        words = ("checkout", "--union", self._first(repository), str(target))
        return Command(self._on(repository, *words))

    def pull(self, url: str, repository: Path, commit: str, target: Path) -> Command:
        """`pull` one commit of a served repository into a node's own one, and check it out.

        The tree shares the repository's files by hardlinks, as on nodes that boot from it.
        """
        node = f"ostree --repo={quote(str(repository))}"
        return shell(
            f"[ -d {quote(str(repository))} ] || {{ mkdir -p {quote(str(repository))}; "
            f"{node} init --mode=bare; {node} remote add --no-gpg-verify head {quote(url)}; }}; "
            f"{node} pull head {commit}; "
            f"{node} checkout --union -H {commit} {quote(str(target))}"
        )

    def commits(self, repository: Path) -> list[str]:
        """The commits, the oldest first."""
        listed = run(Command(self._on(repository, "log", "web")))
        lines = [line.split() for line in listed.splitlines()]
        return [words[1] for words in reversed(lines) if words[:1] == ["commit"]]

    def _first(self, repository: Path) -> str:
        return self.commits(repository)[0]

    def verify(self, repository: Path) -> Command:
        """`fsck`."""
        return Command(self._on(repository, "fsck", "-q"))

    def collect(self, repository: Path) -> Command:
        """`prune` of all but the last commit."""
        return Command(self._on(repository, "prune", "--refs-only", "--depth=0"))


PROGRAMS: dict[str, Callable[[], Archiver]] = {
    "restic": Restic,
    "borg": Borg,
    "casync": Casync,
    "ostree": Ostree,
}
"""The programs beside this one."""


def installed(among: Iterable[str] = PROGRAMS) -> list[Archiver]:
    """Those of these names that this machine has."""
    return [PROGRAMS[name]() for name in among if shutil.which(name)]

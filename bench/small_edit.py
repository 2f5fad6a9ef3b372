"""A small edit of a tree, as an administrator makes it, that can be taken back without a trace.

Three configuration files change, two are added, one is deleted, one gets another mode. Which, the
sorted list of small files under `etc` decides, so the same tree gets the same edit every time.
Taking it back restores content, modes and times to the nanosecond; ctimes can't be.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_LARGEST = 64 * 1024


class SmallEdit:
    """`apply` and `undo` on one tree; `aside` is a place on the same file system."""

    def __init__(self, tree: Path, aside: Path) -> None:
        base = tree / "etc" if (tree / "etc").is_dir() else tree
        files = sorted(_small_files(base))
        if len(files) < 8:
            raise SystemExit(f"{base} has fewer than eight small files to edit")
        at = [files[len(files) * eighth // 8] for eighth in range(8)]
        self._changed = [at[1], at[3], at[5]]
        self._deleted = at[6]
        self._chmodded = at[2]
        self._added = [at[4].parent / "imgstore-bench-1.conf", base / "imgstore-bench-2.conf"]
        self._aside = aside / "deleted"
        self._contents = {path: path.read_bytes() for path in self._changed}
        folders = {self._deleted.parent, *(path.parent for path in self._added)}
        self._statuses = {path: path.stat() for path in [*self._changed, self._chmodded, *folders]}
        self._applied = False

    def apply(self, number: int) -> None:
        """Make the edit; its content differs with `number`."""
        self.undo()
        for path in self._changed:
            with path.open("ab") as file:
                file.write(b"# edit %d\n" % number)
        for path in self._added:
            path.write_text(f"# added by edit {number}\nenabled = yes\n")
        self._deleted.rename(self._aside)
        self._chmodded.chmod(stat.S_IMODE(self._statuses[self._chmodded].st_mode) ^ 0o040)
        self._applied = True

    def undo(self) -> None:
        """Make the tree what it was."""
        if not self._applied:
            return
        for path in self._changed:
            path.write_bytes(self._contents[path])
        for path in self._added:
            path.unlink()
        self._aside.rename(self._deleted)
        self._chmodded.chmod(stat.S_IMODE(self._statuses[self._chmodded].st_mode))
        for path, status in self._statuses.items():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._applied = False


def _small_files(base: Path) -> list[Path]:
    found = []
    for folder, _, names in os.walk(base):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            is_alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if is_alone and 0 < status.st_size <= _LARGEST:
                found.append(path)
    return found

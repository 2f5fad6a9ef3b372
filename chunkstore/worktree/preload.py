"""Everything this program may still need, in memory before the tree changes.

The tree may hold the interpreter that runs this and its very modules. Those already imported go on
working, and so do libraries that are mapped: their files are replaced, not written to. What would
be imported only later could come from another version, or be missing for a moment.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Final

_PACKAGES: Final = ("objects", "storage.backends", "worktree", "pull")
_FROM_OUTSIDE: Final = (
    *("encodings.idna", "encodings.utf_8", "traceback", "http.client", "signal", "base64", "json"),
    *("ipaddress", "random", "urllib.parse"),
)


def everything() -> None:
    """Import all that finishing a pull, and telling of its failure, can need."""
    for name in _PACKAGES:
        package = importlib.import_module(f"chunkstore.{name}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in _FROM_OUTSIDE:
        importlib.import_module(name)

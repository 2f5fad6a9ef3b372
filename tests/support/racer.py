"""A local user who exchanges things in his directories as fast as he can while others look.

A process of its own, with his privileges and no others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.canary import USER

_SCRIPT = """
import ctypes, os, signal, sys
folder, uid, remake, *names = sys.argv[1:]
folder = int(folder)
os.setgroups([])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))
call = ctypes.CDLL(None).renameat2
pairs = [(os.fsencode(a), os.fsencode(b)) for a, b in zip(names[::2], names[1::2])]
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
swaps = 0
print("ready", flush=True)
while going:
    for one, other in pairs:
        if not call(folder, one, folder, other, 2):
            swaps += 1
        elif remake:
            for name in (one, other):
                try:
                    if name.startswith(b"evil"):
                        os.symlink(remake, name, dir_fd=folder)
                    else:
                        os.mkdir(name, dir_fd=folder)
                except OSError:
                    pass
print(swaps, flush=True)
"""


class Racer:
    """Exchanges each pair of names in `folder` over and over; a context manager.

    With `remake` a name that is gone comes back, as a directory or, if it begins with `evil`, as a
    link to there.
    `swaps` is how often that was done, once it has ended.
    """

    def __init__(self, folder: Path, *pairs: tuple[str, str], remake: Path | None = None) -> None:
        self.swaps = 0
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        arguments = [descriptor, USER, remake or "", *(name for pair in pairs for name in pair)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
                stdout=subprocess.PIPE,
                pass_fds=[descriptor],
            )
        finally:
            os.close(descriptor)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Racer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=60)
        self.swaps = int(out)

"""The cache: a directory with the packs a node has from swarms, whole or in part, and gives on.

    <pack>.pack      as far as it has come, its pieces at their places
    <pack>.torrent   with the trackers that knew it
    <pack>.peers     who else was in its swarm, a line each: address, port

Promises: it is reached by a descriptor, so that nobody can put another directory into its place; it
is emptied of what is not wanted now before it grows. Nothing in it is believed: pieces are hashed
before they are used. One process uses it at a time, which holds its lock.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.errors import Conflict, Corrupt, LocalError, local_errors
from chunkstore.objects import torrent as torrents
from chunkstore.objects.torrent import Torrent
from chunkstore.storage import layout
from chunkstore.swarm.announce import Peer

RESERVE: Final = 64 * 1024 * 1024
"""Bytes of the file system that are left free."""
LOCK: Final = "lock"
_MAX_PEERS: Final = 256 * 1024


class Cache:
    """The cache at `path`, made if it is not there. Raises `LocalError`, `Conflict` when in use."""

    def __init__(self, path: str) -> None:
        with local_errors("can't use the swarm's cache"):
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.directory = os.open(path, flags)
        self._lock = -1
        try:
            status = os.fstat(self.directory)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
                raise LocalError(f"{path} is open to others: a swarm's cache can't be there")
            with local_errors("can't use the swarm's cache"):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._lock = os.open(LOCK, flags, 0o600, dir_fd=self.directory)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)
        except LocalError as error:
            self.close()
            if isinstance(error.__cause__, BlockingIOError):
                raise Conflict(f"{path} is in use by another pull or seed") from error
            raise
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """The way to it that leads nowhere else, for those who can't use a descriptor."""
        return f"/proc/self/fd/{self.directory}"

    def packs(self) -> Iterator[Torrent]:
        """The packs that are here, by their torrents; what is damaged is passed over."""
        for name in sorted(os.listdir(self.directory)):
            match = layout.PACK_FILE.fullmatch(f"{layout.PACKS}{name}")
            if match is None or match["suffix"] != "torrent":
                continue
            with suppress(OSError, Corrupt):
                data = self._read(name, torrents.MAX_TORRENT + 1)
                yield torrents.parse(data, bytes.fromhex(match["id"]), name)

    def peers(self, pack: bytes) -> list[Peer]:
        """Who was in the swarm of a pack, as far as that was noted and can be read."""
        found = []
        with suppress(OSError, ValueError):
            for line in self._read(f"{pack.hex()}.peers", _MAX_PEERS).decode("ascii").splitlines():
                address, _, port = line.partition(" ")
                if 0 < int(port) < 2**16:
                    found.append(Peer(ipaddress.ip_address(address).packed, int(port)))
        return found

    def note_peers(self, pack: bytes, peers: Iterable[Peer]) -> None:
        """Note who is in the swarm of a pack, for whoever goes on giving it."""
        lines = [f"{ipaddress.ip_address(peer.address)} {peer.port}\n" for peer in peers]
        self._write(f"{pack.hex()}.peers", "".join(lines).encode())

    def _read(self, name: str, size: int) -> bytes:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory
        )
        with open(descriptor, "rb") as file:
            return file.read(size)

    def _write(self, name: str, data: bytes) -> None:
        with local_errors("can't write the swarm's cache"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=self.directory)
            try:
                fsio.write_all(descriptor, data)
            finally:
                os.close(descriptor)

    def keep(self, torrent: Torrent) -> None:
        """Note the torrent of a pack that is about to come."""
        self._write(f"{torrent.pack.hex()}.torrent", torrent.encode())

    def drop(self, pack: bytes) -> None:
        """Forget a pack."""
        for suffix in ("torrent", "pack", "peers"):
            with suppress(OSError):
                os.unlink(f"{pack.hex()}.{suffix}", dir_fd=self.directory)

    def room(self, limit: int | None, wanted: set[bytes], reserve: int = 0) -> int:
        """Bytes that may come, after all but the `wanted` packs have been dropped.

        So that on this file system at least `reserve` bytes stay free.
        """
        for torrent in list(self.packs()):
            if torrent.pack not in wanted:
                self.drop(torrent.pack)
        with local_errors("can't use the swarm's cache"):
            found = os.fstatvfs(self.directory)
        free = max(found.f_bavail * found.f_frsize - RESERVE - reserve, 0) // 2
        return free if limit is None else min(free, limit)

    def clear(self) -> None:
        """Drop everything."""
        for name in os.listdir(self.directory):
            match = layout.PACK_FILE.fullmatch(f"{layout.PACKS}{name}")
            if match is not None:
                self.drop(bytes.fromhex(match["id"]))

    def release(self) -> None:
        """Let another process use it; what is in files that are open can still be read."""
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def close(self) -> None:
        """Give back the descriptors, and the lock with them."""
        for descriptor in (self._lock, self.directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self.directory = -1

"""The stage: frames a node has fetched and not yet used, durable enough to survive a restart.

Each pack that is wanted in part has a sparse file here, with the fetched frames at their own
offsets. Nothing records which are there: a frame that decompresses and whose chunks have their
digests is there, everything else is fetched. So an interrupted fetch goes on where it stopped, and
nothing on the stage has to be believed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from chunkstore import fsio
from chunkstore.errors import Corrupt, NotFound, local_errors
from chunkstore.objects.digest import chunk_digest
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, abandon, doubt
from chunkstore.storage.catalog import FramePlace, Place
from chunkstore.storage.ranges import Range, open_frame, plan_ranges, read_range

Needs = dict[FramePlace, list[tuple[bytes, Place]]]
"""For each frame, the chunks in it that are wanted."""


class Stage:
    """A directory of sparse packs; also a `Reader` of them."""

    def __init__(self, root: str) -> None:
        self._root = root
        with local_errors("can't use the stage"):
            for folder in (layout.PACKS, layout.DELTAS):
                os.makedirs(os.path.join(root, folder), mode=0o700, exist_ok=True)

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        with local_errors("can't read the stage"):
            try:
                file = open(self._path(name), "rb")  # noqa: SIM115  closed right below
            except FileNotFoundError as error:
                raise NotFound(f"{name} is not on the stage", name=name) from error
            with file:
                return fsio.read_at(file.fileno(), start, stop)

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        with local_errors("can't read the stage"):
            return os.path.getsize(self._path(name))

    def close(self) -> None:
        """See `Reader.close`."""

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._root, ignore_errors=True)

    def fetch(self, needs: Needs, remote: Reader, *, threads: int) -> None:
        """Bring the wanted frames here, those that are not here already.

        Raises what `remote` raises, `Corrupt` when a frame does not hold its chunks, `LocalError`
        when the disk is full.
        """
        staged = os.listdir(os.path.join(self._root, layout.PACKS))
        missing = [frame for frame in needs if not (staged and self._holds(frame, needs[frame]))]
        pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        try:
            ranges = plan_ranges(missing)
            for done in [pool.submit(self._fetch_range, part, needs, remote) for part in ranges]:
                done.result()
        except KeyboardInterrupt:
            # Threads would go on with what they are at, which takes minutes on a slow line.
            abandon(remote)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _holds(self, frame: FramePlace, chunks: Iterable[tuple[bytes, Place]]) -> bool:
        try:
            stored = self.get(layout.pack(frame.pack), frame.offset, frame.offset + frame.stored)
            _check(open_frame(frame, stored), chunks)
        except (Corrupt, NotFound):
            return False
        return True

    def _fetch_range(self, wanted: Range, needs: Needs, remote: Reader) -> None:
        name = layout.pack(wanted.pack)
        while True:
            try:
                parts = _checked(remote, wanted, needs)
                break
            except Corrupt:
                if not doubt(remote, name, wanted.start, wanted.stop):
                    raise
        self.keep(name, parts)

    def keep(self, name: str, parts: Iterable[tuple[FramePlace, bytes | memoryview]]) -> None:
        """Write stored frames of one object to their places. Raises `LocalError`."""
        with local_errors("can't write the stage"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path(name), flags, 0o600)
            try:
                for frame, stored in parts:
                    fsio.write_at(descriptor, stored, frame.offset)
            finally:
                os.close(descriptor)


def _checked(remote: Reader, wanted: Range, needs: Needs) -> list[tuple[FramePlace, memoryview]]:
    parts = read_range(remote, wanted)
    for frame, stored in parts:
        _check(open_frame(frame, stored), needs[frame])
    return parts


def _check(raw: bytes, chunks: Iterable[tuple[bytes, Place]]) -> None:
    view = memoryview(raw)
    for digest, place in chunks:
        if chunk_digest(view[place.offset : place.offset + place.length]) != digest:
            pack = place.frame.pack.hex()
            raise Corrupt(
                f"chunk {digest.hex()} as received is damaged: pack {pack}, frame at "
                f"{place.frame.offset}",
                where=pack,
            )


class StagedFirst:
    """A reader that takes from the stage what is there, and right, and asks `remote` for the rest.

    `Doubtable`: a range that was wrong comes from the remote when it is asked for again.
    """

    def __init__(self, stage: Stage, remote: Reader) -> None:
        self._stage = stage
        self._remote = remote
        self._doubted: set[tuple[str, int, int]] = set()

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Reader.get`."""
        if (name, start, stop) not in self._doubted:
            with suppress(NotFound):
                data = self._stage.get(name, start, stop)
                if len(data) == stop - start:
                    return data
            self._doubted.add((name, start, stop))
        return self._remote.get(name, start, stop)

    def size(self, name: str) -> int:
        """See `Reader.size`."""
        return self._remote.size(name)

    def close(self) -> None:
        """Both belong to who made this."""

    def abandon(self) -> None:
        """See `Abandonable.abandon`."""
        abandon(self._remote)

    def doubt(self, name: str, start: int, stop: int) -> bool:
        """See `Doubtable.doubt`."""
        if (name, start, stop) in self._doubted:
            return doubt(self._remote, name, start, stop)
        self._doubted.add((name, start, stop))
        return True

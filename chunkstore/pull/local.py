"""What a pull need not fetch: chunks that the node's own files hold, and frames fetched before.

Files of the versions the tree is made of are looked through for the chunks that are needed, moved
and renamed ones too. What is found is read and its digest checked at once; a file that was changed
here is no source, and its chunks are fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.pull.context import Context
from chunkstore.pull.remote import CONNECTIONS, Remote
from chunkstore.storage import layout
from chunkstore.storage.backend import Span, foresee
from chunkstore.storage.catalog import FramePlace, Place
from chunkstore.storage.stage import Stage
from chunkstore.worktree.content import chunks_of, has_content
from chunkstore.worktree.sources import TreeChunks

_AT_ONCE = 4096


def needed_for(context: Context, made: Iterable[Entry]) -> dict[bytes, int]:
    """The chunks of new files, and their lengths."""
    needed: dict[bytes, int] = {}
    for entry in made:
        if has_content(entry):
            needed.update(chunks_of(entry, context.load))
    return needed


def find_locally(
    context: Context,
    needed: Mapping[bytes, int],
    roots: Iterable[NodeRef],
    sources: TreeChunks,
    *,
    besides: Set[bytes] = frozenset(),
) -> list[bytes]:
    """Find chunks in the tree; returns those of `needed` that are not there.

    `roots` are the manifests of the versions the tree may hold parts of. Of what is wanted
    `besides` the places are noted, not looked at. Fills in the report.
    """
    report = context.report
    report.needed_chunks = len(needed)
    report.needed_bytes = sum(needed.values())
    missing = list(needed)
    for root in roots:
        if missing:
            wanted = {*besides, *missing}
            _note_places(context, manifest.walk(root, context.load), wanted, sources)
        for digest in missing:
            if sources.has(digest) and sources.load(digest, needed[digest]) is None:
                # The file was changed here since it was installed.
                sources.forget(digest)
        missing = [digest for digest in missing if not sources.has(digest)]
    report.fetched_chunks = len(missing)
    report.fetched_bytes = sum(needed[digest] for digest in missing)
    report.local_chunks = report.needed_chunks - report.fetched_chunks
    report.local_bytes = report.needed_bytes - report.fetched_bytes
    context.progress.came(own=report.local_bytes)
    return missing


def _note_places(
    context: Context, entries: Iterable[Entry], needed: Set[bytes], sources: TreeChunks
) -> None:
    for entry in entries:
        if not has_content(entry):
            continue
        offset = 0
        for digest, length in chunklist.walk(entry, context.load):
            if digest in needed:
                sources.add(digest, entry.path, offset)
            offset += length


def fetch(context: Context, remote: Remote, chunks: list[bytes], stage: Stage) -> None:
    """Bring the frames that hold these chunks to the stage."""
    locator = remote.locator
    assert locator is not None
    try:
        _fetch(context, remote, locator.places(chunks), stage)
    except (NotFound, Corrupt):
        # The packs may have been repacked since the node heard of them, or an index be wrong.
        if not locator.refresh():
            raise
        _fetch(context, remote, locator.places(chunks), stage)


def _fetch(context: Context, remote: Remote, places: dict[bytes, Place], stage: Stage) -> None:
    frames: dict[FramePlace, list[tuple[bytes, Place]]] = {}
    for digest, place in places.items():
        frames.setdefault(place.frame, []).append((digest, place))
    context.report.moving += sum(frame.stored for frame in frames)
    # The new files, and what is staged for them.
    reserve = context.report.needed_bytes + context.report.moving
    foresee(remote.reader, spans(frames), reserve=reserve)
    stage.fetch(frames, remote.reader, threads=CONNECTIONS)


def weigh(context: Context, remote: Remote, chunks: Iterable[bytes]) -> None:
    """Note in the report how many stored bytes fetching these chunks would move."""
    frames = frames_of(remote, chunks)
    context.report.moving = sum(frame.stored for frame in frames)


def frames_of(remote: Remote, chunks: Iterable[bytes]) -> set[FramePlace]:
    """The frames that hold these chunks. Raises `NotFound`."""
    frames: set[FramePlace] = set()
    for batch in _batches(chunks):
        assert remote.locator is not None
        frames.update(place.frame for place in remote.locator.places(batch).values())
    return frames


def spans(frames: Iterable[FramePlace]) -> dict[str, list[Span]]:
    """Which parts of which packs hold these frames."""
    found: dict[str, list[Span]] = {}
    for frame in sorted(frames):
        parts = found.setdefault(layout.pack(frame.pack), [])
        stop = frame.offset + frame.stored
        if parts and parts[-1][1] == frame.offset:
            parts[-1] = (parts[-1][0], stop)
        else:
            parts.append((frame.offset, stop))
    return found


def _batches(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for digest in chunks:
        batch.append(digest)
        if len(batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch

"""Remotes made by hand: for manifests and hints that no honest store would hold."""

from __future__ import annotations

import shutil
import tempfile

from chunkstore.objects import codec, documents, manifest, pack
from chunkstore.objects import entry as entries
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.digest import chunk_digest, pack_hasher, version_digest
from chunkstore.objects.documents import PackUse, Ref, Settings, Tag, Version
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.pack import CHUNK, Frame
from chunkstore.storage import layout
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.trust.keys import from_secret
from chunkstore.trust.refs import sign_ref
from chunkstore.trust.root import Root, role, sign_root

STORE_ID = bytes(range(16))
ROOT = from_secret(b"r" * 32)
ONLINE = from_secret(b"o" * 32)


class Forge:
    """A remote in memory whose versions are whatever entries it is given."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        settings = Settings(STORE_ID, Parameters(), "auto")
        self.backend.put(layout.SETTINGS, settings.encode())
        signed = sign_root(Root(STORE_ID, 1, 0, 0, role([ROOT.key]), role([ONLINE.key])), [ROOT])
        self.backend.put(layout.root(1), signed.encode())
        self.uses: list[PackUse] = []
        self.sequence = 0
        self._chunks: dict[bytes, bytes] = {}
        self._packed: set[bytes] = set()

    def save(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self._chunks[digest] = data
        return digest

    # Entries

    def file(self, path: bytes, data: bytes = b"", **fields: object) -> Entry:
        content = RECORD.pack(self.save(data), len(data)) if data else b""
        made = Entry(path, entries.FILE, 0o644, 0, 0, 10**18, len(data), content)
        return made._replace(**fields)  # type: ignore[arg-type]

    def directory(self, path: bytes, **fields: object) -> Entry:
        made = Entry(path, entries.DIRECTORY, 0o755, 0, 0, 10**18)
        return made._replace(**fields)  # type: ignore[arg-type]

    def symlink(self, path: bytes, target: bytes, **fields: object) -> Entry:
        made = Entry(path, entries.SYMLINK, 0o777, 0, 0, 10**18, 0, target)
        return made._replace(**fields)  # type: ignore[arg-type]

    def fifo(self, path: bytes, **fields: object) -> Entry:
        made = Entry(path, entries.FIFO, 0o644, 0, 0, 10**18)
        return made._replace(**fields)  # type: ignore[arg-type]

    # Objects

    def pack(self) -> None:
        """Put all chunks that are in no pack yet into a new one."""
        wanted = {key: data for key, data in self._chunks.items() if key not in self._packed}
        if not wanted:
            return
        self._packed |= wanted.keys()
        pack_id, index = self.put_pack(list(wanted.items()))
        self.backend.put(layout.index(pack_id), index)
        size = self.backend.size(layout.pack(pack_id))
        self.uses.insert(0, PackUse(pack_id, size, len(index)))

    def put_pack(self, chunks: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """Store a pack with each chunk in a frame of its own; its id and its index."""
        frames, records = [], []
        body = bytearray(pack.encode_header())
        for digest, data in chunks:
            method, stored = codec.compress(data, "auto")
            frames.append(Frame(len(body), len(stored), len(data), 1, method))
            records.append(CHUNK.pack(digest, len(data)))
            body += stored
        index = pack.encode_index(frames, b"".join(records))
        body += index + pack.encode_footer(index)
        hasher = pack_hasher()
        hasher.update(bytes(body))
        pack_id = hasher.digest()
        self.backend.put(layout.pack(pack_id), bytes(body))
        return pack_id, index

    def publish(self, *items: Entry, root: NodeRef | None = None) -> bytes:
        """Make these entries the latest version of the image `web`; its id."""
        root = root or manifest.build(items, self.save)
        self.pack()
        self.sequence += 1
        data = Version(root, b"", self.sequence, "").encode()
        version_id = version_digest(data)
        self.backend.put(layout.version(version_id), data)
        self.backend.put(
            layout.locate(version_id), documents.encode_locate(version_id, list(self.uses))
        )
        tags = (Tag("latest", version_id, len(data)),)
        ref = Ref(STORE_ID, "web", 1, self.sequence, self.sequence, 0, tags)
        self.backend.put(layout.ref("web"), documents.encode_ref(sign_ref(ref, [ONLINE])))
        return version_id


def temporary_copy(path: str) -> str:
    """A copy of a directory that a test may damage."""
    target = tempfile.mkdtemp(prefix="imgstore-test-")
    shutil.rmtree(target)
    shutil.copytree(path, target)
    return target

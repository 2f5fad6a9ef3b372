"""A store of an administrator, what somebody else serves of it over HTTP, and a node that pulls.

`served` is a copy that whoever has the server can change at will: it is what the node sees. The
secret keys are those of the administrator; a test says when a thief has them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chunkstore import keys, pin
from chunkstore.commit import commit
from chunkstore.errors import Untrusted
from chunkstore.objects import documents
from chunkstore.objects.documents import Ref
from chunkstore.objects.envelope import Envelope
from chunkstore.objects.names import parse_layers
from chunkstore.pull import PullOptions, PullReport, Trust, pull
from chunkstore.server import running
from chunkstore.storage import layout
from chunkstore.storage.backends import open_reader
from chunkstore.trust.keys import Signer, from_secret
from chunkstore.trust.memory import Memory
from chunkstore.trust.refs import sign_ref
from chunkstore.trust.root import Root, SignedRoot, parse_root, sign_root
from chunkstore.worktree.node import NodeState

from . import stores, trees

DAY = 86_400 * 10**9
NOW = 1_800_000_000 * 10**9
STRANGER = from_secret(b"s" * 32)
OTHER = from_secret(b"t" * 32)


class Scene:
    """See above. `now` is the time of everybody; the served copy is made by `serve`."""

    def __init__(self, place: Path, url: str = "") -> None:
        self.place = place
        self.url = url
        self.now = NOW
        self.tree = place / "tree"
        self.tree.mkdir()
        self.served = place / "served"
        self.served.mkdir(exist_ok=True)
        self.node = place / "node"
        self.store = stores.make_store(place / "store", now=NOW)

    # The administrator

    def commit(self, content: str, image: str = "web") -> bytes:
        """Record a tree whose file says so, and serve it; the version's id."""
        self.now += 1
        (self.tree / "file").write_text(content)
        stores.settle()
        report = commit(self.store, image, str(self.tree), now=self.now)
        self.serve()
        return report.version.id

    def serve(self) -> None:
        """Serve the store as it is."""
        for name in self.served.iterdir():
            if name.is_dir():
                shutil.rmtree(name)
        shutil.copytree(
            self.store.root, self.served, ignore=lambda *_: ["local"], dirs_exist_ok=True
        )

    def keep(self) -> Path:
        """A copy of what is served now, to be played back."""
        kept = self.place / f"kept {len(list(self.place.glob('kept *')))}"
        shutil.copytree(self.served, kept)
        return kept

    def play_back(self, kept: Path, *names: str) -> None:
        """Serve some of what was kept, or all of it."""
        if not names:
            for name in self.served.iterdir():
                if name.is_dir():
                    shutil.rmtree(name)
            shutil.copytree(kept, self.served, dirs_exist_ok=True)
        for name in names:
            shutil.copy(kept / name, self.served / name)

    def rotate(self, what: str = keys.ONLINE, **options: object) -> None:
        self.now += 1
        keys.rotate(self.store, what, now=self.now, **options)  # type: ignore[arg-type]
        self.serve()

    def refresh(self) -> None:
        self.now += 1
        keys.refresh(self.store, now=self.now)
        self.serve()

    @property
    def signed_root(self) -> SignedRoot:
        return self.store.authority.own_root()

    @property
    def root(self) -> Root:
        return self.signed_root.root

    def root_key(self) -> Signer:
        return self._secret(self.root.roots.keys[0].id)

    def online_key(self) -> Signer:
        return self._secret(self.root.refs.keys[0].id)

    def _secret(self, key_id: bytes) -> Signer:
        file = self.store.authority.keyring.find(key_id)
        assert file is not None
        return file.open()

    # What is served

    def path(self, name: str) -> Path:
        return self.served / name

    def ref(self, image: str = "web") -> Ref:
        return documents.open_ref(self.path(layout.ref(image)).read_bytes(), "served")[0]

    def envelope(self, image: str = "web") -> Envelope:
        return documents.open_ref(self.path(layout.ref(image)).read_bytes(), "served")[1]

    def put_ref(self, ref: Ref, *signers: Signer, image: str = "web") -> None:
        self.put_envelope(sign_ref(ref, list(signers)), image=image)

    def put_envelope(self, envelope: Envelope, image: str = "web") -> None:
        self.path(layout.ref(image)).write_bytes(documents.encode_ref(envelope))

    def put_root(self, root: Root, *signers: Signer, version: int | None = None) -> None:
        name = layout.root(version or root.version)
        self.path(name).write_bytes(sign_root(root, signers).encode())

    def served_root(self, version: int) -> Root:
        return parse_root(self.path(layout.root(version)).read_bytes()).root

    # The node

    def pull(
        self, spec: str = "web", *, clock: int | None = None, trust: Trust = Trust.PINNED
    ) -> PullReport:
        options = PullOptions(trust=trust, clock=self.now if clock is None else clock)
        with closing(open_reader(self.url)) as reader:
            return pull(reader, parse_layers(spec), str(self.node), options=options)

    def pin(self, keys: Sequence[bytes] | None = None, **options: object) -> Root:
        ids = [key.id for key in self.root.roots.keys] if keys is None else keys
        with closing(open_reader(self.url)) as reader:
            return pin.pin(reader, str(self.node), clock=self.now, keys=ids, **options)  # type: ignore[arg-type]

    def install(self, spec: str = "web") -> None:
        self.pin()
        self.pull(spec)

    def memory(self) -> Memory | None:
        if not (self.node / ".imgstore").is_dir():
            return None
        with NodeState(str(self.node), read_only=True) as state:
            return state.memory

    def content(self) -> str | None:
        path = self.node / "file"
        return path.read_text() if path.exists() else None

    def facts(self) -> object:
        """What the tree is, less what the node keeps of itself; None when there is none."""
        found = trees.facts(self.node) if self.node.exists() else {}
        return found if len(found) > 1 else None

    def refused(
        self,
        says: str,
        spec: str = "web",
        *,
        clock: int | None = None,
        trust: Trust = Trust.PINNED,
        follows_root: bool = False,
    ) -> None:
        """The node refuses what is served, and is what it was; what it remembers is, too.

        `follows_root`: but for the root, which was vouched for.
        """
        before, known = self.facts(), self.memory()
        with pytest.raises(Untrusted, match=says):
            self.pull(spec, clock=clock, trust=trust)
        assert self.facts() == before
        after = self.memory()
        if follows_root:
            assert known is not None
            assert after is not None
            assert after.root.version > known.root.version
            assert after.images == known.images
        else:
            assert after == known


@contextmanager
def scene_at(place: Path) -> Iterator[Scene]:
    """A scene with its server running."""
    (place / "served").mkdir()
    with running(place / "served") as url:
        scene = Scene(place, url)
        try:
            yield scene
        finally:
            scene.store.close()


AGENT = """#!{python}
import sys
sys.path[:0] = {path!r}
from chunkstore.trust import keyfile
from chunkstore.trust.keys import from_secret
pair = from_secret({secret!r})
if sys.argv[-1] == "public":
    print(keyfile.encode_public(pair.key), end="")
else:
    sys.stdout.buffer.write(pair.sign(sys.stdin.buffer.read()))
"""


def make_agent(place: Path, secret: bytes) -> Path:
    """A program that signs with this secret."""
    path = place / "agent"
    path.write_text(AGENT.format(python=sys.executable, path=sys.path, secret=secret))
    path.chmod(0o700)
    return path

"""The administrator's side: what is signed by itself, and what nobody gets signed."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stores
from support.falsified import DAY, NOW, STRANGER, make_agent
from support.live import imgstore

from chunkstore import keys
from chunkstore.commit import commit
from chunkstore.errors import Conflict, LocalError, Untrusted, Usage
from chunkstore.gc import collect
from chunkstore.objects import documents
from chunkstore.objects.documents import Ref
from chunkstore.objects.envelope import Envelope
from chunkstore.objects.names import parse_spec
from chunkstore.server import running
from chunkstore.storage import layout
from chunkstore.storage.store import Store
from chunkstore.tags import remove, remove_image, tag, untag
from chunkstore.trust.keys import from_secret
from chunkstore.trust.refs import check_signature, sign_ref
from chunkstore.trust.root import sign_root
from chunkstore.verify.store import verify_store


@pytest.fixture
def store(quick: Path) -> Iterator[Store]:
    with stores.make_store(quick / "store", now=NOW) as made:
        (quick / "tree").mkdir()
        (quick / "tree/file").write_text("one")
        commit(made, "web", str(quick / "tree"), now=NOW)
        yield made


def edit(store: Store, content: str) -> Path:
    tree = Path(store.root).parent / "tree"
    (tree / "file").write_text(content)
    stores.settle()
    return tree


def raw(store: Store, image: str = "web") -> bytes:
    return Path(store.root, layout.ref(image)).read_bytes()


def put(store: Store, ref: Ref, *signers: object) -> None:
    data = documents.encode_ref(sign_ref(ref, list(signers)))  # type: ignore[arg-type]
    Path(store.root, layout.ref(ref.image)).write_bytes(data)


def signed(store: Store) -> Ref:
    """The ref, checked by the root that is served."""
    ref, envelope = documents.open_ref(raw(store), "served")
    check_signature(ref, envelope, store.authority.newest_served().root)
    return ref


def test_every_verb_signs_by_itself(store: Store) -> None:
    assert signed(store).sequence == 1
    commit(store, "web", str(edit(store, "two")), now=NOW + 1)
    assert signed(store).sequence == 2
    tag(store, parse_spec("web~1"), "old", now=NOW + 2)
    untag(store, "web", "old", now=NOW + 3)
    remove(store, parse_spec("web:latest"), now=NOW + 4)
    assert signed(store).sequence == 5
    collect(store, keep=1, grace=0, dry_run=False, now=NOW + 5)
    assert signed(store).expires == NOW + 4 + 7 * DAY
    remove_image(store, "web")
    commit(store, "web", str(edit(store, "three")), now=NOW + 6)
    assert signed(store).sequence == 6


@pytest.mark.parametrize("change", ["a stranger's", "not signed", "tags of another time"])
def test_nothing_is_signed_on_top_of_what_was_put_there(store: Store, change: str) -> None:
    """Who can only write to the served part gets no signature, and gc drops nothing for him."""
    ref = store.ref("web")
    falsified = ref.without_tag("base")._replace(sequence=ref.sequence + 1)
    if change == "a stranger's":
        put(store, falsified, STRANGER)
    elif change == "not signed":
        data = documents.encode_ref(Envelope(falsified.payload))
        Path(store.root, layout.ref("web")).write_bytes(data)
    else:
        envelope = documents.open_ref(raw(store), "here")[1]
        data = documents.encode_ref(envelope._replace(payload=falsified.payload))
        Path(store.root, layout.ref("web")).write_bytes(data)
    before = raw(store)
    tree = edit(store, "two")
    for verb in (
        lambda: commit(store, "web", str(tree), now=NOW + 1),
        lambda: tag(store, parse_spec("web"), "mine", now=NOW + 1),
        lambda: remove_image(store, "web"),
        lambda: keys.refresh(store, now=NOW + 1),
        lambda: keys.rotate(store, keys.ONLINE, now=NOW + 1),
        lambda: collect(store, keep=None, grace=0, dry_run=False, now=NOW + 1),
        lambda: store.resolve(parse_spec("web")),
    ):
        with pytest.raises(Untrusted):
            verb()
        assert raw(store) == before
    problems = {problem.name for problem in verify_store(store).problems}
    assert layout.ref("web") in problems


def test_a_root_of_others_is_not_taken_for_an_interrupted_rotation(store: Store) -> None:
    root = store.authority.own_root().root
    forged = sign_root(root._replace(version=2), [STRANGER])
    Path(store.root, layout.root(2)).write_bytes(forged.encode())
    with pytest.raises(Untrusted, match="root document 2"):
        commit(store, "web", str(edit(store, "two")), now=NOW + 1)
    assert layout.root(2) in {problem.name for problem in verify_store(store).problems}


def test_what_counts_is_not_what_is_served(store: Store) -> None:
    """A root that is changed where everybody can see it changes nothing for who signs."""
    before = store.authority.own_root()
    root = before.root._replace(refs=before.root.roots)
    Path(store.root, layout.root(1)).write_bytes(sign_root(root, [STRANGER]).encode())
    commit(store, "web", str(edit(store, "two")), now=NOW + 1)
    assert store.authority.own_root() == before
    assert layout.root(1) in {problem.name for problem in verify_store(store).problems}


def test_keys_are_ours_alone_and_not_served(store: Store) -> None:
    from chunkstore.server.public import PublicTree  # the grammar of what can be asked for

    local = Path(store.root, "local")
    assert stat.S_IMODE(local.stat().st_mode) == 0o700
    secrets = list((local / "keys").iterdir())
    assert len(secrets) == 2
    for path in [*secrets, local / "root"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PublicTree.__doc__ is not None
    found = b"".join(path.read_bytes() for path in Path(store.root).rglob("*") if path.is_file())
    assert found.count(b"IMGSKEY ") == 2


def test_a_store_that_signs_nothing(quick: Path) -> None:
    with stores.make_store(quick / "store", now=NOW, is_signed=False) as store:
        (quick / "tree").mkdir()
        commit(store, "web", str(quick / "tree"), now=NOW)
        ref, envelope = documents.open_ref(raw(store), "here")
        assert (ref.root, ref.expires, envelope.signatures) == (0, 0, ())
        assert not list(Path(store.root, "roots").iterdir())
        for verb in (keys.current_root, keys.held):
            with pytest.raises(Usage, match="--unsigned"):
                verb(store)
        with pytest.raises(Usage):
            keys.rotate(store, keys.ONLINE, now=NOW)
        assert verify_store(store).problems == ()


def test_a_signed_store_does_not_become_unsigned(store: Store) -> None:
    """Even when all its keys are gone."""
    shutil.rmtree(Path(store.root, "local"))
    Path(store.root, "local").mkdir()
    with pytest.raises(LocalError, match="is missing"):
        commit(store, "web", str(edit(store, "two")), now=NOW + 1)
    assert signed(store).sequence == 1


def test_refresh(store: Store) -> None:
    report = keys.refresh(store, now=NOW + DAY)
    assert report.images == ("web",)
    assert not report.is_root_renewed
    ref = signed(store)
    assert (ref.sequence, ref.time, ref.expires) == (2, NOW + DAY, NOW + 8 * DAY)
    keys.refresh(store, now=NOW + DAY, lifetime=14 * 86400)
    assert signed(store).expires == NOW + 15 * DAY
    with Store(store.root) as again:
        assert again.settings.lifetime == 14 * 86400
        commit(again, "web", str(edit(store, "two")), now=NOW + 2 * DAY)
    assert signed(store).expires == NOW + 16 * DAY


def test_refs_without_expiry_are_left_alone(store: Store) -> None:
    keys.refresh(store, now=NOW + 1, lifetime=0)
    before = raw(store)
    assert signed(store).expires == 0
    assert keys.refresh(store, now=NOW + 2).images == ()
    assert raw(store) == before


def test_refresh_renews_the_root_document_while_its_key_is_here(store: Store) -> None:
    assert not keys.refresh(store, now=NOW + 180 * DAY).is_root_renewed
    report = keys.refresh(store, now=NOW + 190 * DAY)
    assert report.is_root_renewed
    assert (report.root.version, report.root.expires) == (2, NOW + 555 * DAY)
    assert signed(store).root == 2
    keys.take_out(store, keys.ROOT, str(Path(store.root).parent / "root.key"), remove=True)
    report = keys.refresh(store, now=NOW + 500 * DAY)
    assert not report.is_root_renewed
    assert report.root.version == 2


def test_the_root_key_taken_offline(store: Store, tmp_path: Path) -> None:
    path = str(tmp_path / "root.key")
    key = keys.take_out(store, keys.ROOT, path, passphrase=b"word", remove=True)
    held = {item.role: item for item in keys.held(store)}
    assert held[keys.ROOT].key == key
    assert not held[keys.ROOT].is_here
    assert held[keys.ONLINE].is_here
    with pytest.raises(LocalError, match="--root-key"):
        keys.rotate(store, keys.ONLINE, now=NOW + 1)
    commit(store, "web", str(edit(store, "two")), now=NOW + 1)
    from chunkstore.storage.keyring import read_secret

    signer = read_secret(path).open(b"word")
    assert keys.rotate(store, keys.ONLINE, now=NOW + 2, signers=[signer]).root.version == 2
    assert signed(store).root == 2
    with pytest.raises(LocalError, match="--root-key"):
        keys.rotate(store, keys.ONLINE, now=NOW + 3, signers=[STRANGER])


def test_a_key_that_is_removed_is_elsewhere_before(store: Store, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(Conflict):
        keys.take_out(store, keys.ROOT, str(tmp_path / "taken"), remove=True)
    assert all(item.is_here for item in keys.held(store))


def test_rotating_the_root_key(store: Store) -> None:
    old = store.authority.own_root().root.roots.keys
    report = keys.rotate(store, keys.ROOT, now=NOW + 1)
    assert report.root.roots.keys != old
    served = store.authority.served(2)
    assert len(served.envelope.signatures) == 2
    assert store.authority.keyring.find(old[0].id) is None
    assert keys.rotate(store, keys.ONLINE, now=NOW + 2).root.version == 3


def test_a_next_root_without_the_old_keys_is_not_served(store: Store) -> None:
    new = from_secret(b"n" * 32)
    keys.take_out(store, keys.ROOT, str(Path(store.root).parent / "root.key"), remove=True)
    with pytest.raises(LocalError):
        keys.rotate(store, keys.ROOT, now=NOW + 1, new=[new])
    assert not Path(store.root, layout.root(2)).exists()


def test_two_of_three_root_keys(store: Store) -> None:
    three = [from_secret(bytes([number]) * 32) for number in (1, 2, 3)]
    report = keys.rotate(store, keys.ROOT, now=NOW + 1, new=three, threshold=2)
    assert (report.root.roots.threshold, len(report.root.roots.keys)) == (2, 3)
    for signers in ([], three[:1], [three[0], STRANGER]):
        with pytest.raises(LocalError, match="--root-key"):
            keys.rotate(store, keys.ONLINE, now=NOW + 2, signers=signers)
    assert keys.rotate(store, keys.ONLINE, now=NOW + 2, signers=three[1:]).root.version == 3
    for threshold in (0, 2, 17):
        with pytest.raises(Usage, match="can't be asked"):
            keys.rotate(
                *(store, keys.ROOT), now=NOW + 3, new=three[:1], threshold=threshold, signers=three
            )


def test_an_agent_signs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = from_secret(b"a" * 32)
    with pytest.raises(LocalError, match="no key here to sign with"):
        keys.rotate(store, keys.ONLINE, now=time.time_ns(), new=[pair.key])
    assert not Path(store.root, layout.root(2)).exists()
    with Store(store.root, signers=[pair]) as other:
        keys.rotate(other, keys.ONLINE, now=time.time_ns(), new=[pair.key])
    tree = edit(store, "two")
    words = ["--store", store.root, "commit", "web", tree]
    ended = imgstore(*words)
    assert ended.code == 7
    assert "no key here to sign with" in ended.err
    with monkeypatch.context() as patch:
        patch.setenv("IMGSTORE_KEY_COMMAND", f"{make_agent(tmp_path, pair.secret)} --token 7")
        assert imgstore(*words).code == 0
    assert signed(store).root == 2
    from chunkstore.storage.keyring import write_secret

    write_secret(str(tmp_path / "key"), pair)
    edit(store, "three")
    monkeypatch.setenv("IMGSTORE_KEY", str(tmp_path / "key"))
    assert imgstore(*words).code == 0
    write_secret(str(tmp_path / "stranger"), STRANGER)
    monkeypatch.setenv("IMGSTORE_KEY", str(tmp_path / "stranger"))
    edit(store, "four")
    ended = imgstore(*words)
    assert (ended.code, signed(store).find("latest")) == (7, store.ref("web").find("latest"))
    assert "is not one that signs refs" in ended.err


def test_made_for_a_key_that_signs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = from_secret(b"a" * 32)
    monkeypatch.setenv("IMGSTORE_KEY_COMMAND", str(make_agent(tmp_path, pair.secret)))
    (tmp_path / "tree").mkdir()
    store = ["--store", tmp_path / "store"]
    assert imgstore(*store, "commit", "web", tmp_path / "tree").code == 0
    found = imgstore(*store, "key", "list", "--json").document["keys"]
    assert [(item["role"], item["here"]) for item in found] == [("root", True), ("online", False)]
    assert found[1]["key"] == pair.key.fingerprint


def test_made_with_a_root_key_elsewhere(tmp_path: Path) -> None:
    word, key = tmp_path / "word", tmp_path / "root.key"
    word.write_text("correct horse\n")
    store = ["--store", tmp_path / "store"]
    ended = imgstore(
        *store, "init", "--root-key", key, "--passphrase-file", word, "--json", "--lifetime", "2"
    )
    assert ended.code == 0, ended.err
    assert ended.document["lifetime"] == 2 * 86400
    assert key.read_bytes()[:7] == b"IMGSKEY"
    listed = imgstore(*store, "key", "list", "--json").document
    assert [item["here"] for item in listed["keys"]] == [False, True]
    assert listed["keys"][0]["key"] == ended.document["root_keys"][0]
    rotate = [*store, "key", "rotate", "online", "--root-key", key]
    os.environ.pop("IMGSTORE_PASSPHRASE_FILE", None)
    assert imgstore(*rotate).code == 7
    assert imgstore(*rotate, "--passphrase-file", word).code == 0
    (tmp_path / "wrong").write_text("wrong\n")
    assert imgstore(*rotate, "--passphrase-file", tmp_path / "wrong").code == 5


def test_the_environment_can_name_the_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "word").write_text("correct horse\n")
    made = imgstore(
        *("key", "generate", tmp_path / "key"), "--passphrase-file", tmp_path / "word", "--json"
    )
    assert made.code == 0
    store = ["--store", tmp_path / "store"]
    assert imgstore(*store, "init", "--root-key", tmp_path / "key").code == 7
    monkeypatch.setenv("IMGSTORE_PASSPHRASE_FILE", str(tmp_path / "word"))
    ended = imgstore(*store, "init", "--root-key", tmp_path / "key", "--json")
    assert ended.document["root_keys"] == [made.document["key"]]


def test_the_ceremony(tmp_path: Path) -> None:
    """The five commands of docs/security.md, but for the timer."""
    (tmp_path / "word").write_text("correct horse\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("one")
    store = ["--store", tmp_path / "store"]
    assert imgstore(*store, "init").code == 0
    assert (
        imgstore(
            *(*store, "key", "export", "root", "--remove", "-o", tmp_path / "root.key"),
            *("--passphrase-file", tmp_path / "word"),
        ).code
        == 0
    )
    assert imgstore(*store, "key", "export", "document", "-o", tmp_path / "root.doc").code == 0
    assert imgstore(*store, "key", "export", "public", "-o", tmp_path / "root.pub").code == 0
    assert imgstore(*store, "commit", "web", tmp_path / "tree").code == 0
    assert imgstore(*store, "refresh").code == 0
    fingerprint = imgstore(*store, "key", "list", "--json").document["keys"][0]["key"]
    for number, key in enumerate((tmp_path / "root.doc", tmp_path / "root.pub", fingerprint)):
        node = tmp_path / f"node {number}"
        pull = ("pull", "--watch", f"{tmp_path}/store/web", node)
        assert imgstore("trust", tmp_path / "store", "--key", key, node).code == 0
        assert imgstore(*[word for word in pull if word != "--watch"]).code == 0
        assert (node / "file").read_text() == "one"
    assert imgstore("trust", tmp_path / "store", "--key", "0" * 64, tmp_path / "n").code == 5
    assert imgstore("trust", tmp_path / "store", tmp_path / "n").code == 2
    assert imgstore("trust", "--forget", tmp_path / "node 0").code == 0


def test_passwords_in_urls_are_not_shown(tmp_path: Path) -> None:
    store = stores.make_store(tmp_path / "store")
    (tmp_path / "tree").mkdir()
    commit(store, "web", str(tmp_path / "tree"), now=time.time_ns())
    with running(tmp_path / "store") as url:
        remote = url.replace("http://", "http://user:s3cret@")
        said = [imgstore("trust", "--first", remote, tmp_path / "node", "--json")]
        said += [
            imgstore("pull", f"{remote}/web", tmp_path / "node", word)
            for word in ("--json", "-vv", "--dry-run")
        ]
        said.append(imgstore("pull", f"{remote}/nothing", tmp_path / "other"))
        said.append(imgstore("pull", "user:s3cret@host", tmp_path / "other"))
    said.append(imgstore("pull", f"{remote}/web", tmp_path / "other"))
    assert [ended.code for ended in said] == [0, 0, 0, 0, 3, 2, 6]
    for ended in said:
        assert b"s3cret" not in ended.raw
        assert "s3cret" not in ended.err


def test_what_the_command_line_says_and_how_it_ends(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    plain, node = tmp_path / "plain", tmp_path / "node"
    assert imgstore("--store", plain, "init", "--unsigned").code == 0
    assert imgstore("--store", plain, "commit", "web", tmp_path / "tree").code == 0
    from imgstore.app import main

    # Past the helper, which lets other tests trust what they see.
    assert main(["pull", f"{plain}/web", str(node)]) == 5
    for _ in range(2):
        ended = imgstore("pull", "--insecure", f"{plain}/web", node)
        assert ended.code == 0
        assert "nobody vouches for web" in ended.err
        assert imgstore("pull", "-q", "--insecure", f"{plain}/web", node).err != ""
    assert imgstore("--store", plain, "refresh").code == 2
    assert imgstore("pull", "--insecure", "--trust-first", f"{plain}/web", node).code == 2


def test_a_ref_that_was_good_is_not_checked_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    real = check_signature

    def counted(*arguments: object) -> None:
        checked.append(arguments)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("chunkstore.trust.refs.check_signature", counted)
    memory = Path(store.local, "checked/web")

    def read() -> int:
        """How many signatures it takes to read the ref, for who comes anew."""
        checked.clear()
        with Store(store.root) as anew:
            anew.ref("web")
        return len(checked)

    assert read() == 0  # it was signed here
    memory.unlink()
    assert (read(), read()) == (1, 0)
    memory.write_bytes(b"something else")
    assert (read(), read()) == (1, 0)
    # Another root makes what was good by the old one worth another look.
    keys.rotate(store, keys.ONLINE, now=NOW + 1)
    good = raw(store)
    memory.unlink()
    assert (read(), read()) == (1, 0)
    Path(store.root, layout.ref("web")).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(Untrusted):
        read()
    Path(store.root, layout.ref("web")).write_bytes(good)
    assert read() == 0

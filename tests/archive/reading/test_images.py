"""Images of containers: layouts and `docker save` archives, put together by hand and by others."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support import stores, trees
from support.tarballs import END, block, file, folder, hardlink, symlink
from support.variety import make_variety

from chunkstore.errors import Corrupt, Usage
from chunkstore.importing import ImportReport, import_archives
from chunkstore.storage.store import Store

LOWER = (
    folder(b"etc/", mtime=5)
    + file(b"etc/hosts", b"localhost\n")
    + file(b"etc/passwd", b"root\n")
    + hardlink(b"etc/passwd-", b"etc/passwd")
    + folder(b"var/")
    + folder(b"var/cache/")
    + file(b"var/cache/a", b"a")
    + file(b"var/cache/b", b"b")
    + folder(b"opt/")
    + file(b"opt/old", b"old")
    + END
)
UPPER = (
    folder(b"etc/", mtime=6)
    + file(b"etc/.wh.passwd")
    + file(b"etc/.wh.missing")
    + file(b"etc/new", b"new\n")
    + file(b"var/cache/c", b"c")
    + file(b"var/cache/.wh..wh..opq")
    + file(b"var/cache/d", b"d")
    + file(b".wh.opt")
    + folder(b"opt/")
    + file(b"opt/new")
    + folder(b".wh..wh.plnk/")
    + file(b".wh..wh.plnk/1.2")
    + END
)
TOGETHER = {
    *("", "etc", "etc/hosts", "etc/passwd-", "etc/new", "var", "var/cache", "var/cache/c"),
    *("var/cache/d", "opt", "opt/new"),
}


@pytest.fixture
def store(place: Path) -> Store:
    return stores.make_store(place / "store")


def bring(store: Store, archive: Path | bytes, **options: Any) -> ImportReport:
    given = io.BytesIO(archive) if isinstance(archive, bytes) else str(archive)
    [report] = import_archives(store, "web", [given], now=time.time_ns(), **options)
    return report


def paths(store: Store, report: ImportReport) -> dict[str, Any]:
    root = report.version.version.root
    return {os.fsdecode(item.path): item for item in stores.entries_of(store, root)}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


Files = dict[str, bytes]


def layout(*images: list[bytes], names: list[str] | None = None) -> Files:
    """An OCI layout of images, each a list of layers as they are stored."""
    files: Files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        files[f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"] = data
        return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}

    manifests = []
    for number, layers in enumerate(images):
        document = {
            "schemaVersion": 2,
            "config": blob(b"{}", "application/vnd.oci.image.config.v1+json"),
            "layers": [blob(data, "application/vnd.oci.image.layer.v1.tar") for data in layers],
        }
        name = names[number] if names else f"v{number}"
        notes = {"org.opencontainers.image.ref.name": name}
        made = blob(json.dumps(document).encode(), "manifest", annotations=notes)
        manifests.append({**made, "platform": {"os": "linux", "architecture": f"cpu{number}"}})
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return files


def saved(*layers: bytes, diff_ids: list[str] | None = None) -> Files:
    """What `docker save` writes, of old: layers in folders, the documents behind them."""
    files: Files = {}
    names = []
    for number, data in enumerate(layers):
        folder_name = f"{number:064x}"
        files[f"{folder_name}/VERSION"] = b"1.0"
        files[f"{folder_name}/json"] = b"{}"
        names.append(f"{folder_name}/layer.tar")
        files[names[-1]] = data
    config = {"rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(x) for x in layers]}}
    data = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(data).hexdigest()}.json"
    files[config_name] = data
    image = {"Config": config_name, "RepoTags": ["web:1"], "Layers": names}
    files["manifest.json"] = json.dumps([image]).encode()
    files["repositories"] = b"{}"
    return files


def tarred(files: Files, prefix: str = "") -> bytes:
    members = [file(f"{prefix}{name}".encode(), data) for name, data in files.items()]
    return (folder(b"./") if prefix else b"") + b"".join(members) + END


def unpacked(files: Files, place: Path) -> Path:
    for name, data in files.items():
        path = place / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place / "layout"


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


FORMS: dict[str, Callable[[Path], Path | bytes]] = {
    "a directory": lambda place: unpacked(layout([LOWER, UPPER]), place),
    "a tar": lambda place: tarred(layout([LOWER, UPPER])),
    "a tar with ./": lambda place: tarred(layout([LOWER, UPPER]), "./"),
    "compressed layers": lambda place: tarred(layout([gzip.compress(LOWER), zstd(UPPER)])),
    "all compressed": lambda place: gzip.compress(tarred(layout([LOWER, gzip.compress(UPPER)]))),
    "docker save": lambda place: tarred(saved(LOWER, UPPER)),
    "docker save, compressed": lambda place: zstd(tarred(saved(LOWER, UPPER))),
    "docker save and a layout": lambda place: tarred(saved(LOWER) | layout([LOWER, UPPER])),
}


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_laid_over_each_other(store: Store, place: Path, form: str) -> None:
    report = bring(store, FORMS[form](place))
    assert report.archive.layers == 2
    found = paths(store, report)
    assert set(found) == TOGETHER
    assert found["etc"].mtime == 6 * 10**9
    assert found["etc/passwd-"].size == len(b"root\n")
    assert found["etc/passwd-"].link == b""
    assert os.listdir(os.path.join(store.local, "spool")) == []


def test_an_image_is_whole(store: Store) -> None:
    """It is laid over nothing, also behind another archive."""
    both = [io.BytesIO(file(b"other") + END), io.BytesIO(tarred(layout([LOWER])))]
    _, report = import_archives(store, "web", both, now=time.time_ns())
    assert "other" not in paths(store, report)


def test_whiteouts_in_a_first_plain_archive_are_files(store: Store) -> None:
    assert ".wh.opt" in paths(store, bring(store, UPPER))


def test_whiteouts_in_a_plain_diff_remove(store: Store) -> None:
    both = [io.BytesIO(LOWER), io.BytesIO(UPPER)]
    _, report = import_archives(store, "web", both, now=time.time_ns())
    assert set(paths(store, report)) == TOGETHER


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        (folder(b".wh.etc/"), {".wh.etc", "etc", "etc/f"}),
        (file(b".wh."), {".wh.", "etc", "etc/f"}),
        (file(b".wh..."), {".wh...", "etc", "etc/f"}),
        (file(b".wh..wh..opq"), set()),
        (file(b".wh..wh..opq") + file(b"x"), {"x"}),
        (file(b"x") + file(b".wh..wh..opq"), {"x"}),
        (file(b".wh.x") + file(b"x"), {"x", "etc", "etc/f"}),
        (file(b"x") + file(b".wh.x"), {"x", "etc", "etc/f"}),
        (file(b"etc/f/.wh.x"), {"etc", "etc/f"}),
        (file(b"no/such/.wh.x"), {"etc", "etc/f"}),
        (hardlink(b"etc/.wh.f", b".wh..wh.plnk"), {"etc"}),
    ],
)
def test_whiteouts(store: Store, upper: bytes, left: set[str]) -> None:
    lower = folder() + folder(b"etc") + file(b"etc/f") + END
    report = bring(store, tarred(layout([lower, upper + END])))
    assert set(paths(store, report)) - {""} == left


def test_what_a_whiteout_leaves_without_a_directory(store: Store) -> None:
    lower = folder() + folder(b"etc") + END
    with pytest.raises(Corrupt, match="etc/new"):
        bring(store, tarred(layout([lower, file(b"etc/new") + file(b".wh.etc") + END])))


def test_one_of_several_images(store: Store, place: Path) -> None:
    data = tarred(layout([LOWER], [UPPER], names=["one", "two"]))
    with pytest.raises(Usage, match=r"--ref .*linux/cpu0, linux/cpu1, one, two"):
        bring(store, data)
    with pytest.raises(Usage, match="--ref"):
        bring(store, data, ref="three")
    assert "etc/hosts" in paths(store, bring(store, data, ref="one"))
    assert "etc/hosts" not in paths(store, bring(store, data, ref="two"))
    assert "etc/hosts" in paths(store, bring(store, data, ref="linux/cpu0"))


def test_an_index_in_an_index(store: Store) -> None:
    files = layout([LOWER])
    for level in range(6):
        index = files.pop("index.json")
        name = hashlib.sha256(index).hexdigest()
        files[f"blobs/sha256/{name}"] = index
        files["index.json"] = json.dumps(
            {"manifests": [{"digest": f"sha256:{name}", "annotations": {}}]}
        ).encode()
        if level < 4:
            assert "etc/hosts" in paths(store, bring(store, tarred(files)))
    with pytest.raises(Corrupt, match="lead on and on"):
        bring(store, tarred(files))


def test_docker_links_layers_it_has_twice(store: Store) -> None:
    files = saved(LOWER, UPPER, LOWER)
    last = f"{2:064x}/layer.tar"
    del files[last]
    link = symlink(last.encode(), f"../{0:064x}/layer.tar".encode())
    report = bring(store, link + tarred(files))
    assert report.archive.layers == 3
    assert {"opt/old", "etc/new"} <= set(paths(store, report))


def damaged(files: Files, change: Callable[[Files], None]) -> bytes:
    change(files)
    return tarred(files)


def spoil(files: Files, part: bytes) -> None:
    for name, data in files.items():
        if part in data:
            files[name] = data.replace(part, part[:-1] + b"X")


def drop(files: Files, part: bytes) -> None:
    for name in [name for name, data in files.items() if part in data]:
        del files[name]


BAD = {
    "a spoilt layer": lambda: damaged(layout([LOWER]), lambda f: spoil(f, b"root\n")),
    "a spoilt manifest": lambda: damaged(
        layout([LOWER]), lambda f: spoil(f, b'{"schemaVersion": 2, "config')
    ),
    "a missing layer": lambda: damaged(layout([LOWER]), lambda f: drop(f, b"root\n")),
    "a missing manifest": lambda: damaged(layout([LOWER]), lambda f: drop(f, b"layers")),
    "an index that is none": lambda: damaged(
        layout([LOWER]), lambda f: f.update({"index.json": b"[]"})
    ),
    "an index without JSON": lambda: damaged(
        layout([LOWER]), lambda f: f.update({"index.json": b"{"})
    ),
    "JSON without end": lambda: damaged(
        layout([LOWER]), lambda f: f.update({"index.json": b"[" * 100_000})
    ),
    "an endless index": lambda: damaged(
        layout([LOWER]), lambda f: f.update({"index.json": b" " * 5_000_000})
    ),
    "a layer cut short": lambda: tarred(layout([gzip.compress(LOWER)[:-9]])),
    "a layer that is no tar": lambda: tarred(layout([b"x" * 1000])),
    "a digest of another kind": lambda: damaged(
        layout([LOWER]), lambda f: f.update({"index.json": b'{"manifests": [{"digest": "md5:0"}]}'})
    ),
    "a digest that leads out": lambda: damaged(
        layout([LOWER]),
        lambda f: f.update(
            {"index.json": b'{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}'}
        ),
    ),
    "a spoilt layer of docker": lambda: tarred(saved(LOWER, diff_ids=[digest(b"other")])),
    "digests that don't match": lambda: tarred(saved(LOWER, diff_ids=[digest(LOWER)] * 2)),
    "docker without images": lambda: tarred({**saved(LOWER), "manifest.json": b"{}"}),
    "docker without layers": lambda: tarred(
        {**saved(LOWER), "manifest.json": b'[{"Config": "x"}]'}
    ),
    "docker that leads out": lambda: tarred(
        {**saved(LOWER), "manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}
    ),
    "links in a circle": lambda: (
        symlink(b"%064x.json" % 1, b"%064x.json" % 1)
        + tarred({"manifest.json": b'[{"Config": "%064x.json", "Layers": []}]' % 1})
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images(store: Store, name: str) -> None:
    with pytest.raises(Corrupt, match="too long" if "endless" in name else None) as caught:
        bring(store, BAD[name]())
    assert "\n" not in str(caught.value)
    assert store.images() == []
    assert os.listdir(os.path.join(store.local, "spool")) == []


def test_a_directory_that_leads_out(store: Store, place: Path) -> None:
    """Through links on disk, too, and never into a fifo."""
    path = unpacked(layout([LOWER]), place)
    outside = place / "outside"
    shutil.move(path / "blobs", outside)
    (path / "blobs").symlink_to(outside)
    with pytest.raises(Corrupt, match="missing"):
        bring(store, path)
    (path / "blobs").unlink()
    shutil.move(outside, path / "blobs")
    assert bring(store, path).is_new
    for blob in (path / "blobs/sha256").iterdir():
        blob.unlink()
        os.mkfifo(blob)
    with pytest.raises(Corrupt, match="missing"):
        bring(store, path)


@pytest.mark.parametrize("name", ["md5:0", "sha256:0", "../../../outside:x"])
def test_a_digest_that_is_none(store: Store, place: Path, name: str) -> None:
    """Also where there is a file of that name."""
    path = unpacked(layout([LOWER]), place)
    blob = path / "blobs" / name.replace(":", "/")
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"{}")
    (path / "index.json").write_text(json.dumps({"manifests": [{"digest": name}]}))
    with pytest.raises(Corrupt, match="is no digest"):
        bring(store, path)


def test_a_tree_that_looks_like_an_image(store: Store) -> None:
    """Names that could be those of an image, and then one that could not: nothing is lost."""
    files = {
        "blobs/x": b"blob",
        "index.json": b"{}",
        "manifest.json": b"[]",
        "oci-layout": b"x" * 3_000_000,
    }
    members = folder() + b"".join(file(name.encode(), data) for name, data in files.items())
    data = members + hardlink(b"repositories", b"index.json") + file(b"usr", b"end") + END
    report = bring(store, data)
    assert report.archive.layers == 0
    found = paths(store, report)
    assert set(found) == {"", "blobs", *files, "repositories", "usr"}
    assert found["oci-layout"].size == 3_000_000
    assert found["repositories"].link == b"index.json"
    # And one of such names only, without a document that says it is one.
    report = bring(store, folder() + folder(b"blobs/") + block(b"repositories", flavour=b"6") + END)
    assert set(paths(store, report)) == {"", "blobs", "repositories"}


def call(*words: str | Path, cwd: Path) -> None:
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@trees.needs_root
@trees.needs("umoci", "skopeo")
def test_what_umoci_and_skopeo_make(store: Store, place: Path) -> None:
    """Three layers, as a layout, its tar, and as `docker save` has it; umoci unpacks them too."""
    call("umoci", "init", "--layout", "img", cwd=place)
    call("umoci", "new", "--image", "img:web", cwd=place)
    call("umoci", "unpack", "--image", "img:web", "bundle", cwd=place)
    root = place / "bundle/rootfs"
    make_variety(root)
    trees.remove_tree(root / "flags")
    for path in (root / "sparse/huge", *filter(Path.is_socket, list(root.rglob("*")))):
        path.unlink()
    call("umoci", "repack", "--refresh-bundle", "--image", "img:web", "bundle", cwd=place)
    shutil.rmtree(root / "plain")
    (root / "links/new").write_text("new")
    (root / "names/...").unlink()
    call("umoci", "repack", "--refresh-bundle", "--image", "img:web", "bundle", cwd=place)
    (root / "links/new").unlink()
    (root / "plain").mkdir()
    (root / "plain/again").write_text("again")
    call("umoci", "repack", "--image", "img:web", "bundle", cwd=place)
    call("umoci", "unpack", "--image", "img:web", "theirs", cwd=place)
    policy = "--insecure-policy"
    call("skopeo", policy, "copy", "oci:img:web", "docker-archive:saved.tar:web:1", cwd=place)
    call("skopeo", policy, "copy", "oci:img:web", "oci-archive:img.tar:web", cwd=place)
    report = bring(store, place / "img")
    assert report.archive.layers == 3
    for name in ("saved.tar", "img.tar"):
        other = bring(store, place / name)
        assert other.archive.layers == 3
        assert other.version.version.root == report.version.version.root
    stores.restore(store, "web", place / "ours")
    # umoci packs neither holes nor inode flags, and unpacks no time behind 2262.
    found = trees.differences(
        trees.facts(place / "theirs/rootfs"), trees.facts(place / "ours"), ignore=("data", "flags")
    )
    assert [line for line in found if not re.match(r"b'times/.* 8' mtime", line)] == []

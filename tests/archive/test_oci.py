"""OCI image layouts: what is in them by their digests, and what skopeo and umoci make of them."""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import stores
from support.scenarios import SCENARIOS, plain, settled, write

from chunkstore.archive import layout
from chunkstore.errors import Corrupt, LocalError, Usage
from chunkstore.export import ExportReport, oci
from chunkstore.export.oci import export_image
from chunkstore.objects.names import parse_spec

if TYPE_CHECKING:
    from support.scenarios import Edit

    from tests.archive.conftest import Lab

needs_umoci = pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


class Image:
    """Two versions in a store, to be exported as layouts."""

    def __init__(self, lab: Lab, base: Edit, edit: Edit) -> None:
        self.lab = lab
        self.tree = lab.tree("tree")
        base(self.tree)
        settled(self.tree)
        self.store = stores.make_store(lab.path / "store")
        stores.record(self.store, self.tree)
        stores.settle()
        edit(self.tree)
        stores.record(self.store, self.tree)

    def export(self, name: str, *, base: bool = True, level: int | None = None) -> Path:
        self.report: ExportReport
        version, below = (
            self.store.resolve(parse_spec(spec)).version for spec in ("web", "web:base")
        )
        path = self.lab.path / name
        self.report = export_image(
            self.store,
            version,
            str(path),
            base=below if base else None,
            name="latest",
            level=level,
        )
        return path


def document(place: Path, descriptor: dict[str, Any]) -> Any:
    return json.loads(blob(place, descriptor))


def blob(place: Path, descriptor: dict[str, Any]) -> bytes:
    """A blob, held against what names it."""
    kind, _, digest = descriptor["digest"].partition(":")
    data = (place / "blobs" / kind / digest).read_bytes()
    assert sha256(data).hexdigest() == digest
    assert len(data) == descriptor["size"]
    return data


def unpacked(lab: Lab, archive: Path) -> Path:
    into = lab.tree("unpacked")
    subprocess.run(["tar", "-xf", archive, "-C", into], check=True)
    return into


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ["layout", "layout.tar"])
@pytest.mark.parametrize("base", [False, True])
def test_everything_is_named_by_its_digest(lab: Lab, name: str, base: bool) -> None:
    image = Image(lab, *SCENARIOS["things_go"])
    place = image.export(name, base=base)
    if place.is_file():
        place = unpacked(lab, place)
    assert json.loads((place / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((place / "index.json").read_bytes())
    [found] = index["manifests"]
    assert found["digest"] == image.report.digest
    assert found["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    manifest = document(place, found)
    configuration = document(place, manifest["config"])
    layers = [blob(place, layer) for layer in manifest["layers"]]
    assert len(layers) == 1 + base
    assert configuration["rootfs"]["diff_ids"] == [
        f"sha256:{sha256(gzip.decompress(layer)).hexdigest()}" for layer in layers
    ]
    assert len(configuration["history"]) == len(layers)
    assert sum(map(len, layers)) == image.report.written
    blobs = {path.name for path in (place / "blobs/sha256").iterdir()}
    named = [found, manifest["config"], *manifest["layers"]]
    assert blobs == {each["digest"].partition(":")[2] for each in named}
    if base:
        with tarfile.open(place / "blobs/sha256" / named[-1]["digest"][7:]) as archive:
            assert "./usr/lib/.wh.x" in archive.getnames()


def test_the_machine_in_the_words_of_others() -> None:
    def platform_of(machine: str) -> dict[str, str]:
        found = json.loads(layout.config([], machine=machine, created=0))
        return {key: found[key] for key in ("os", "architecture", "variant") if key in found}

    assert platform_of("x86_64") == {"os": "linux", "architecture": "amd64"}
    assert platform_of("armv7l") == {"os": "linux", "architecture": "arm", "variant": "v7"}
    assert platform_of("riscv64") == {"os": "linux", "architecture": "riscv64"}


def test_times_to_the_nanosecond() -> None:
    for created, text in (
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ):
        assert json.loads(layout.config([], machine="x", created=created))["created"] == text


@pytest.mark.usefixtures("root")
@needs_umoci
@pytest.mark.parametrize("name", SCENARIOS)
def test_umoci_unpacks_the_tree(lab: Lab, name: str) -> None:
    image = Image(lab, *SCENARIOS[name])
    place = image.export("layout")
    bundle = lab.path / "bundle"
    subprocess.run(
        ["umoci", "--log=error", "unpack", "--image", f"{place}:latest", bundle], check=True
    )
    seen, wanted = lab.see(bundle / "rootfs"), lab.see(image.tree)
    assert list(seen) == list(wanted)
    for path, item in wanted.items():
        assert seen[path] == item, path


@pytest.mark.usefixtures("root")
@needs_umoci
@pytest.mark.parametrize("base", [False, True])
def test_umoci_restores_attributes_and_holes(lab: Lab, base: bool) -> None:
    def rich(tree: Path) -> None:
        plain(tree)
        os.setxattr(tree / "a", "user.note", b"\0\xff")
        subprocess.run(["setfacl", "-m", "u:1000:rw", tree / "etc/hosts"], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", tree / "usr/lib"], check=True)
        subprocess.run(["setcap", "cap_net_raw+ep", tree / "etc/passwd"], check=True)
        os.chown(tree / "usr/lib/x/1", 2**31, 2**31)
        with (tree / "sparse").open("wb") as file:
            file.truncate(1_000_000)
            file.seek(500_000)
            file.write(b"data")
        write(tree / ("n" * 200) / ("ü" * 100), "long name\n")

    def edit(tree: Path) -> None:
        os.setxattr(tree / "usr", "user.new", b"new")
        subprocess.run(["setfacl", "-m", "u:2000:r", tree / "etc/passwd"], check=True)
        os.utime(tree / "a", ns=(1, 1_600_000_000_123_456_789))

    image = Image(lab, rich, edit)
    bundle = lab.path / "bundle"
    place = image.export("layout", base=base)
    subprocess.run(
        ["umoci", "--log=error", "unpack", "--image", f"{place}:latest", bundle], check=True
    )
    seen, wanted = (
        # It reads holes as zeros and writes those.
        {path: item._replace(data=()) for path, item in lab.see(tree).items()}
        for tree in (bundle / "rootfs", image.tree)
    )
    assert list(seen) == list(wanted)
    for path, item in wanted.items():
        assert seen[path] == item, path


@pytest.mark.usefixtures("root")
@needs_skopeo
@pytest.mark.parametrize("name", ["layout", "layout.tar"])
def test_skopeo_takes_it(lab: Lab, name: str) -> None:
    image = Image(lab, *SCENARIOS["things_go"])
    place = image.export(name)
    kind = "oci-archive" if place.is_file() else "oci"
    policy = lab.path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    skopeo = ["skopeo", "--policy", str(policy)]
    said = subprocess.run(
        [*skopeo, "inspect", f"{kind}:{place}:latest"], check=True, capture_output=True
    )
    inspected = json.loads(said.stdout)
    assert inspected["Digest"] == image.report.digest
    assert inspected["Os"] == "linux"
    assert len(inspected["Layers"]) == 2
    expected = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    assert expected is None or inspected["Architecture"] == expected
    # Copying to another form reads and checks every blob and diff_id.
    target = f"docker-archive:{lab.path}/docker.tar:web:latest"
    subprocess.run(
        [*skopeo, "copy", f"{kind}:{place}:latest", target], check=True, capture_output=True
    )
    assert (lab.path / "docker.tar").stat().st_size > 0


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("level", [None, 6])
def test_the_same_bytes_every_time(lab: Lab, level: int | None) -> None:
    image = Image(lab, *SCENARIOS["content_changes"])
    first, second = (image.export(name, level=level) for name in ("1.tar", "2.tar"))
    assert first.read_bytes() == second.read_bytes()
    image.export("folder", level=level)
    names = [path.relative_to(lab.path / "folder") for path in (lab.path / "folder").rglob("*")]
    with tarfile.open(first) as archive:
        assert sorted(archive.getnames()) == sorted(f"./{name}" for name in names)


def test_a_layer_too_large_for_ustar() -> None:
    """One block is kept free in front of a blob, whatever its size will be."""
    file = io.BytesIO()
    archive = oci._Archive(file)
    archive.begin()
    start = file.tell() - 512
    archive.finish(layout.Blob("0" * 64, 2**34))
    found = tarfile.TarInfo.frombuf(file.getvalue()[start:][:512], "ascii", "strict")
    assert (found.name, found.size) == (f"./blobs/sha256/{'0' * 64}", 2**34)


@pytest.mark.usefixtures("root")
def test_a_directory_that_holds_something_stays(lab: Lab) -> None:
    image = Image(lab, *SCENARIOS["content_changes"])
    place = lab.tree("layout")
    image.export("layout")
    shutil.rmtree(place)
    write(place / "mine", "stays\n")
    with pytest.raises(Usage, match="is there"):
        image.export("layout")
    assert [path.name for path in place.iterdir()] == ["mine"]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ["layout", "layout.tar"])
@pytest.mark.parametrize("reason", ["damaged", "refused"])
def test_a_failed_export_leaves_no_part(lab: Lab, name: str, reason: str) -> None:
    image = Image(lab, *SCENARIOS["content_changes"])
    if reason == "damaged":
        for pack in (lab.path / "store/packs").glob("*.pack"):
            data = bytearray(pack.read_bytes())
            data[40 : len(data) // 3] = bytes(len(data) // 3 - 40)
            pack.chmod(0o644)
            pack.write_bytes(data)
    else:
        write(image.tree / "etc/.wh.x", "not to be held\n")
        stores.settle()
        stores.record(image.store, image.tree)
    before = sorted(path.name for path in lab.path.iterdir())
    with pytest.raises((Corrupt, Usage, LocalError)):
        image.export(name)
    assert sorted(path.name for path in lab.path.iterdir()) == before

"""The commands of docs/archives.md do what it says."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import stores

from chunkstore.export import export
from chunkstore.objects.names import parse_spec

if TYPE_CHECKING:
    from tests.archive.conftest import Lab

PAGE = Path(__file__).parents[2] / "docs/archives.md"


def commands() -> list[str]:
    """The indented blocks of the page."""
    blocks: list[list[str]] = [[]]
    for line in PAGE.read_text().splitlines():
        if line.startswith("    "):
            blocks[-1].append(line.strip())
        elif blocks[-1]:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


@pytest.mark.usefixtures("root")
def test_the_page(lab: Lab) -> None:
    old, new = lab.tree("old"), lab.path / "new"
    for name in ("keep", "go", "link"):
        (old / name).write_text(f"{name}\n")
    os.setxattr(old / "keep", "user.name", b"value")
    (old / "folder/below").mkdir(parents=True)
    subprocess.run(["cp", "-a", "--preserve=all", old, new], check=True)
    (new / "go").unlink()
    (new / "folder/below").rmdir()
    (new / "folder").rmdir()
    (new / "folder").symlink_to("keep")
    (new / "-new").write_text("new\n")
    before, after = lab.read(old), lab.read(new)
    archive, sidecar, _ = lab.differential(before, after)
    (lab.path / "image.tar.gz").write_bytes(gzip.compress(lab.archive(before)))
    (lab.path / "image-diff.tar.gz").write_bytes(gzip.compress(archive))
    (lab.path / "image-diff.deletions").write_bytes(sidecar)

    def run(block: str) -> None:
        script = block.replace("/srv/", f"{lab.path}/")
        subprocess.run(["sh", "-euc", script], check=True)

    full, update, other, incremental, *_ = commands()
    lab.tree("target")
    run(full)
    assert lab.see(lab.path / "target") == lab.see(old)
    run(update)
    assert lab.see(lab.path / "target") == lab.see(new)
    subprocess.run(["rm", "-rf", lab.path / "target"], check=True)
    lab.tree("target")
    run(other)
    seen = lab.see(lab.path / "target")
    del seen[b""]
    assert seen == {path: item for path, item in lab.see(old).items() if path}
    lab.tree("store")
    store = stores.make_store(lab.path / "store")
    for tree in (old, new):
        stores.record(store, tree)
    base, version = (store.resolve(parse_spec(spec)).version for spec in ("web:base", "web"))
    archive_of_diff = str(lab.path / "image-diff.tar.gz")
    export(store, version, archive_of_diff, base=base, deletions="gnu")
    subprocess.run(["rm", "-rf", lab.path / "target"], check=True)
    lab.tree("target")
    run(full)
    run(incremental)
    assert lab.see(lab.path / "target") == lab.see(new)
    # The line install scripts have used for twenty years, and zstd.
    for line in ("tar -xzSpf /srv/image.tar.gz", "zstd -q < /srv/i.tar > /srv/i.tar.zst"):
        (lab.path / "i.tar").write_bytes(lab.archive(before))
        run(f"mkdir -p /srv/plain; cd /srv/plain; {line}")
    assert (lab.path / "plain/keep").read_text() == "keep\n"
    run("mkdir /srv/zst; cd /srv/zst; tar --zstd -xpSf /srv/i.tar.zst; bsdtar -xf /srv/i.tar.zst")
    assert lab.see(lab.path / "zst").keys() == lab.see(old).keys()

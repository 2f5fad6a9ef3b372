"""`imgstore images`: the images of the store."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects.names import LATEST, Spec
from imgstore.output import Output, utc, warn
from imgstore.readable import human, local_time, short, table
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.storage.repository import Resolved
    from chunkstore.storage.store import Store


def run(options: Namespace, output: Output) -> int:
    """Print a line for each image; damage to one does not hide the others."""
    store = open_store(options, output)
    rows = [("IMAGE", "LATEST", "TIME", "ENTRIES", "SIZE")]
    documents: list[dict[str, Any]] = []
    damage: Corrupt | NotFound | None = None
    for image in store.images():
        try:
            document, latest = _look(store, image)
        except (Corrupt, NotFound) as error:
            if damage is not None:
                warn(str(damage))
            damage = error
            continue
        documents.append(document)
        if latest is not None:
            root = latest.version.root
            when = local_time(latest.version.time)
            rows.append((image, short(latest.id), when, f"{root.entries:,}", human(root.size)))
        else:
            rows.append((image, "-", "-", "-", "-"))
    if output.as_json:
        output.document({"store": store.root, "images": documents})
    elif len(rows) > 1:
        for line in table(rows, right=(3, 4)):
            output.line(line)
    elif damage is None:
        output.note(f"no images in {store.root} yet: 'imgstore commit IMAGE DIR' makes one")
    if damage is not None:
        raise damage
    return 0


def _look(store: Store, image: str) -> tuple[dict[str, Any], Resolved | None]:
    ref = store.ref(image)
    document: dict[str, Any] = {"image": image, "latest": None}
    latest = None
    if ref.find(LATEST) is not None:
        latest = store.resolve_in(ref, Spec(image, LATEST, 0))
        root = latest.version.root
        document |= {
            "latest": latest.id.hex(),
            "time": utc(latest.version.time),
            "entries": root.entries,
            "size": root.size,
        }
    document["tags"] = {tag.name: tag.version.hex() for tag in ref.tags}
    return document, latest

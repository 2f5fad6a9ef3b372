"""`imgstore init`: make a store."""

from __future__ import annotations

from argparse import Namespace

from chunkstore.objects.codec import check_method
from chunkstore.storage.store import create
from imgstore.output import Output
from imgstore.stores import store_path


def run(options: Namespace, output: Output) -> int:
    """Make an empty store where the options say."""
    compression = check_method(options.compression)
    store = create(store_path(options), compression=compression)
    settings = store.settings
    output.report(
        f"made a store in {store.root}",
        {
            "store": store.root,
            "id": settings.store_id.hex(),
            "compression": settings.compression,
            "chunker": settings.chunker._asdict(),
        },
    )
    return 0

"""`imgstore log`: the versions of an image."""

from __future__ import annotations

from argparse import Namespace
from itertools import islice

from imgstore.describe import tags_of, version_document
from imgstore.output import Output, one_line
from imgstore.readable import human, local_time, short, table
from imgstore.specs import one_version
from imgstore.stores import open_store


def run(options: Namespace, output: Output) -> int:
    """Print the version and its ancestors, newest first."""
    spec = one_version(options.spec)
    store = open_store(options, output)
    ref = store.ref(spec.image)
    first = store.resolve_in(ref, spec)
    found = list(islice(store.history(first.id), options.number))
    if output.as_json:
        output.document(
            {"image": ref.image, "versions": [version_document(ref, item) for item in found]}
        )
        return 0
    rows = [("VERSION", "TIME", "ENTRIES", "SIZE", "TAGS", "MESSAGE")]
    for version_id, version in found:
        when, root = local_time(version.time), version.root
        tags = ",".join(tags_of(ref, version_id)) or "-"
        said = one_line(version.message.partition("\n")[0])
        rows.append((short(version_id), when, f"{root.entries:,}", human(root.size), tags, said))
    for line in table(rows, right=(2, 3)):
        output.line(line)
    return 0
